"""Which number of CPU threads a model is fastest on, as busy as the machine is now.

Threads of one pass wait for each other behind every product, and they wait by spinning: on a machine whose cores are
taken by others, two can be twenty times as slow as one. Scores depend on the number in their last bits, so that whoever
reads keeps it, and what it was measured to be is written down.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from driftlm.models.loading import LanguageModel

OPERATIONS = 1e10  # floating point operations of a pass that is timed: 0.2 s on one core of a few years ago
FEWEST, MOST = 16, 256  # tokens of it
SECONDS = 0.05  # of passes on each number of threads, one pass at least
NEAR = 1.05  # fewer threads are taken where they take so much longer at most
FAR = 2.0  # a pass that takes so many times the best is left
STARTING = 0.1  # seconds more that the first pass on so many threads may take, which makes them


@dataclass(frozen=True)
class Measured:
    """What was found: the number of threads to take, and by number the mean seconds of a pass, inf where it was left.

    Example:
        >>> str(Measured(1, {1: 0.21, 2: math.inf}))
        '1 thread reads fastest (seconds a pass: 1: 0.210, 2: over 0.420)'
    """

    threads: int
    seconds: dict[int, float]

    def __str__(self) -> str:
        over = f"over {FAR * min(self.seconds.values()):.3f}"
        found = ", ".join(f"{n}: {over if math.isinf(s) else format(s, '.3f')}" for n, s in self.seconds.items())
        return f"{named(self.threads)} {'reads' if self.threads == 1 else 'read'} fastest (seconds a pass: {found})"


def named(threads: int) -> str:
    """A number of threads in words: `1 thread`, `2 threads`."""
    return f"{threads} thread{'s' if threads > 1 else ''}"


def measure(language_model: LanguageModel, most: int) -> Measured | None:
    """Take the number of threads, of 1, half of the most and the most, on which the model is fastest.

    One pass over a few tokens stands for a step. It leaves no trace but the number: no weight, no random state and no
    memory changes. On the GPU, and where there is but one thread to take, nothing is measured.
    """
    if most == 1 or language_model.device.type != "cpu":
        return None
    found = fastest(Pass(language_model).timed, most)
    torch.set_num_threads(found.threads)
    return found


def fastest(timed: Callable[[int, float], float], most: int) -> Measured:
    """Return the number of threads that takes least time.

    Args:
        timed: seconds of a pass on so many threads; inf for one that was left because it took longer than so many.
        most: threads to try.

    Example:
        >>> fastest(lambda threads, limit: 1 / threads, 8)
        Measured(threads=8, seconds={1: 1.0, 4: 0.25, 8: 0.125})
    """
    seconds, best = dict[int, float](), math.inf
    for threads in sorted({1, max(1, most // 2), most}):
        first, spent = timed(threads, FAR * best + STARTING), list[float]()
        while not math.isinf(first) and sum(spent) < SECONDS:
            spent.append(timed(threads, FAR * best))
        seconds[threads] = sum(spent) / len(spent) if spent else math.inf
        best = min(best, seconds[threads])
    return Measured(next(n for n, mean in seconds.items() if mean <= NEAR * best), seconds)


@contextmanager
def on_threads(threads: int) -> Iterator[None]:
    """Compute on so many threads, and then on as many as before; 0 leaves them."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TooLong(Exception):
    """A pass took longer than it may."""


class Pass:
    """A forward pass over tokens that stand for a window: fewer of them the larger the model, so that it is short."""

    def __init__(self, language_model: LanguageModel) -> None:
        self.model = language_model.model
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        tokens = min(max(int(OPERATIONS / (2 * parameters)), FEWEST), MOST, language_model.positions or MOST)
        self.ids = torch.arange(tokens, device=language_model.device)[None] % language_model.vocabulary

    @torch.no_grad()
    def timed(self, threads: int, limit: float) -> float:
        """Seconds of a pass on so many threads; inf for one that is left, at the next layer, after `limit` seconds."""
        torch.set_num_threads(threads)
        began = time.perf_counter()

        def leave(*_: object) -> None:
            if time.perf_counter() - began > limit:
                raise TooLong

        hooks = [module.register_forward_pre_hook(leave) for module in self.model.modules() if of_layers(module)]
        try:
            self.model(input_ids=self.ids, use_cache=False)
        except TooLong:
            return math.inf
        finally:
            for hook in hooks:
                hook.remove()
        return time.perf_counter() - began


def of_layers(module: nn.Module) -> bool:
    """Tell whether a module computes itself, by weights of its own."""
    return next(module.children(), None) is None
