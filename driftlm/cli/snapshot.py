"""The verb `snapshot`: earlier states of a home."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import tyro

from driftlm.cli.home import Folder, Several, tell_cost, told
from driftlm.cli.output import said, show, tell
from driftlm.core.errors import DriftError

if TYPE_CHECKING:
    from driftlm.homes.earlier_states import Return


def ls(home: Folder, json: bool = False) -> int:
    """List the snapshots of a home, the oldest first.

    Args:
        home: its folder.
        json: one JSON object on stdout.
    """
    from driftlm.homes.earlier_states import listed

    rows = listed(home)
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
    from driftlm.homes.earlier_states import restore_in

    def tell_return(found: "Return") -> None:
        tell_cost(found.cost)
        tell_left(found, cost)

    found, documents = restore_in(home, snapshot=name, before=before, as_of=as_of, cost=cost, tell_return=tell_return)
    facts = {"restored": not cost, "documents": documents}
    return told(home, facts | ({"left": found.left, "kept_by": found.kept_by} if json else {}), found.cost, json)


def tell_left(found: "Return", asked: bool) -> None:
    """Say what leaves the present state, or would, and whether there is a way back, on stderr."""
    if not found.left:
        return
    leave = "would leave" if asked else "leave"
    if found.kept_by:
        way = f"the snapshot {found.kept_by[0]!r} holds the present state"
    else:
        back = "make one first, to come back to" if asked else "to come back, read them again"
        way = f"no snapshot holds the present state: {back}"
    tell(f"{found.left:,} documents {leave} the state and stay in the journal; {way}")


def diff(home: Folder, one: tyro.conf.Positional[str], other: tyro.conf.Positional[str], json: bool = False) -> int:
    """Say what two snapshots differ in: tensors, by the norm of the change, and the documents between them.

    Args:
        home: its folder.
        one: the earlier snapshot.
        other: the later one.
        json: one JSON object on stdout.
    """
    from driftlm.homes.earlier_states import difference

    found = difference(home, one, other)
    if json:
        show({"home": home} | asdict(found))
        return 0
    for change in found.tensors:
        part = "" if change.relative is None else f"  {change.relative:.2%}"
        print(f"{change.tensor}  {change.norm:.4g}{part}")
    print(
        f"{len(found.tensors):,} tensors differ; {other} read {', '.join(found.added) or 'nothing'} that {one} had not"
    )
    if found.missing:
        print(f"{other} has not read {', '.join(found.missing)}")
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
    from driftlm.homes.earlier_states import prune as prune_in

    gone, freed = prune_in(home, names, keep)
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
