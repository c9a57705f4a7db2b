"""What score-and-learn costs against static reading, beside a hand-written HuggingFace loop.

    python -m benchmarks [--model DIR] [--threads 2] [--rounds 30]

Every round reads the same window once in every mode, so that a ratio compares neighbours in time; the table shows the
median ratio. Peak memory is that of a process of its own, above what it held before the first window.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import torch.nn.functional as F

from driftlm import Learning, WeightMemory, Window, Windows, load
from driftlm.cost.summary import counted_flops, peak_resident_bytes
from driftlm.streams.windows import split

RATE = 1e-3
SIZES = (512, 128, 64)
GOALS = {"all weights, SGD": (3.1, 1.25), "LoRA r=8, SGD": (2.6, 1.3)}

Reader = Callable[[Window], float]


def windows_of(language_model: Any, grid: Windows) -> Iterator[Window]:
    """The grid over the language reference, again and again."""
    ids, byte_ends = language_model.encode("\n\n".join(topics[name] for name in sorted(topics)))
    while True:
        yield from list(split("topics", ids, byte_ends, grid))[:-1]


def ours(model: str | None, grid: Windows, learning: Learning) -> Reader:
    """driftlm's own score, then learn."""
    memory = WeightMemory(load(model), grid, learning)

    def one(window: Window) -> float:
        nats = memory.score(window).sum().item()
        memory.learn(window)
        return nats

    return one


def by_hand(model: str | None, lora: bool, *, scores_apart: bool) -> Reader:
    """What one writes with transformers, peft and torch.optim: score in one pass, train in another.

    With `scores_apart` false it is the bare training step, whose loss is the score.
    """
    network = load(model).model
    if lora:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        config = LoraConfig(r=8, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        network = get_peft_model(network, config).eval()
    else:
        network.requires_grad_(True)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=RATE)

    def one(window: Window) -> float:
        ids, targets = torch.tensor([window.inputs]), torch.tensor(window.targets)
        nats = 0.0
        if scores_apart:
            with torch.no_grad():
                logits = network(input_ids=ids, use_cache=False).logits[0, -window.new :]
                nats = F.cross_entropy(logits, targets, reduction="sum").item()
        logits = network(input_ids=ids, use_cache=False).logits[0, -window.new :]
        loss = F.cross_entropy(logits, targets)
        nats = nats if scores_apart else loss.item() * window.new
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return nats

    return one


def modes(model: str | None, size: int) -> dict[str, Callable[[], Reader]]:
    """Every row of the table at S = C = `size`, static first."""
    grid = Windows("overlapping", size, size)
    return {
        "static": lambda: ours(model, grid, Learning(learn="none")),
        "all weights, SGD": lambda: ours(model, grid, Learning(rule="sgd", learning_rate=RATE)),
        "LoRA r=8, SGD": lambda: ours(model, grid, Learning(learn="lora", rule="sgd", learning_rate=RATE)),
        "all weights, a bare step": lambda: by_hand(model, False, scores_apart=False),
        "LoRA r=8, a bare step": lambda: by_hand(model, True, scores_apart=False),
        "all weights, by hand": lambda: by_hand(model, False, scores_apart=True),
        "LoRA r=8, by hand": lambda: by_hand(model, True, scores_apart=True),
    }


def timed(readers: dict[str, Reader], windows: dict[str, Iterator[Window]], rounds: int) -> tuple[dict, dict]:
    """Seconds of every round and summed nats, by mode; the first two rounds only warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    nats = dict.fromkeys(readers, 0.0)
    for round_number in range(rounds + 2):
        for name, reader in readers.items():
            window = next(windows[name])
            began = time.perf_counter()
            nats[name] += reader(window)
            if round_number >= 2:
                seconds[name].append(time.perf_counter() - began)
    return seconds, nats


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Median over rounds of one mode's time against another's."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


def peak_mebibytes(model: str | None, size: int, name: str, threads: int) -> float:
    """Growth of resident memory over four windows, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.reading", "--threads", str(threads)]
    command += ["--memory", name, "--size", str(size)] + (["--model", model] if model else [])
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory_of_one(model: str | None, size: int, name: str) -> float:
    """What `peak_mebibytes` runs."""
    windows = list(islice(windows_of(load(model), Windows("overlapping", size, size)), 4))
    reader = modes(model, size)[name]()
    forget_peak()
    held = peak_resident_bytes()
    for window in windows:
        reader(window)
    return (peak_resident_bytes() - held) / 2**20


def forget_peak() -> None:
    """Let the peak start again from what is resident now (Linux; elsewhere the growth shown is a lower bound)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def flops(model: str | None, grid: Windows, learning: Learning) -> int:
    """Counted operations of one window whose context is full."""
    language_model = load(model)
    language_model.model.set_attn_implementation("eager")
    memory = WeightMemory(language_model, grid, learning)
    return counted_flops(memory, islice(windows_of(language_model, grid), 4))[-1]


def cached_against_overlapping(model: str | None, size: int, rounds: int) -> tuple[float, float]:
    """How much faster cached windows are at C = 2S with all weights learning: by the clock, and by counted FLOPs."""
    grids = {kind: Windows(kind, 2 * size, size) for kind in ("overlapping", "cached")}  # type: ignore[arg-type]
    learning = Learning(rule="sgd", learning_rate=RATE)
    readers = {kind: ours(model, grid, learning) for kind, grid in grids.items()}
    language_model = load(model)
    seconds, _ = timed(readers, {kind: windows_of(language_model, grid) for kind, grid in grids.items()}, rounds)
    counted = {kind: flops(model, grid, learning) for kind, grid in grids.items()}
    return ratio(seconds, "overlapping", "cached"), counted["overlapping"] / counted["cached"]


def help_seconds() -> float:
    """Median wall time of `driftlm --help`."""
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "driftlm", "--help"], check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=30)
    arguments.add_argument("--memory", help=argparse.SUPPRESS)
    arguments.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    if options.memory:
        print(memory_of_one(options.model, options.size, options.memory))
        return

    facts = {"threads": options.threads, "torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    print(json.dumps(facts))
    for size in SIZES:
        readers = {name: make() for name, make in modes(options.model, size).items()}
        language_model = load(options.model)
        grid = Windows("overlapping", size, size)
        seconds, nats = timed(readers, {name: windows_of(language_model, grid) for name in readers}, options.rounds)
        print(f"\nS = C = {size}: static reading takes {1e3 * statistics.median(seconds['static']):.1f} ms a window")
        print(f"{'':28}{'x static':>10}{'MiB peak':>10}")
        for name in readers:
            peak = peak_mebibytes(options.model, size, name, options.threads)
            print(f"{name:28}{ratio(seconds, name, 'static'):10.2f}{peak:10.0f}")
        for name, (goal, slower) in GOALS.items():
            hand = name.replace("SGD", "by hand")
            apart = abs(nats[name] - nats[hand]) / nats[hand]
            print(f"by hand / {name}: {ratio(seconds, hand, name):.2f} (totals differ by {apart:.1e} of them)", end="")
            print(f"; goals at S = 512: <= {goal} x static, by hand >= {slower} x slower")
        clock, counted = cached_against_overlapping(options.model, size, options.rounds)
        print(
            f"cached against overlapping at C = {2 * size}: {clock:.2f} x faster, counted FLOPs {counted:.2f} x", end=""
        )
        print(f"; {clock / counted:.2f} of the count (goal >= 0.9)")
    print(f"\ndriftlm --help: {help_seconds():.2f} s (goal < 0.5)")


if __name__ == "__main__":
    main()
