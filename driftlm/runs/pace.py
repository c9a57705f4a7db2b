"""The pace of a reading, and the number of CPU threads that it goes on with when it falls.

A run keeps what it began with as `threads`, and as `thread_changes` pairs of a window and the number from its learning
on; one that goes on from a checkpoint repeats them, so that its bits are those of one that never stopped.
"""

import math
import sys
import time
from typing import Any

import torch

from driftlm.memories.base import Memory
from driftlm.memories.loop import Step
from driftlm.models.threads import measure

FALLEN = 3.0  # times slower than the fastest window
LASTS = 1.0  # seconds of windows in a row that are so: less is a hiccup
SHARE = 1 / 20  # of a reading that measuring may take


class Pace:
    """How fast windows are scored, and whether it is time to measure the threads again.

    Example:
        >>> pace = Pace()
        >>> [pace.fell(512, seconds) for seconds in (1.0, 1.1, 3.5, 3.5)]
        [False, False, True, False]
    """

    def __init__(self) -> None:
        self.rest = 0.0  # seconds of reading before the threads may be measured again
        self.begin()

    def begin(self) -> None:
        """Begin anew: what was fast before says nothing of what is now."""
        self.best, self.slow = math.inf, 0.0  # seconds a token; seconds of slow windows in a row

    def measured(self, seconds: float) -> None:
        """Begin anew behind a measurement that took so long."""
        self.begin()
        self.rest = seconds / SHARE

    def fell(self, tokens: int, seconds: float) -> bool:
        """Take a window of tokens that was scored in so many seconds; tell whether to measure again."""
        taken = seconds / tokens
        self.best, self.rest = min(self.best, taken), self.rest - seconds
        self.slow = self.slow + seconds if taken >= FALLEN * self.best else 0.0
        if self.slow < LASTS or self.rest > 0:
            return False
        self.begin()
        return True


class Threads:
    """The threads of a run, which change where its pace falls, unless so many were asked for.

    Args:
        config: of the run.
        memory: that reads.
        most: threads to try.
    """

    def __init__(self, config: dict[str, Any], memory: Memory, most: int) -> None:
        self.config, self.memory, self.most = config, memory, most
        self.changes: list[list[int]] | None = config.get("thread_changes")  # None: none are looked for
        self.pace = Pace()

    def resume(self, window: int) -> None:
        """Take the number that the run scores a window on: what it began with, or the last change before."""
        earlier = [threads for at, threads in self.changes or () if at < window]
        torch.set_num_threads(earlier[-1] if earlier else self.config["threads"])

    def behind(self, step: Step) -> bool:
        """Take the number that a window is learned from on; tell whether the run's configuration has changed by it."""
        at = step.before.windows
        if self.changes is None:
            return False
        if self.changes and at <= self.changes[-1][0]:  # known from before the run was stopped
            self.resume(at + 1)
            return False
        if not self.fell(step):
            return False
        began, now = time.perf_counter(), torch.get_num_threads()
        found = measure(self.memory.language_model, self.most)
        self.pace.measured(time.perf_counter() - began)
        if found is None:
            return False
        print(f"driftlm: reading fell to a third of its pace; {found}", file=sys.stderr)
        if found.threads != now:
            self.changes.append([at, found.threads])
        return found.threads != now

    def fell(self, step: Step) -> bool:
        """Tell whether the pace fell; a window that is cut short by its document's end says nothing of it."""
        window, grid = step.window, self.memory.windows
        fed = window.new if grid.window == "cached" else len(window.inputs)
        return window.new == grid.stride and self.pace.fell(fed, step.totals.seconds - step.before.seconds)
