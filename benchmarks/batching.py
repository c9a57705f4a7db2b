"""Tokens a second of documents that are read side by side, against one after another.

    python -m benchmarks.batching [--streams 1 4 16] [--sizes 64 128 512] [--threads 2] [--rounds 5]
    python -m benchmarks.batching --device cuda --random 25 124 1000 --streams 1 4 16 64 --sizes 512

Every document is read with a LoRA (rank 8, Adam) of its own on the same frozen model, in windows of S = C tokens, no
static model beside it. A round reads a window of each document, once one after another and once in one batch, so that a
ratio compares neighbours in time; the table shows medians by the clock, and the ratio of the least processor times (of
all threads), which a busy machine disturbs less. `--random` takes Llamas of about so many million random parameters
instead of a model. `--out` also writes the rows as JSON lines.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from driftlm import Learning, WeightMemory, Window, Windows, load
from driftlm.memories.weights.rows import WeightRows
from driftlm.models.loading import LanguageModel
from driftlm.streams.windows import split

GOALS = {"cpu": "16 streams on two cores >= 1.5 x", "cuda": "streams side by side >= 8 x"}
LEARNING = Learning("lora", rank=8, rule="adam", learning_rate=1e-3, reset="document")
SHAPES = {25: (384, 8, 8_192), 124: (768, 12, 16_384), 1000: (2048, 16, 32_000)}  # width, layers, vocabulary
TOKENS = 200_000  # of a random text


def random_llama(millions: int, device: str, dtype: str) -> LanguageModel:
    """A Llama of about so many million random parameters; only its speed means anything."""
    width, layers, vocabulary = SHAPES[millions]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(getattr(torch, dtype)).eval().requires_grad_(False)
    return LanguageModel(model, None, f"random Llama of {millions} M", 0, "")


def text_of(model: LanguageModel) -> list[int]:
    """Tokens of the language reference; where there is no tokenizer, random ones.

    A model that was trained must see text: what is far worse than chance makes the guard ask the prior.
    """
    if model.tokenizer is not None:
        return model.encode("\n\n".join(topics[name] for name in sorted(topics)))[0]
    return torch.randint(0, model.vocabulary, (TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()


def windows_of(ids: list[int], grid: Windows, document: int, documents: int) -> Iterator[Window]:
    """Full windows of one of so many equal parts of a text, again and again."""
    part = len(ids) // documents
    own = ids[document * part : (document + 1) * part]
    windows = split(str(document), own, range(len(own)), grid)
    return cycle([window for window in windows if window.new == grid.stride])


def seconds_of(read: Callable[[], Any], device: str) -> tuple[float, float]:
    """Of a call and of what it left the device to do: by the clock, and by this process's processor time."""
    if device != "cpu":
        torch.cuda.synchronize()
    began, worked = time.perf_counter(), time.process_time()
    read()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began, time.process_time() - worked


def measured(made: Callable[[], LanguageModel], size: int, streams: int, rounds: int, device: str) -> dict[str, Any]:
    """A row of the table."""
    grid, model = Windows("overlapping", size, size), made()
    ids = text_of(model)
    documents = [windows_of(ids, grid, document, streams) for document in range(streams)]
    memory = WeightMemory(model, grid, LEARNING)
    rows = WeightRows(WeightMemory(made(), grid, LEARNING), streams)

    def alone(now: list[Window]) -> None:
        for window in now:
            memory.score(window).sum().item()
            memory.learn(window)

    def together(now: list[Window]) -> None:
        sum(nats.sum().item() for nats in rows.score(now))
        rows.learn()

    taken: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for turn in range(rounds + 1):
        now = [next(windows) for windows in documents]
        pair = seconds_of(lambda now=now: alone(now), device), seconds_of(lambda now=now: together(now), device)
        if turn:  # the first only warms up
            taken.append(pair)
    tokens = size * streams
    peak = torch.cuda.max_memory_allocated() / 2**30 if device != "cpu" else None
    return {
        "model": model.name,
        "parameters": sum(parameter.numel() for parameter in model.model.parameters()),
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "size": size,
        "streams": streams,
        "alone": tokens / statistics.median(one[0] for one, _ in taken),
        "together": tokens / statistics.median(other[0] for _, other in taken),
        "ratio": statistics.median(one[0] / other[0] for one, other in taken),
        "processor_ratio": min(one[1] for one, _ in taken) / min(other[1] for _, other in taken),
        "peak_gib": peak,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model")
    arguments.add_argument("--random", type=int, nargs="+", choices=sorted(SHAPES), default=[])
    arguments.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    arguments.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 512])
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)

    def bundled() -> LanguageModel:
        return load(options.model, device=options.device, dtype=options.dtype)

    makers: list[Callable[[], LanguageModel]] = [
        lambda millions=millions: random_llama(millions, options.device, options.dtype) for millions in options.random
    ] or [bundled]
    name = torch.cuda.get_device_name() if options.device != "cpu" else torch.backends.cpu.get_cpu_capability()
    facts = {"threads": options.threads, "torch": torch.__version__, "device": name}
    print(json.dumps(facts))
    found = [facts]
    names = f"{'parameters':>14}{'S = C':>8}{'streams':>9}{'tokens/s alone':>16}{'side by side':>14}"
    print(f"{names}{'ratio':>8}{'processor':>11}")
    for made in makers:
        for size in options.sizes:
            for streams in options.streams:
                row = measured(made, size, streams, options.rounds, options.device)
                found.append(row)
                print(
                    f"{row['parameters']:14,}{size:8}{streams:9}{row['alone']:16,.0f}{row['together']:14,.0f}"
                    f"{row['ratio']:8.2f}{row['processor_ratio']:11.2f}",
                    flush=True,
                )
    print(f"goal: {GOALS[options.device.partition(':')[0]]} as fast")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


if __name__ == "__main__":
    main()
