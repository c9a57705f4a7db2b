"""What reading costs: what a summary says of it, operations counted, memory held."""

import ctypes
import gc
import platform
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.flop_counter import FlopCounterMode

from driftlm.core.errors import DriftError
from driftlm.cost.flops import flops_of
from driftlm.cost.traffic import bytes_of
from driftlm.memories.base import Memory
from driftlm.streams.windows import Window


def summarized(memory: Memory, log: Path, tokens: int) -> dict[str, Any]:
    """Return what a summary says of a run's cost by formula.

    Args:
        memory: as it stands behind the last window.
        log: windows.jsonl of the run, complete.
        tokens: that were scored.

    Returns:
        `flops`, `flops_steps` (those of the rule's steps among them), `bytes_moved`, and `flops_per_token` and
        `bytes_moved_per_token`. Where they are unknown they are None, and `flops_unknown` says why.
    """
    try:
        flops, moved = flops_of(memory, log), bytes_of(memory, log)
    except DriftError as error:
        names = ("flops", "flops_steps", "flops_per_token", "bytes_moved", "bytes_moved_per_token")
        return dict.fromkeys(names) | {"flops_unknown": str(error)}
    return {
        "flops": flops.total,
        "flops_steps": flops.steps,
        "flops_per_token": flops.total / tokens,
        "bytes_moved": moved,
        "bytes_moved_per_token": moved / tokens,
    }


def counted_flops(memory: Memory, windows: Iterable[Window]) -> list[int]:
    """Return floating-point operations of each window's score and learning: matrix products and attention, both passes.

    Elementwise work and the optimizer's step are left out. The model should attend in eager mode
    (`model.set_attn_implementation("eager")`): the counter sees inside that on every device.
    """
    counts = []
    for window in windows:
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added_product}) as counter:
            memory.score(window)
            memory.learn(window)
        counts.append(int(counter.get_total_flops()))
    return counts


def added_product(held: Sequence[int], left: Sequence[int], right: Sequence[int], **_: object) -> int:
    """Return the operations of `addmm_`, which a plain LoRA's product takes and the counter does not know, from its
    shapes.

    Example:
        >>> added_product((5, 3), (5, 2), (2, 3))
        60
    """
    return 2 * left[0] * left[1] * right[1]


def peak_resident_bytes() -> int:
    """Return the most memory this process has had resident, bytes.

    Example:
        >>> peak_resident_bytes() > 1_000_000
        True
    """
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count the parent's memory of the moment this process was started
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Spent:
    """Seconds and growth of memory inside a `with`: of the accelerator's where there is one, else of the process's.

    `bytes` is the peak over what was held at the beginning, None where the system does not tell.

    >>> with Spent(torch.device("cpu")) as spent:
    ...     held = torch.ones(1 << 24)
    >>> spent.bytes is None or spent.bytes > 60_000_000
    True
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0
        self.bytes: int | None = None

    def __enter__(self) -> Self:
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        if trim is not None:
            trim(0)  # or freed memory that the process keeps would be used again and count for nothing
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before: int | None = torch.cuda.memory_allocated(self.device)
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")  # the peak counts from what is resident now
                self.before = peak_resident_bytes()
            except OSError:
                self.before = None
        self.began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds = time.perf_counter() - self.began
        if self.before is not None:
            cuda = self.device.type == "cuda"
            peak = torch.cuda.max_memory_allocated(self.device) if cuda else peak_resident_bytes()
            self.bytes = max(0, peak - self.before)
