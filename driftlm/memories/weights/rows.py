"""Several memories in weights that read side by side: one batched forward and backward pass, a LoRA for each row.

A row scores and learns exactly as `WeightMemory` does alone (to 1e-5 nats per token; batched products round otherwise):
its cadence, its guard, its cache and its rule are its own, and no operation mixes two rows. What is shared is the work
over the frozen weights, which are read once for all rows.

Letters: R rows, P learned numbers of a row, S new tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.base import Counts, Event
from driftlm.memories.weights.dynamic import Scored, WeightMemory, judged
from driftlm.memories.weights.guard import Guard
from driftlm.memories.weights.row_rules import row_rule
from driftlm.models.cache import KeyValues
from driftlm.models.row_lora import RowLora
from driftlm.models.row_scoring import score_rows
from driftlm.models.scoring import NOTHING, Forward
from driftlm.streams.windows import Window


@dataclass
class Row:
    """What a row has besides its numbers.

    Attributes:
        rate: η, halved when the guard goes back.
        guard: decides when; the tensors of good states are those of all rows together.
        cache: keys and values, where windows are cached.
        counts: of what it did since its start.
        windows_read: since its start, for the cadence.
        waiting: new tokens whose gradient waits for its step.
    """

    rate: float
    guard: Guard | None
    cache: KeyValues | None
    counts: Counts = field(default_factory=Counts)
    windows_read: int = 0
    waiting: int = 0


class RowInGuard:
    """A row as its guard sees it: a rule whose state is all of the row's numbers."""

    def __init__(self, rows: "WeightRows", row: Row) -> None:
        self.rows, self.row = rows, row

    @property
    def learning_rate(self) -> float:
        return self.row.rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self.row.rate = rate

    def step(self) -> list[Tensor]:
        """Taken for all rows together."""
        return []

    def state(self) -> dict[str, Tensor]:
        """Kept for all rows together."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """The last good numbers come back."""
        self.rows.bring_back(self.row)


class WeightRows:
    """R copies of a memory in weights, each at its own place in the stream.

    Args:
        memory: what every row is a copy of, a plain LoRA by SGD or Adam; it stays at the prior itself.
        rows: R.

    Attributes:
        events: per row, what is to be said of its latest scored window.

    Raises:
        DriftError: for what cannot learn side by side.

    Example (needs nothing but the installed package):
        >>> from driftlm import Learning, WeightMemory, Windows
        >>> grid = Windows("cached", 64, 32)
        >>> rows = WeightRows(WeightMemory(windows=grid, learning=Learning("lora", reset="document")), 2)
        >>> rows.lora.values.shape
        torch.Size([2, 215040])
    """

    def __init__(self, memory: WeightMemory, rows: int) -> None:
        if memory.salience is not None:
            raise DriftError(
                f"`Learning.salience` was {memory.learning.salience}, but documents read side by side are learned from "
                f"all "
                f"tokens alike; give `Learning.salience` uniform, or `Stream.batch` 1."
            )
        self.memory, self.learning, self.windows = memory, memory.learning, memory.windows
        self.lora = RowLora(memory.trainable, rows)
        self.prior = self.lora.values[0].clone()
        self.rule = row_rule(self.learning, self.lora.values)
        self.waiting = torch.zeros_like(self.lora.values) if memory.accumulates else None
        self.good = {name: tensor.clone() for name, tensor in self.numbers().items() if self.learning.guard == "on"}
        self.rows = [self.fresh() for _ in range(rows)]
        self.scored: list[Scored] = []
        self.events: list[tuple[Event, ...]] = [()] * rows

    def numbers(self) -> dict[str, Tensor]:
        """By name all that a step changes, (R, ...) each."""
        return {"values": self.lora.values} | self.rule.state

    def fresh(self) -> Row:
        """A row that has read nothing."""
        row = Row(self.learning.rate(), None, self.memory.empty_cache())
        if self.learning.guard == "on":
            row.guard = Guard([], RowInGuard(self, row), [], self.memory.language_model.vocabulary)
        return row

    # ---- score, then learn ------------------------------------------------------------------------------------------

    def score(self, windows: Sequence[Window]) -> list[Tensor]:
        """Nats of each new token of each row's window, (S,) float32 on the CPU, by the row's own numbers."""
        rotary, caches = self.memory.rotary, None
        if rotary:
            caches = [rotary.before(row.cache, one) for row, one in zip(self.rows, windows, strict=True) if row.cache]
        with torch.set_grad_enabled(any(self.learns_next(row) for row in self.rows)):
            keep = self.windows.context - self.windows.stride
            forwards = score_rows(self.memory.scorer, windows, self.lora.in_force(), caches, keep)
        told = zip(together([one.nats for one in forwards]), together([one.finite for one in forwards]), strict=True)
        self.scored, self.events = [], []
        for row, window, forward, (nats, finite) in zip(self.rows, windows, forwards, told, strict=True):
            stands, bad, events = judged(row.guard, window, Forward(nats, finite), self.prior_nats(window))
            self.scored.append(Scored(window, Forward(forward.nats, finite, forward.cache), stands, bad))
            self.events.append(events)
        return [one.nats for one in self.scored]

    def prior_nats(self, window: Window) -> Callable[[], Tensor]:
        """What the prior says of a window, when it is asked."""
        return lambda: self.memory.prior_nats(window, NOTHING).cpu()

    def learn(self) -> None:
        """Advance the caches, and take the steps that each row's cadence asks for, by one backward pass."""
        scored, self.scored = self.scored, []
        read = list(zip(self.rows, scored, strict=True))
        learns = [self.learns_next(row) for row in self.rows]
        finite = [not one.bad or bool(one.forward.finite.all()) for one in scored]
        goes_back = [row.guard is not None and row.guard.would_go_back(one.bad) for row, one in read]
        # Before any row goes back: that writes where the graph of all rows still has to be read.
        learned = [n for n in range(len(read)) if learns[n] and finite[n] and not goes_back[n]]
        gradients = self.gradients_of(scored, learned)
        stepping = []
        for n, (row, one) in enumerate(read):
            row.windows_read += 1
            row.counts.prior_used += int((~one.forward.finite).sum()) if one.bad else 0
            if one.forward.cache is not None:
                row.cache = one.forward.cache
            if row.guard is not None and row.guard.saw(one.bad):
                row.cache = self.memory.empty_cache()
                self.drop_gradients(n)
                row.counts.rollbacks += 1
            elif learns[n]:
                row.counts.skipped_updates += not finite[n]
                if row.windows_read % self.learning.every == 0 and (finite[n] or row.waiting):
                    stepping.append(n)
        self.step(stepping, gradients)

    def finish(self, ended: Sequence[int]) -> list[Counts]:
        """The documents of some rows have ended: step leftovers, drop caches, reset where that was asked for.

        Returns:
            What each of these rows had done until then, since its start.
        """
        self.step([n for n in ended if self.rows[n].waiting], self.waiting)
        counts = [self.rows[n].counts for n in ended]
        for n in ended:
            self.rows[n].cache = self.memory.empty_cache()
            if self.learning.reset == "document":
                self.reset(n)
        return counts

    def learns_next(self, row: Row) -> bool:
        """Whether the gradient of a row's next window is wanted."""
        return self.learning.cadence == "accumulate" or (row.windows_read + 1) % self.learning.every == 0

    @torch.enable_grad()
    def gradients_of(self, scored: Sequence[Scored], learned: Sequence[int]) -> Tensor | None:
        """Return (R, P), each row's gradient of its window's mean; with `accumulate`, of all sums that wait."""
        found = None
        if learned:
            losses = [self.memory.loss(scored[n].forward.nats) for n in learned]
            found = self.lora.gradients(torch.stack(losses).sum())
        if self.waiting is None:
            return found
        if found is not None:
            self.waiting[list(learned)] += found[list(learned)]
            for n in learned:
                self.rows[n].waiting += scored[n].window.new
        return self.waiting

    def step(self, rows: Sequence[int], gradients: Tensor | None) -> None:
        """One update of some rows by their gradients; what waited is divided by all its tokens."""
        if not rows:
            return
        assert gradients is not None
        chosen, device = list(rows) if len(rows) < len(self.rows) else slice(None), self.lora.values.device
        gradients = gradients[chosen]
        if self.waiting is not None:
            gradients = gradients / torch.tensor([[self.rows[n].waiting] for n in rows], device=device)
        self.keep_good([n for n in rows if (guard := self.rows[n].guard) is not None and guard.unchanged])
        rates = torch.tensor([[self.rows[n].rate] for n in rows], dtype=torch.float64, device=device)
        state = {name: tensor[chosen] for name, tensor in self.rule.state.items()}
        self.lora.values[chosen] -= self.rule.change(gradients, rates, state)
        if isinstance(chosen, list):  # else they were views
            for name, tensor in self.rule.state.items():
                tensor[chosen] = state[name]
        for n in rows:
            row = self.rows[n]
            if row.guard is not None:
                row.guard.keep(list)  # the numbers are kept above, for all rows at once
            row.counts.updates += 1
            self.drop_gradients(n)

    def drop_gradients(self, n: int) -> None:
        """Forget a row's gradients that wait for a step."""
        if self.waiting is not None:
            self.waiting[n].zero_()
        self.rows[n].waiting = 0

    def keep_good(self, rows: Sequence[int]) -> None:
        """The numbers of some rows as they stand scored a window well."""
        for name, tensor in self.numbers().items():
            if len(rows) == len(self.rows):
                self.good[name].copy_(tensor)
            elif rows:
                self.good[name][list(rows)] = tensor[list(rows)]

    def bring_back(self, row: Row) -> None:
        """A row's last good numbers."""
        n = next(place for place, one in enumerate(self.rows) if one is row)
        for name, tensor in self.numbers().items():
            tensor[n] = self.good[name][n]

    # ---- reset, fewer rows ------------------------------------------------------------------------------------------

    def reset(self, n: int) -> None:
        """A row back to the prior, as new."""
        self.lora.values[n] = self.prior
        for tensor in self.rule.state.values():
            tensor[n] = 0
        self.drop_gradients(n)
        self.rows[n] = self.fresh()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows alone."""
        chosen = list(rows)
        self.lora.hold(self.lora.values[chosen])
        self.rule.state = {name: tensor[chosen] for name, tensor in self.rule.state.items()}
        self.good = {name: tensor[chosen] for name, tensor in self.good.items()}
        self.waiting = None if self.waiting is None else self.waiting[chosen]
        self.rows = [self.rows[n] for n in chosen]


class StaticRows:
    """The static model on the windows of rows, in one pass for all of them.

    Args:
        memory: whose prior reads.
        rows: R.
    """

    def __init__(self, memory: WeightMemory, rows: int) -> None:
        self.memory, self.windows = memory, memory.windows
        self.caches = [memory.empty_cache() for _ in range(rows)]
        self.after = self.caches

    def score(self, windows: Sequence[Window]) -> list[Tensor]:
        """Nats of each new token of each row's window, (S,) float32 on the CPU, by the prior."""
        rotary, caches = self.memory.rotary, None
        if rotary:
            caches = [rotary.before(cache, one) for cache, one in zip(self.caches, windows, strict=True) if cache]
        with torch.no_grad(), self.memory.prior.in_force():
            keep = self.windows.context - self.windows.stride
            forwards = score_rows(self.memory.scorer, windows, None, caches, keep)
        self.after = [one.cache for one in forwards]
        return together([one.nats for one in forwards])

    def learn(self) -> None:
        """Only the caches advance."""
        self.caches = self.after

    def finish(self, ended: Sequence[int]) -> None:
        """Drop the caches of some rows."""
        for n in ended:
            self.caches[n] = self.memory.empty_cache()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows alone."""
        self.caches = [self.caches[n] for n in rows]


def together(parts: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one dimension on the CPU, brought there at once."""
    return list(torch.cat([part.detach() for part in parts]).cpu().split([len(part) for part in parts]))
