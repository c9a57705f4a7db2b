"""What learning costs against static reading where the vocabulary is large: 262,144 tokens, as of Gemma 3 270M.

    python -m benchmarks.vocabularies [--model DIR] [--layers 18] [--dtype bfloat16] [--window cached] [--rounds 6]

Without a model it is one of Gemma's shape with random weights. Every round reads the same window once statically and
once in a mode; the table shows the median over rounds of the ratio of their CPU seconds. Peak memory is that of a
process of its own at S = C = 512, and what it has above its weights and its learning state, libraries included. All
weights with Adam take 10 GiB.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from benchmarks import reading
from driftlm import Learning, WeightMemory, Window, Windows, load
from driftlm.cost.summary import peak_resident_bytes
from driftlm.memories.weights.dynamic import learner
from driftlm.models.loading import LanguageModel
from driftlm.streams.windows import split

VOCABULARY = 262_144
MODES = {
    "static": Learning("none"),
    "all weights, Adam": Learning(learning_rate=1e-5),
    "all weights, SGD": Learning(rule="sgd", learning_rate=1e-4),
    "LoRA r=8, Adam": Learning("lora", learning_rate=1e-3),
}
GOALS = {"all weights, Adam": 3.2, "all weights, SGD": 3.2, "LoRA r=8, Adam": 2.6}


def model_of(options: Any) -> LanguageModel:
    """The folder that was named, or random weights of Gemma's shape."""
    if options.model:
        return load(options.model, dtype=options.dtype)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=640, intermediate_size=2048, num_hidden_layers=options.layers,
        num_attention_heads=4, num_key_value_heads=1, head_dim=256, sliding_window=512,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(config).to(getattr(torch, options.dtype)).eval().requires_grad_(False)
    return LanguageModel(model, None, "random", 2, "")


def windows_of(model: LanguageModel, grid: Windows) -> Iterator[Window]:
    """The grid over the language reference; over tokens by chance, where there is no tokenizer."""
    if model.tokenizer is not None:
        yield from reading.windows_of(model, grid)
    draw = random.Random(0)
    ids = [draw.randrange(VOCABULARY) for _ in range(grid.context + 64 * grid.stride)]
    yield from split("chance", ids, range(1, len(ids)), grid)


def memory_of(model: LanguageModel, grid: Windows, learning: Learning) -> WeightMemory:
    """A reader that shares with others all that it does not change."""
    return WeightMemory(model, grid, learning) if learning.learn == "none" else learner(model, grid, learning, None)


def seconds_of(options: Any, names: list[str]) -> dict[str, list[float]]:
    """CPU seconds of every round by mode; the first two rounds only warm up."""
    model, grid = model_of(options), Windows(options.window, 512, 256)
    memories = {name: memory_of(model, grid, MODES[name]) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number, window in enumerate(islice(windows_of(model, grid), options.rounds + 2)):
        for name, memory in memories.items():
            began = time.process_time()
            memory.score(window)
            memory.learn(window)
            if number >= 2:
                seconds[name].append(time.process_time() - began)
    return seconds


def peak_of(options: Any, name: str) -> tuple[float, float]:
    """MiB at the peak of four windows, and how many of them are no weights and no learning state."""
    command = [sys.executable, "-m", "benchmarks.vocabularies", "--peak", name, "--layers", str(options.layers)]
    command += ["--dtype", options.dtype, "--threads", str(options.threads)]
    command += ["--model", options.model] if options.model else []
    peak, accounted = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return peak / 2**20, (peak - accounted) / 2**20


def peak_of_one(options: Any) -> tuple[int, int]:
    """What `peak_of` runs: bytes at the peak, and bytes of weights, prior, gradients, moments and the guard's copy."""
    grid = Windows("overlapping", 512, 512)
    model = model_of(options)
    memory = WeightMemory(model, grid, MODES[options.peak])
    for window in islice(windows_of(model, grid), 4):
        memory.score(window)
        memory.learn(window)
    held = [*memory.language_model.model.parameters(), *memory.parameters, *memory.prior.values]  # gradients as learned
    held += [*memory.last_good.copies.values(), *(one for several in memory.rule_state.values() for one in several)]
    return peak_resident_bytes(), sum(one.numel() * one.element_size() for one in held)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model")
    arguments.add_argument("--layers", type=int, default=18)
    arguments.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments.add_argument("--window", choices=("overlapping", "cached"), default="cached")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=6)
    arguments.add_argument("--modes", nargs="+", choices=tuple(MODES))
    arguments.add_argument("--peak", choices=tuple(MODES), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    if options.peak:
        print(json.dumps(peak_of_one(options)))
        return

    print(f"V = {VOCABULARY:,}, {options.window} windows, C = 512, S = 256, {options.dtype}, {options.threads} threads")
    print(f"{'':20}{'CPU s':>8}{'x static':>10}{'goal':>6}")
    for name in options.modes or MODES:
        # two at a time: the state of several would not fit
        seconds = seconds_of(options, list(dict.fromkeys(("static", name))))
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["static"], strict=True))
        print(f"{name:20}{statistics.median(seconds[name]):8.2f}{ratio:10.2f}{GOALS.get(name, ''):>6}", flush=True)
    print(f"{'S = C = 512':20}{'MiB peak':>10}{'MiB above':>11}")
    for name in options.modes or MODES:
        peak, above = peak_of(options, name)
        print(f"{name:20}{peak:10.0f}{above:11.0f}", flush=True)


if __name__ == "__main__":
    main()
