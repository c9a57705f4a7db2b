"""The command line of a home's snapshots: one typed function a verb; heavy imports inside."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import tyro

from driftlm.cli.bank import said, show
from driftlm.cli.home import Folder, Several, journal_of, tell, told
from driftlm.core.errors import DriftError


def ls(home: Folder, json: bool = False) -> int:
    """List the snapshots of a home, the oldest first.

    Args:
        home: its folder.
        json: one JSON object on stdout.
    """
    from driftlm.homes.snapshots import Snapshots, described

    with journal_of(home) as journal:
        there = journal.hashes().keys()
    found = Snapshots(Path(home) / "snapshots").ls()
    rows = [described(one) | {"holds_forgotten": bool(set(one.history) - there)} for one in found]
    if json:
        show({"home": home, "snapshots": rows})
        return 0
    for row in rows:
        last = f"last {row['document']} ({row['time'] or 'no time'})" if row["documents"] else "before the first"
        forgotten = "  holds what was forgotten" if row["holds_forgotten"] else ""
        print(
            f"{row['name']}  {row['digest'][:12]}  {row['created']}  {row['documents']:,} documents, {last}{forgotten}"
        )
    print(f"{len(rows):,} snapshots")
    return 0


def make(home: Folder, name: tyro.conf.Positional[str], json: bool = False) -> int:
    """Keep the present state of a home under a name.

    Args:
        home: its folder.
        name: up to 64 letters, digits, `-`, `_` and `.`; it must be free, as snapshots never change.
        json: one JSON object on stdout.
    """
    from driftlm.homes.opening import opened

    with opened(home) as place:
        made = place.snapshot(name)
    return said({"home": home, "snapshot": name, "digest": made.digest, "documents": len(made.history)}, json)


def restore(
    home: Folder,
    name: tyro.conf.Positional[str] = "",
    *,
    before: str = "",
    as_of: str = "",
    cost: bool = False,
    json: bool = False,
) -> int:
    """Take a home back to a snapshot, or to where it stood before a document or as of a date.

    Where no snapshot stands there, the nearest earlier one is restored and the documents behind it are read again: the
    state is the one that was, bit by bit. Later documents stay in the journal, but are not behind the state; a snapshot
    that was made before leads back to them.

    Args:
        home: its folder.
        name: of the snapshot.
        before: id of a document; the state before it was first read.
        as_of: a date, a month, a year (with all of its documents) or seconds since 1970.
        cost: only say what it would cost.
        json: one JSON object on stdout.
    """
    from driftlm.homes.opening import opened

    with opened(home) as place:
        target = place.point(snapshot=name, before=before, as_of=as_of)
        price, left, kept = place.replay.cost(target), len(place.left_by(target)), place.kept_by()
        tell(price)
        tell_left(left, kept, cost)
        if not cost:
            place.restore(target)
        documents = len(place.history)
    facts = {"restored": not cost, "documents": documents} | ({"left": left, "kept_by": kept} if json else {})
    return told(home, facts, price, json)


def tell_left(left: int, kept: Sequence[str], asked: bool) -> None:
    """What leaves the present state, or would, and whether there is a way back, on stderr."""
    if not left:
        return
    leave = "would leave" if asked else "leave"
    if kept:
        way = f"the snapshot {kept[0]!r} holds the present state"
    else:
        back = "make one first, to come back to" if asked else "to come back, read them again"
        way = f"no snapshot holds the present state: {back}"
    print(f"driftlm: {left:,} documents {leave} the state and stay in the journal; {way}", file=sys.stderr, flush=True)


def diff(home: Folder, one: tyro.conf.Positional[str], other: tyro.conf.Positional[str], json: bool = False) -> int:
    """Say what two snapshots differ in: tensors, by the norm of the change, and the documents between them.

    Args:
        home: its folder.
        one: the earlier snapshot.
        other: the later one.
        json: one JSON object on stdout.
    """
    from driftlm.homes.opening import opened

    with opened(home) as place:
        first, second = place.snapshots.read(one), place.snapshots.read(other)
        changes = place.snapshots.diff(first, second, place.replay.priors)
        there = place.journal.hashes().keys()

        def ids(history: Sequence[int], others: Sequence[int]) -> list[str]:
            return [entry.id for entry in place.journal.entries(sorted(set(history) & there - set(others)))]

        added, missing = ids(second.history, first.history), ids(first.history, second.history)
    if json:
        show({"home": home, "tensors": [asdict(one) for one in changes], "added": added, "missing": missing})
        return 0
    for change in changes:
        part = "" if change.relative is None else f"  {change.relative:.2%}"
        print(f"{change.tensor}  {change.norm:.4g}{part}")
    print(f"{len(changes):,} tensors differ; {other} read {', '.join(added) or 'nothing'} that {one} had not")
    if missing:
        print(f"{other} has not read {', '.join(missing)}")
    return 0


def verify(home: Folder, json: bool = False) -> int:
    """Check every byte of a home, its snapshots included; exits with 1 and names what is torn or was changed.

    Args:
        home: its folder.
        json: one JSON object on stdout.
    """
    from driftlm.homes.verifying import verify as problems_of

    problems = problems_of(home)
    if json:
        show({"home": home, "problems": problems})
    else:
        print("\n".join(problems) or f"{home}: all as it was written")
    return 1 if problems else 0


def prune(home: Folder, names: Several, keep: int | None = None, json: bool = False) -> int:
    """Remove snapshots, and the room that nothing refers to any more.

    Args:
        home: its folder.
        names: of the snapshots; none to free room alone.
        keep: instead of names: how many of the newest stay.
        json: one JSON object on stdout.
    """
    import os

    from driftlm.homes.identity import described, locked
    from driftlm.homes.snapshots import Snapshots

    if keep is not None and (names or keep < 0):
        raise DriftError(f"--keep was {keep} with {len(names)} names; give names, or a number from 0 on.")
    described(home)
    lock = locked(Path(home))
    try:
        snapshots = Snapshots(Path(home) / "snapshots")
        gone = list(names) if keep is None else [one.name for one in snapshots.ls()][: -keep or None]
        freed = snapshots.prune(gone)
    finally:
        os.close(lock)
    return said({"home": home, "removed": gone, "freed_bytes": freed}, json)


def snapshot() -> int:
    """States of a home: make, ls, restore, diff, verify, prune (see `driftlm snapshot --help`)."""
    raise DriftError(f"of snapshots there is {', '.join(SNAPSHOT_VERBS)}; say which: driftlm snapshot make HOME NAME.")


SNAPSHOT_VERBS: dict[str, Callable[..., int]] = {
    "make": make,
    "ls": ls,
    "restore": restore,
    "diff": diff,
    "verify": verify,
    "prune": prune,
}
