"""What one window takes, measured."""

import time
from statistics import median

from driftlm.memories.base import Memory
from driftlm.streams.windows import split

MEASURED = 3  # windows, of which the first warms up
TEXT = "It was a dark and stormy night. "


def window_seconds(memory: Memory, compare: bool) -> float:
    """Return the seconds of one full window, scored and learned from: the median of three.

    Args:
        memory: as new; it has learned from some words afterwards, so that it is nobody's.
        compare: whether the static model scores it as well.

    Example:
        >>> from driftlm import Learning, WeightMemory, Windows
        >>> 0 < window_seconds(WeightMemory(windows=Windows("cached", 32, 16), learning=Learning("none")), False) < 60
        True
    """
    windows, baseline = memory.windows, memory.static() if compare else None
    first = -(-windows.context // windows.stride)  # the first whose context is full
    length = 1 + (first + MEASURED) * windows.stride
    bos, *once = memory.encode(TEXT)[0]
    ids = [bos, *(once * (1 + length // len(once)))][:length]
    seconds = []
    for window in split("measured", ids, range(1, length), windows, first):
        began = time.perf_counter()
        for one in (memory, baseline):
            if one is not None:
                one.score(window)
                one.learn(window)
        seconds.append(time.perf_counter() - began)
    return median(seconds)
