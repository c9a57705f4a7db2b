"""What becomes of a window that was scored: the one place where cadence, guard and step are decided.

A `WeightMemory` has a `Schedule`, each of the rows that read side by side has one, and they do what it says.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from driftlm.core.errors import Diverged
from driftlm.memories.base import Event
from driftlm.memories.weights.learning import Learning
from driftlm.models.scoring import Forward
from driftlm.streams.windows import Window


@dataclass(frozen=True)
class Scored:
    """A window that was scored and not yet learned from.

    Attributes:
        window: itself.
        forward: the pass that scored it, and that is learned from.
        nats: (S,) those that stand.
        bad: whether they show divergence.
        finite: whether every logit is finite, so that there is a gradient.
        events: what is to be said of it.
    """

    window: Window
    forward: Forward
    nats: Tensor
    bad: bool
    finite: bool
    events: tuple[Event, ...]


class Decision(NamedTuple):
    """What becomes of a scored window.

    Attributes:
        go_back: the last good state comes back, at half the rate.
        learn: its gradient is taken.
        skip: its gradient was due and is not finite.
        step: a step follows.
    """

    go_back: bool = False
    learn: bool = False
    skip: bool = False
    step: bool = False


class Schedule:
    """When a learner learns, by its cadence, and when it goes back, by its guard.

    A window is bad when a logit is not finite, or when its mean is above ln V + 1 nats (a model that knows nothing has
    ln V) and more than 1 nat above the prior's: text that is hard for the prior too is no divergence. After the second
    in a row, the state that scored the last good window comes back for the *next* window, and the learning rate is
    halved. The state just before the two bad windows would not do: it is the one that scored the first of them badly.
    A score stands once made: nothing here changes what the stream has seen.

    Args:
        learning: cadence and guard.
        vocabulary: V.
        learns: whether there is anything to learn.

    Attributes:
        windows_read: since the prior, for the cadence.
        waiting: new tokens whose gradient waits for its step.
        bad_in_a_row: bad windows behind the last good one.
        unchanged: whether no step was taken since the last good window.

    Example:
        >>> schedule = Schedule(Learning(every=2), vocabulary=300)
        >>> [schedule.take(schedule.decide(bad=False, finite=True), bad=False, tokens=8).step for _ in range(4)]
        [False, True, False, True]
    """

    def __init__(self, learning: Learning, vocabulary: int, learns: bool = True) -> None:
        self.learning, self.learns = learning, learns
        self.guarded = learns and learning.guard == "on"
        self.accumulates = learning.cadence == "accumulate" and learning.every > 1
        self.threshold = math.log(vocabulary) + 1
        self.windows_read = self.waiting = self.bad_in_a_row = 0
        self.unchanged = True

    def due(self) -> bool:
        """Return whether the cadence wants the next window's gradient."""
        return self.learns and (
            self.learning.cadence == "accumulate" or (self.windows_read + 1) % self.learning.every == 0
        )

    def judge(self, window: Window, forward: Forward, prior_nats: Callable[[], Tensor]) -> Scored:
        """Say whether a forward pass shows divergence, and which scores stand.

        Where the logits are not finite the prior's score stands: that is decided by the logits, before the token is
        seen, and the prior's probabilities sum to one.

        Args:
            window: that was scored.
            forward: the pass.
            prior_nats: gives the prior's scores (S,); asked only where they decide.

        Raises:
            Diverged: without a guard, for a score that is not a number.
        """
        nats, bad, finite, events = forward.nats.detach(), False, True, list[Event]()
        if self.guarded:
            finite = bool(forward.finite.all())
            mean = nats.mean().item() if finite else math.inf
            bad = not finite or (not mean <= self.threshold and not mean <= prior_nats().mean().item() + 1)
            if not finite:
                nats = torch.where(forward.finite, nats, prior_nats())
                lost = int((~forward.finite).sum())
                events.append(Event("prior_used", f"{lost} tokens scored by the prior: logits were not finite"))
            if self.goes_back(bad):
                sentence = "two windows in a row diverged: back to the last good state, at half the rate"
                events.append(Event("rollback", sentence))
        elif not bool(nats.isfinite().all()):
            raise Diverged(
                f"learning diverged: the score of {window.document} at token {window.position} is not a number; "
                f"start a new run with a lower `Learning.learning_rate`, or with `Learning.guard` on."
            )
        return Scored(window, forward, nats, bad, finite, tuple(events))

    def goes_back(self, bad: bool) -> bool:
        """Return whether a window that is `bad` or not completes a pair of bad ones."""
        return self.guarded and bad and self.bad_in_a_row == 1

    def decide(self, bad: bool, finite: bool) -> Decision:
        """Say what becomes of a scored window; nothing changes yet, so that it may be asked before and after."""
        if self.goes_back(bad):
            return Decision(go_back=True)
        if not self.due():
            return Decision()
        steps = (self.windows_read + 1) % self.learning.every == 0 and (finite or self.waiting > 0)
        return Decision(learn=finite, skip=not finite, step=steps)

    def take(self, decision: Decision, bad: bool, tokens: int) -> Decision:
        """Take note of a window of `tokens` new tokens, of which this was decided."""
        self.windows_read += 1
        if decision.go_back:
            self.waiting, self.bad_in_a_row, self.unchanged = 0, 0, True
        else:
            self.bad_in_a_row = int(bad)
            self.unchanged = self.unchanged or not bad
            self.waiting += tokens if decision.learn and self.accumulates else 0
        return decision

    def stepped(self) -> bool:
        """Take note of a step; return whether the state from before it scored its window well and is to be kept."""
        keep = self.guarded and self.unchanged
        self.waiting, self.unchanged = 0, self.unchanged and not self.guarded
        return keep

    def state(self) -> dict[str, Any]:
        """Return the JSON values to go on from."""
        guard = {"bad_in_a_row": self.bad_in_a_row, "unchanged": self.unchanged}
        return {"windows_read": self.windows_read, "waiting": self.waiting} | ({"guard": guard} if self.guarded else {})

    def restore(self, values: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.windows_read, self.waiting = values["windows_read"], values["waiting"]
        if self.guarded:
            self.bad_in_a_row, self.unchanged = values["guard"]["bad_in_a_row"], values["guard"]["unchanged"]
