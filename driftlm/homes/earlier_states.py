"""Earlier states of the home in a folder: listed, gone back to, compared, removed."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.homes.identity import described, journal_of, locked
from driftlm.homes.opening import opened
from driftlm.homes.replay import Cost
from driftlm.homes.snapshots import Change, Snapshots
from driftlm.homes.snapshots import described as facts_of


@dataclass(frozen=True)
class Return:
    """What going back to an earlier state means.

    Attributes:
        cost: of the reading that has to be done again.
        left: documents that leave the present state.
        kept_by: names of the snapshots that hold the present state.
    """

    cost: Cost
    left: int
    kept_by: list[str]


@dataclass(frozen=True)
class Difference:
    """What the later of two snapshots differs in: tensors, ids of documents that it read, and of those it did not."""

    tensors: list[Change]
    added: list[str]
    missing: list[str]


def listed(folder: str | Path) -> list[dict[str, Any]]:
    """The snapshots, the oldest first, and of each whether it holds what was forgotten since."""
    with journal_of(folder) as journal:
        there = journal.hashes().keys()
    found = Snapshots(Path(folder) / "snapshots").ls()
    return [facts_of(one) | {"holds_forgotten": bool(set(one.history) - there)} for one in found]


def restore_in(
    folder: str | Path,
    *,
    snapshot: str,
    before: str,
    as_of: str,
    cost: bool,
    tell_return: Callable[[Return], None],
) -> tuple[Return, int]:
    """Take a home back; returns what that meant, and the documents behind the state now.

    Args:
        folder: of the home.
        snapshot: its name, or else one of the next two.
        before: id of a document, to stand before it.
        as_of: a time, to stand as of it.
        cost: change nothing.
        tell_return: gets what it means, before it is done.

    Raises:
        DriftError: when there is no such state.
    """
    with opened(folder) as home:
        target = home.point(snapshot=snapshot, before=before, as_of=as_of)
        found = Return(home.replay.cost(target), len(home.left_by(target)), home.kept_by())
        tell_return(found)
        if not cost:
            home.restore(target)
        return found, len(home.history)


def difference(folder: str | Path, one: str, other: str) -> Difference:
    """What a later snapshot differs in from an earlier one."""
    with opened(folder) as home:
        first, second = home.snapshots.read(one), home.snapshots.read(other)
        changes = home.snapshots.diff(first, second, home.replay.priors)
        there = home.journal.hashes().keys()

        def ids(history: Sequence[int], others: Sequence[int]) -> list[str]:
            return [entry.id for entry in home.journal.entries(sorted(set(history) & there - set(others)))]

        return Difference(changes, ids(second.history, first.history), ids(first.history, second.history))


def prune(folder: str | Path, names: Sequence[str], keep: int | None) -> tuple[list[str], int]:
    """Remove snapshots, by name or all but so many of the newest; returns their names, and the bytes that were freed.

    Raises:
        DriftError: for names and a number at once, or a number below 0.
    """
    if keep is not None and (names or keep < 0):
        raise DriftError(f"`prune.keep` was {keep} with {len(names)} names; give names, or a number from 0 on.")
    described(folder)
    lock = locked(Path(folder))
    try:
        snapshots = Snapshots(Path(folder) / "snapshots")
        gone = list(names) if keep is None else [one.name for one in snapshots.ls()][: -keep or None]
        return gone, snapshots.prune(gone)
    finally:
        os.close(lock)
