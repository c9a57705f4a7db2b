"""What reading costs: operations counted, memory held."""

import platform
import resource
from collections.abc import Iterable
from pathlib import Path

from torch.utils.flop_counter import FlopCounterMode

from driftlm.memory import Memory
from driftlm.streams.windows import Window


def counted_flops(memory: Memory, windows: Iterable[Window]) -> list[int]:
    """Floating-point operations of each window's score and learning: matrix products and attention, both passes.

    Elementwise work and the optimizer's step are left out. The model should attend in eager mode
    (`model.set_attn_implementation("eager")`): the counter sees inside that on every device.
    """
    counts = []
    for window in windows:
        with FlopCounterMode(display=False) as counter:
            memory.score(window)
            memory.learn(window)
        counts.append(int(counter.get_total_flops()))
    return counts


def peak_resident_bytes() -> int:
    """Most memory this process has had resident, bytes.

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
