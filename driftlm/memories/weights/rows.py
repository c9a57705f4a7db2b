"""Several memories in weights that read side by side: one batched forward and backward pass, a LoRA for each row.

A row scores and learns exactly as `WeightMemory` does alone (to 1e-5 nats per token; batched products round otherwise):
its cadence, its guard, its cache and its rule are its own, and no operation mixes two rows. What is shared is the work
over the frozen weights, which are read once for all rows.

Letters: R rows, P learned numbers of a row, S new tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.base import Counts, Event
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.memories.weights.last_good import LastGood
from driftlm.memories.weights.rules import flat
from driftlm.memories.weights.schedule import Schedule, Scored
from driftlm.models.cache import KeyValues
from driftlm.models.row_lora import RowLora
from driftlm.models.row_scoring import score_rows
from driftlm.models.scoring import NOTHING, Forward
from driftlm.models.sink import behind_sinks
from driftlm.streams.windows import Window


@dataclass
class Row:
    """What a row has besides its numbers.

    Attributes:
        rate: η, halved when the guard goes back.
        schedule: when it learns, and when it goes back.
        cache: keys and values, where windows are cached.
        counts: of what it did since its start.
    """

    rate: float
    schedule: Schedule
    cache: KeyValues | None
    counts: Counts = field(default_factory=Counts)


class WeightRows:
    """R copies of a memory in weights, each at its own place in the stream.

    Args:
        memory: what every row is a copy of, a plain LoRA by any rule but RMS; it stays at the prior itself.
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
                f"all tokens alike; give `Learning.salience` uniform, or `Stream.batch` 1."
            )
        if memory.protection is not None:
            raise DriftError(
                f"`Learning.protect` was {memory.learning.protect}, which has no form for rows side by side; give "
                f"none, or `Stream.batch` 1."
            )
        self.memory, self.learning, self.windows = memory, memory.learning, memory.windows
        self.lora = RowLora(memory.trainable, rows)
        self.prior = self.lora.values[0].clone()
        if memory.rule is None or self.learning.rule == "rms":
            raise DriftError(
                f"`Learning.rule` was {self.learning.rule}, which has no form for rows side by side; give relative, "
                f"adam or sgd."
            )
        self.rule = memory.new_rule(joined=True)
        rates = torch.full((rows, 1), self.learning.rate(), dtype=torch.float64, device=self.lora.values.device)
        self.state = self.rule.init([self.lora.values], rates)
        self.fresh_state = {name: one[0].clone() for name, one in flat(self.state).items()}  # all rows begin alike
        self.waiting = torch.zeros_like(self.lora.values) if memory.schedule.accumulates else None
        self.last_good = LastGood()
        self.rows = [self.fresh() for _ in range(rows)]
        self.scored: list[Scored] = []
        self.events: list[tuple[Event, ...]] = [()] * rows

    def numbers(self) -> dict[str, Tensor]:
        """By name all that a step changes, (R, ...) each."""
        return {"good/0": self.lora.values} | {f"rule/{name}": one for name, one in flat(self.state).items()}

    def fresh(self) -> Row:
        """Return a row that has read nothing."""
        schedule = Schedule(self.learning, self.memory.language_model.vocabulary)
        return Row(self.learning.rate(), schedule, self.memory.empty_cache())

    # ---- score, then learn ------------------------------------------------------------------------------------------

    def score(self, windows: Sequence[Window]) -> list[Tensor]:
        """Nats of each new token of each row's window, (S,) float32 on the CPU, by the row's own numbers."""
        rotary, caches = self.memory.rotary, None
        if rotary:
            caches = [rotary.before(row.cache, one) for row, one in zip(self.rows, windows, strict=True) if row.cache]
        with torch.set_grad_enabled(any(row.schedule.due() for row in self.rows)):
            scorer, modulated = self.memory.scorer, self.lora.in_force()
            if caches is not None:
                caches = behind_sinks(scorer, windows, caches, modulated)
            forwards = score_rows(scorer, windows, modulated, caches, self.windows.kept)
        told = zip(together([one.nats for one in forwards]), together([one.finite for one in forwards]), strict=True)
        self.scored, self.events = [], []
        for row, window, forward, (nats, finite) in zip(self.rows, windows, forwards, told, strict=True):
            judged = row.schedule.judge(window, Forward(nats, finite), self.prior_nats(window))
            self.scored.append(replace(judged, forward=Forward(forward.nats, finite, forward.cache)))
            self.events.append(judged.events)
        return [one.nats for one in self.scored]

    def prior_nats(self, window: Window) -> Callable[[], Tensor]:
        """What the prior says of a window, when it is asked."""
        return lambda: self.memory.prior_nats(window, NOTHING).cpu()

    def learn(self) -> None:
        """Advance the caches, and take the steps that each row's cadence asks for, by one backward pass."""
        scored, self.scored = self.scored, []
        decisions = [row.schedule.decide(one.bad, one.finite) for row, one in zip(self.rows, scored, strict=True)]
        # Before any row goes back: that writes where the graph of all rows still has to be read.
        gradients = self.gradients_of(scored, [n for n, decision in enumerate(decisions) if decision.learn])
        for n, (row, one, decision) in enumerate(zip(self.rows, scored, decisions, strict=True)):
            row.counts.prior_used += 0 if one.finite else int((~one.forward.finite).sum())
            row.counts.skipped_updates += decision.skip
            if one.forward.cache is not None:
                row.cache = one.forward.cache
            if decision.go_back:
                self.go_back(n)
            row.schedule.take(decision, one.bad, one.window.new)
        self.step([n for n, decision in enumerate(decisions) if decision.step], gradients)

    def finish(self, ended: Sequence[int]) -> list[Counts]:
        """The documents of some rows have ended: step leftovers, drop caches, reset where that was asked for.

        Returns:
            What each of these rows had done until then, since its start.
        """
        self.step([n for n in ended if self.rows[n].schedule.waiting], self.waiting)
        counts = [self.rows[n].counts for n in ended]
        for n in ended:
            self.rows[n].cache = self.memory.empty_cache()
            if self.learning.reset == "document":
                self.reset(n)
        return counts

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
        return self.waiting

    def step(self, rows: Sequence[int], gradients: Tensor | None) -> None:
        """One update of some rows by their gradients; what waited is divided by all its tokens."""
        if not rows:
            return
        assert gradients is not None
        chosen, device = list(rows) if len(rows) < len(self.rows) else slice(None), self.lora.values.device
        gradients = gradients[chosen]
        if self.waiting is not None:
            gradients = gradients / torch.tensor([[self.rows[n].schedule.waiting] for n in rows], device=device)
        kept = [n for n in rows if self.rows[n].schedule.stepped()]
        if kept:
            self.last_good.keep(self.numbers(), None if len(kept) == len(self.rows) else kept)
        rates = torch.tensor([[self.rows[n].rate] for n in rows], dtype=torch.float64, device=device)
        state = {name: [one[chosen] for one in several] for name, several in self.state.items()}
        values = self.lora.values[chosen]
        self.rule.update([gradients], state, [values], rates)
        if isinstance(chosen, list):  # else they were views
            self.lora.values[chosen] = values
            for name, several in self.state.items():
                for one, changed in zip(several, state[name], strict=True):
                    one[chosen] = changed
        for n in rows:
            self.rows[n].counts.updates += 1
            self.drop_gradients(n)

    def drop_gradients(self, n: int) -> None:
        """Forget a row's gradients that wait for a step."""
        if self.waiting is not None:
            self.waiting[n].zero_()

    def go_back(self, n: int) -> None:
        """Bring a row's last good numbers back, at half its rate."""
        row = self.rows[n]
        if not row.schedule.unchanged:
            self.last_good.bring_back(self.numbers(), [n])
        row.rate /= 2
        row.cache = self.memory.empty_cache()
        self.drop_gradients(n)
        row.counts.rollbacks += 1

    # ---- reset, fewer rows ------------------------------------------------------------------------------------------

    def reset(self, n: int) -> None:
        """A row back to the prior, as new."""
        self.lora.values[n] = self.prior
        for name, tensor in flat(self.state).items():
            tensor[n] = self.fresh_state[name]
        self.drop_gradients(n)
        self.rows[n] = self.fresh()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows alone."""
        chosen = list(rows)
        self.lora.hold(self.lora.values[chosen])
        self.state = {name: [one[chosen] for one in several] for name, several in self.state.items()}
        self.last_good.select(chosen)
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
            if caches is not None:
                caches = behind_sinks(self.memory.scorer, windows, caches)
            forwards = score_rows(self.memory.scorer, windows, None, caches, self.windows.kept)
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
