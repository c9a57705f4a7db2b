"""From one history to another: the nearest state that was kept, and an exact reading of the rows behind it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.homes.identity import read_digest
from driftlm.homes.journal import Journal
from driftlm.homes.snapshots import Snapshots
from driftlm.homes.states import Held, Priors, alike, read_checkpoint
from driftlm.memories.base import Memory
from driftlm.memories.build import begin
from driftlm.memories.loop import Step, Totals, read_stream
from driftlm.models.threads import on_threads
from driftlm.streams.documents import Document


@dataclass(frozen=True)
class Cost:
    """What going to another state takes.

    Attributes:
        documents: to be read again.
        tokens: of them.
        seconds: that they took when they were read first.
        start: what is read on from: the `memory` as it is, the `checkpoint`, a snapshot's name, or the `start`.
    """

    documents: int
    tokens: int
    seconds: float
    start: str


@dataclass(frozen=True)
class Base:
    """A state that can be read on from."""

    name: str
    history: list[int]
    load: Callable[[], Held | None]


class Replay:
    """A memory, and what it takes to bring it to any history of its journal.

    Args:
        memory: as new.
        compare: whether the static model reads beside it.
        journal: what was read.
        snapshots: states that were kept.
        checkpoint: folder of the state that was kept last.
        about: `model` and `settings`, as the snapshots have them.
        threads: to learn on, always the same for the same bits; 0 for those there are.

    Attributes:
        at: what the memory has read; None where nobody knows, because it was stopped in the middle.
        saved: what the checkpoint has read; None where there is none to go on from.
    """

    def __init__(
        self,
        memory: Memory,
        compare: bool,
        journal: Journal,
        snapshots: Snapshots,
        checkpoint: Path,
        about: dict[str, Any],
        threads: int = 0,
    ) -> None:
        self.threads = threads
        self.memory, self.journal, self.snapshots = memory, journal, snapshots
        self.checkpoint, self.about = checkpoint, about
        self.baseline = memory.static() if compare else None
        self.priors = Priors(memory)
        self.at: list[int] | None = None
        self.saved: list[int] | None = None

    def learn(
        self,
        document: Document,
        compare: bool,
        watch: Callable[[Step], None] = lambda step: None,
        between: Callable[[], None] = lambda: None,
    ) -> Totals:
        """Read a document with the memory; from its first window on, nobody knows what the memory has read.

        Args:
            document: to read.
            compare: with the static model, where there is one.
            watch: gets every window when it was scored.
            between: called between two windows; the seconds that it takes are not the reading's.
        """
        began, totals = time.perf_counter(), Totals()

        def pause() -> None:
            nonlocal began
            paused = time.perf_counter()
            between()
            began += time.perf_counter() - paused

        updates, rollbacks = self.memory.counts.updates, self.memory.counts.rollbacks
        baseline = self.baseline if compare else None
        if baseline is not None:
            baseline.reset()
        with on_threads(self.threads):
            for step in read_stream(self.memory, [document], baseline=baseline, between=pause):
                self.at, totals = None, step.totals
                watch(step)
        counts = self.memory.counts
        return replace(
            totals,
            documents=1,
            updates=counts.updates - updates,
            rollbacks=counts.rollbacks - rollbacks,
            seconds=time.perf_counter() - began,
        )

    def held(self, history: Sequence[int]) -> Held:
        """Return the memory's state, which has read these rows."""
        return Held(list(history), read_digest(self.journal.hashes(), history), self.memory.state())

    def cost(self, *targets: Sequence[int]) -> Cost:
        """Return the cost of going to some histories, one after the other."""
        at, bases, again, first = self.at, self.bases(), list[int](), ""
        for target in targets:
            base = longest([*bases, Base("memory", at or [], lambda: None)], target)
            again += target[len(base.history) :]
            first, at = first or base.name, list(target)
        entries = list(self.journal.entries(again))
        tokens, seconds = sum(one.totals.tokens for one in entries), sum(one.totals.seconds for one in entries)
        return Cost(len(entries), tokens, seconds, first)

    def move(self, target: Sequence[int], bases: list[Base] | None = None) -> dict[int, Totals]:
        """Take the memory, not the home, to a history by the shortest way; what was scored again by row."""
        bases = self.bases() if bases is None else bases
        if self.at is not None:
            bases.append(Base("memory", self.at, lambda: None))
        while True:
            base = longest(bases, target)
            try:
                self.begin_at(base)
                break
            except DriftError:
                if base.name in ("checkpoint", "start"):
                    raise
                bases.remove(base)  # a damaged snapshot: an earlier state does as well
        scored = {}
        for entry in self.journal.entries(target[len(base.history) :]):
            totals = self.learn(entry.document, compare=False)
            scored[entry.seq] = replace(totals, static_nats=entry.totals.static_nats)
        self.at = list(target)
        return scored

    def begin_at(self, base: Base) -> None:
        """Put the memory at a state that there is."""
        if base.name == "memory":
            return
        held, self.at = base.load(), None
        begin(self.memory)
        if held is None:
            return
        try:
            if any(not alike(value, held.state.tensors[name]) for name, value in self.priors.tensors.items()):
                raise ValueError
            if not of_one_form(self.memory.state().values, held.state.values):
                raise TypeError
            self.memory.restore(held.state)
        except (DriftError, KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            reason = str(error).split("; ")[0] if isinstance(error, DriftError) else type(error).__name__
            raise DriftError(
                f"the state {base.name} does not fit the memory ({reason}); put it back from a copy, or remove it, and "
                f"the home reads again."
            ) from error

    def bases(self) -> list[Base]:
        """Return the states that can be read on from: the start, the checkpoint, and snapshots of rows that are all
        there.
        """
        found = [Base("start", [], lambda: None), *self.kept()]
        if self.saved is not None:
            found.append(Base("checkpoint", self.saved, lambda: read_checkpoint(self.checkpoint, self.priors)))
        return found

    def kept(self) -> list[Base]:
        """Return the snapshots of rows that are all there."""
        hashes, found = self.journal.hashes(), list[Base]()
        for name in self.snapshots.names():
            try:
                one = self.snapshots.read(name)
            except DriftError:
                continue  # `verify` names it
            same = {"model": one.model, "settings": one.settings} == self.about
            if same and not set(one.history) - hashes.keys() and read_digest(hashes, one.history) == one.read:
                found.append(Base(one.name, one.history, lambda one=one: self.snapshots.load(one, self.priors)))  # type: ignore[misc]
        return found


def of_one_form(new: Any, held: Any) -> bool:
    """Tell whether JSON values could be those of a memory: all that a new one has, each of its kind, and numbers
    finite.

    Example:
        >>> of_one_form({"read": 0, "rate": 0.1}, {"read": 3, "rate": 1.0, "d1": "red"})
        True
        >>> of_one_form({"read": 0}, {"read": "3"}), of_one_form({"read": 0}, {"read": float("inf")})
        (False, False)
    """
    if isinstance(new, dict):
        return isinstance(held, dict) and all(name in held and of_one_form(new[name], held[name]) for name in new)
    if isinstance(new, list | tuple):
        return isinstance(held, list | tuple) and all(map(of_one_form, new, held))
    if isinstance(new, bool) or new is None:
        return new is None or isinstance(held, bool)
    if isinstance(new, int | float):
        kinds = int | float if isinstance(new, float) else int
        return isinstance(held, kinds) and not isinstance(held, bool) and math.isfinite(held)
    return isinstance(held, type(new))


def longest(bases: Sequence[Base], target: Sequence[int]) -> Base:
    """Return the base that is nearest to a history, of those that it begins with."""
    fitting = [base for base in bases if list(target[: len(base.history)]) == base.history]
    return max(reversed(fitting), key=lambda base: len(base.history))  # of equals the last, which costs least
