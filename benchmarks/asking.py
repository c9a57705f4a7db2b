"""What a question costs on a large bank: with kept keys and values, with nothing kept, and made anew every time.

    python -m benchmarks.asking [--threads 2] [--rounds 9] [--documents 1665] [--mapped 100000] [--file FILE]

A bank of 12 x 768 numbers a document and four blocks of 8 heads of 96, one question. Every round does everything once,
so that a ratio compares neighbours in time; the table shows medians. "Reading" sums the kept keys and values: nothing
that uses them can be faster. Memory is that of a process of its own over a bank mapped from a file, beyond the pages
of the file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from driftlm.memories.bank.aggregate import Aggregator, AggregatorSettings

VECTORS, WIDTH = 12, 768
SETTINGS = AggregatorSettings(width=WIDTH, vectors=VECTORS, blocks=4, heads=8, head_width=96)
SLOWEST, FASTER, MEBIBYTES = 2.0, 15.0, 64  # goals: x reading, x projecting anew, beyond the mapped bank


def ways(documents: int) -> dict[str, Callable[[], object]]:
    """Every row of the table; all but the first answer the same question."""
    aggregator = Aggregator(SETTINGS)
    vectors, question = torch.randn(documents, VECTORS, WIDTH), torch.randn(1, VECTORS, WIDTH)
    keys, timestamps = aggregator.document_key(vectors), torch.arange(documents, dtype=torch.float64)
    projected = aggregator.project(vectors)

    def scores() -> torch.Tensor:
        return aggregator.document_scores(aggregator.query_key(question), keys, timestamps)

    return {
        "reading": lambda: [rows.sum() for rows in (*projected.keys, *projected.values)],
        "cached": lambda: aggregator.aggregate_cached(question, projected, scores(), want_shares=False),
        "cached, with shares": lambda: aggregator.aggregate_cached(question, projected, scores()),
        "nothing kept": lambda: aggregator.aggregate_chunked(question, vectors, scores(), want_shares=False),
        "projected anew": lambda: aggregator(question, vectors, scores(), want_shares=False),
    }


@torch.no_grad()
def timed(rows: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, by row; the first round only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for round_number in range(rounds + 1):
        for name, run in rows.items():
            began = time.perf_counter()
            run()
            if round_number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def written(documents: int, folder: Path) -> Path:
    """A bank in half precision, on disk: 1.8 GB at 100,000 documents."""
    path = folder / "bank.bin"
    drawn = np.random.default_rng(0).standard_normal((1000, VECTORS, WIDTH), dtype=np.float32).astype(np.float16)
    with path.open("wb") as file:
        for start in range(0, documents, len(drawn)):
            file.write(drawn[: documents - start].tobytes())
    return path


def anonymous_bytes() -> int:
    """Resident memory that is no file's (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


@torch.no_grad()
def asked_of_a_file(path: Path, documents: int, *, want_shares: bool) -> dict[str, float]:
    """Seconds of a question and MiB it held at most, sampled every 2 ms; a smaller question warms up."""
    aggregator = Aggregator(SETTINGS)
    size = documents * VECTORS * WIDTH
    bank = torch.from_file(str(path), shared=False, size=size, dtype=torch.float16).view(documents, VECTORS, WIDTH)
    question, scores = torch.randn(1, VECTORS, WIDTH), torch.zeros(1, documents)
    aggregator.aggregate_chunked(question, bank[:100], scores[:, :100], want_shares=want_shares)
    held, most, done = anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    aggregator.aggregate_chunked(question, bank, scores, want_shares=want_shares)
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    return {"seconds": seconds, "mebibytes": (most - held) / 2**20}


def in_a_process(path: Path, documents: int, threads: int, *, want_shares: bool) -> dict[str, float]:
    """`asked_of_a_file` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.asking", "--file", str(path), "--mapped", str(documents)]
    command += ["--threads", str(threads)] + (["--shares"] if want_shares else [])
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--documents", type=int, default=1665)
    arguments.add_argument("--mapped", type=int, default=100_000)
    arguments.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--shares", action="store_true", help=argparse.SUPPRESS)
    # Known ones alone: `python -m benchmarks` gives every benchmark the same arguments.
    options, _ = arguments.parse_known_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.file:
        print(json.dumps(asked_of_a_file(options.file, options.mapped, want_shares=options.shares)))
        return

    print(f"\nasking one question of {options.documents} documents, {options.threads} threads")
    print(f"{'':24}{'ms':>10}{'x reading':>12}{'projected anew / it':>22}")
    with torch.no_grad():
        seconds = timed(ways(options.documents), options.rounds)
    for name, taken in seconds.items():
        reading = median(a / b for a, b in zip(taken, seconds["reading"], strict=True))
        anew = median(b / a for a, b in zip(taken, seconds["projected anew"], strict=True))
        print(f"{name:24}{1e3 * median(taken):10.1f}{reading:12.2f}{anew:22.1f}")
    print(f"goals for cached: <= {SLOWEST} x reading, projected anew >= {FASTER} x slower")

    with tempfile.TemporaryDirectory() as folder:
        path = written(options.mapped, Path(folder))
        print(f"\nasking {options.mapped} documents mapped from {path.stat().st_size / 1e9:.1f} GB of half precision")
        for want_shares in (False, True):
            found = in_a_process(path, options.mapped, options.threads, want_shares=want_shares)
            label = "with shares" if want_shares else "without shares"
            print(f"{label:24}{found['seconds']:8.1f} s{found['mebibytes']:8.0f} MiB (goal <= {MEBIBYTES})")


if __name__ == "__main__":
    main()
