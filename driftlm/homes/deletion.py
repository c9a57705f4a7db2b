"""Deletion: the home is as if some documents had never been read, and their text is in none of its files.

Where weights learned, the nearest state before the first reading is gone back to, and all that was read later is read
again without them; that is exact. Sources forget at once. Snapshots are immutable and keep what they hold, unless they
are purged: then each is made anew at its place, under its name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from driftlm.core.errors import DriftError
from driftlm.homes.home import Home, Undoing
from driftlm.homes.opening import opened
from driftlm.homes.replay import Cost
from driftlm.homes.snapshots import Snapshot
from driftlm.memories.loop import Totals


@dataclass(frozen=True)
class Plan:
    """What the deletion of some documents means.

    Attributes:
        documents: their ids.
        rows: of the journal that go.
        history: the rows that stay behind the present state.
        snapshots: names of those that hold what is deleted, now or before.
        cost: of the reading that has to be done again; with the purge, where one was asked for.
    """

    documents: tuple[str, ...]
    rows: list[int]
    history: list[int]
    snapshots: list[str]
    cost: Cost


def plan(home: Home, *documents: str, purge: bool = False) -> Plan:
    """Return what `forget` would do.

    Raises:
        DriftError: when a document was not read.
    """
    home.refuse_unready()
    rows = []
    for id in dict.fromkeys(documents):
        versions = home.journal.versions(id)
        if not versions:
            raise DriftError(f"no document {id!r} was read; `driftlm home ls {home.folder}` shows those that were.")
        rows += versions
    history = [seq for seq in home.history if seq not in set(rows)]
    holding = holders(home, rows)
    targets = [target for _, target in remade(home, rows, holding)] if purge else []
    targets.append(history)
    cost = home.replay.cost(*targets) if not home.memory.forgets else Cost(0, 0, 0.0, "memory")
    return Plan(tuple(dict.fromkeys(documents)), rows, history, [one.name for one in holding], cost)


def forget(home: Home, *documents: str, purge: bool = False) -> Plan:
    """Forget documents, all their versions; on disk when this returns. Without documents, only purge.

    Raises:
        DriftError: when one was not read, and then none is forgotten.
    """
    planned = plan(home, *documents, purge=purge)
    if not documents and not purge:
        raise DriftError("no document was named; give the ids that `driftlm home ls` shows.")
    scored: dict[int, Totals] = {}
    with Undoing(home):
        if not home.memory.forgets:
            for name, target in remade(home, planned.rows, holders(home, planned.rows)) if purge else ():
                again = home.replay.move(target)
                scored |= again if planned.history[: len(target)] == target else {}
                rewrite(home, home.snapshots.read(name), target)
            scored |= home.replay.move(planned.history)
        else:
            drop_from_sources(home, planned, purge)
        home.journal.forget(planned.rows, scored)
        home.settle(planned.history)
    if purge:
        home.snapshots.prune()
    home.journal.wipe()
    return planned


def forget_in(
    folder: str | Path, documents: Sequence[str], *, purge: bool, cost: bool, tell_cost: Callable[[Cost], None]
) -> Plan:
    """Forget documents of the home in a folder, or only say what it would cost.

    Args:
        folder: of the home.
        documents: their ids; none, with a purge, for those that were forgotten before.
        purge: make the snapshots that hold them anew without them.
        cost: change nothing.
        tell_cost: gets what has to be read again, before it is.

    Raises:
        DriftError: for no document without a purge, or one that was not read.
    """
    with opened(folder) as home:
        if not documents and not purge:
            raise DriftError("no document was named; give the ids that `driftlm home ls` shows.")
        planned = plan(home, *documents, purge=purge)
        tell_cost(planned.cost)
        if not cost:
            forget(home, *documents, purge=purge)
    return planned


def holders(home: Home, rows: Sequence[int]) -> list[Snapshot]:
    """Return the snapshots that have read some rows, or rows that are gone already; a damaged one is refused."""
    there = home.journal.hashes().keys() - set(rows)
    return [one for one in home.snapshots.ls() if set(one.history) - there]


def remade(home: Home, rows: Sequence[int], holding: Sequence[Snapshot]) -> list[tuple[str, list[int]]]:
    """Return snapshots and their histories to come, in an order in which each can go on from the one before."""
    there = home.journal.hashes().keys() - set(rows)
    return sorted(
        ((one.name, [seq for seq in one.history if seq in there]) for one in holding), key=lambda pair: pair[1]
    )


def rewrite(home: Home, old: Snapshot, history: list[int]) -> None:
    """Make a snapshot anew of the memory as it is."""
    last = home.journal.entry(history[-1]) if history else None
    held = home.replay.held(history)
    home.snapshots.write(old.name, held, home.replay.priors, last, home.replay.about, old.created)


def drop_from_sources(home: Home, planned: Plan, purge: bool) -> None:
    """Drop documents that only sources hold from the memory, and with a purge from the snapshots."""
    memory, present = home.memory, home.memory.state()
    home.replay.at = None
    there = home.journal.hashes().keys() - set(planned.rows)
    for name in planned.snapshots if purge else ():
        old = home.snapshots.read(name)
        memory.restore(home.snapshots.load(old, home.replay.priors).state)
        history = [seq for seq in old.history if seq in there]
        keep_in_sources(home, history)
        rewrite(home, old, history)
    memory.restore(present)
    keep_in_sources(home, planned.history)


def keep_in_sources(home: Home, history: Sequence[int]) -> None:
    """Let every source forget what is not among some rows, and the frozen weights count the windows of these alone."""
    documents, windows = set[str](), 0
    for entry in home.journal.entries(history):
        documents.add(entry.id)
        windows += entry.totals.windows
    for id in [id for id in home.memory.documents if id not in documents]:
        home.memory.forget(id)
    for one in home.memory.learners().values():
        one.schedule.windows_read = windows
