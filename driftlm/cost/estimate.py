"""What a reading will take: tokens, seconds, memory."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from driftlm.core.errors import DriftError
from driftlm.memories.base import Memory
from driftlm.streams.windows import Window


def estimate(memory: Memory, expected: int | None, window: Window, compare: bool) -> str:
    """Return estimated time and memory, before a long run starts.

    Args:
        memory: that is to read.
        expected: tokens, None where nobody knows.
        window: the first, read once more to see how long that takes.
        compare: whether the static model reads as well.
    """
    held = sum(p.numel() * p.element_size() for p in memory.language_model.model.parameters())
    try:
        readers = memory.readers()
    except DriftError:
        return f"about {held / 2**20:,.0f} MiB of weights"
    began = time.perf_counter()
    with torch.no_grad():
        readers[0].scorer.forward(window)
    forward = time.perf_counter() - began
    if memory.windows.window == "overlapping":
        forward *= memory.windows.longest / len(window.inputs)  # a document's first window is not full yet
    per_window = forward * compare
    for one in readers:
        learns = (2 / one.learning.every if one.learning.cadence == "skip" else 2) if one.parameters else 0
        per_window += forward * (1 + learns)
        moments = 2 * (one.learning.rule in ("adam", "relative"))
        # prior, gradient and the guard's copy
        held += sum(p.numel() * p.element_size() for p in one.parameters) * (3 + moments)
    text = f"about {held / 2**20:,.0f} MiB of weights and learning state"
    if expected is not None:
        seconds = expected / memory.windows.stride * per_window
        text = f"about {expected:,} tokens, {duration(seconds)}, " + text.removeprefix("about ")
    return text


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def expected_tokens(files: Sequence[str], limit: int | None, memory: Memory) -> int | None:
    """Return the number of tokens to come, from the size of the files; None where that does not tell."""
    size = 0
    for source in files:
        path = Path(source)
        found = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else []
        if not found or any(file.suffix in (".gz", ".xz") for file in found):
            return limit
        size += sum(file.stat().st_size for file in found)
        with found[0].open("rb") as file:
            sample = file.read(1 << 16).decode("utf-8", errors="ignore")
    per_token = len(sample.encode()) / max(1, len(memory.encode(sample)[0]) - 1) if sample else 1.0
    tokens = int(size / per_token)
    return tokens if limit is None else min(tokens, limit)
