"""The command line of homes: one typed function a verb; heavy imports inside."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from driftlm.cli.bank import said, show
from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learning
from driftlm.models.machine import Machine
from driftlm.streams.windows import Windows

if TYPE_CHECKING:
    from driftlm.homes.journal import Entry, Journal
    from driftlm.homes.replay import Cost
    from driftlm.streams.documents import Document

Folder = tyro.conf.Positional[str]
Several = tyro.conf.Positional[tuple[str, ...]]


def new(
    home: Folder,
    windows: Windows,
    learning: Learning,
    machine: Machine,
    *,
    sources: tuple[Literal["bank", "bm25", "dense"], ...] = (),
    networks: str = "",
    retrieved: int = 1,
    budget: int = 256,
    compare: Literal["static", "none"] = "static",
    json: bool = False,
) -> int:
    """Make a home: a memory that lives in a folder, with its settings for good.

    Args:
        home: its folder, which must be new.
        windows: how documents are cut.
        learning: what the weights learn, and how.
        machine: which model.
        sources: memories that keep documents beside the weights: `bank`, `bm25`, `dense`.
        networks: folder of the bank's networks; empty for the bundled ones.
        retrieved: documents that `bm25` and `dense` find for a window.
        budget: most tokens of their texts together.
        compare: score the `static` model on the same windows, or `none`.
        json: one JSON object on stdout.
    """
    from driftlm.homes.home import Home
    from driftlm.homes.opening import loaded_for_new
    from driftlm.memories.settings import MemorySettings

    place = str(Path(networks).resolve()) if networks else ""
    settings = MemorySettings(windows, learning, sources, place, retrieved, budget, compare)
    model, machine = loaded_for_new(machine)
    with Home.create(home, model, settings, machine=machine) as made:
        return said({"home": home, "model": str(made.facts["model"]["name"])}, json)


@contextmanager
def journal_of(home: str) -> "Iterator[Journal]":
    """What a home has read, without its model."""
    from driftlm.homes.identity import described
    from driftlm.homes.journal import Journal

    described(home)
    with closing(Journal.open(Path(home) / "journal.sqlite")) as journal:
        yield journal


def read(
    home: Folder,
    files: Several,
    stdin: Literal["text", "jsonl"] = "text",
    follow: bool = False,
    idle: float | None = None,
    json: bool = False,
) -> int:
    """Read documents into a home; one that is named has been learned and is kept, whatever happens next.

    Args:
        home: its folder.
        files: text files, folders, .jsonl, or - for standard input.
        stdin: what standard input holds.
        follow: go on with what comes into the files and folders, from where an earlier --follow of this home stopped;
            Ctrl-C ends it in order. A file of a folder that changes is a newer version of its documents.
        idle: seconds without a document after which --follow ends.
        json: one JSON object a document on stdout.
    """
    from driftlm.homes.opening import opened
    from driftlm.runs.settings import refuse_idle
    from driftlm.streams.documents import read_documents

    refuse_idle(follow, idle)
    if follow:
        return followed_into(home, files, stdin, idle, json)
    documents = read_documents(files, stdin=stdin)  # checks them before the model is loaded
    with opened(home) as place:
        for document in warned_of_times(documents):
            tell_read(place.read(document), json)
    return 0


def followed_into(
    home: str, files: Sequence[str], stdin: Literal["text", "jsonl"], idle: float | None, json: bool
) -> int:
    """Read what comes; how far is kept beside the journal, behind every document."""
    from driftlm.homes.opening import opened
    from driftlm.streams.tail.offsets import Offsets
    from driftlm.streams.tail.sources import Tail, ended_by_signals

    with opened(home) as place:
        offsets = Offsets(Path(home) / "followed.jsonl", texts=False)
        tail = Tail(
            files,
            stdin=stdin,
            idle=idle,
            versions=True,
            offsets=offsets.offsets.values(),
            say=partial(print, "driftlm:", file=sys.stderr),
        )
        with ended_by_signals(tail):
            for document in warned_of_times(tail):
                tell_read(place.read(document), json)
                offsets.add(document, tail.offset)
                offsets.write()
    return 0


def warned_of_times(documents: "Iterable[Document]") -> "Iterator[Document]":
    """The documents; the first whose time cannot be understood is named on stderr, and is read all the same."""
    from driftlm.streams.timestamps import UNDERSTOOD, timestamp_of

    named = False
    for document in documents:
        if not named and document.time is not None and timestamp_of(document.time) is None:
            named = True
            print(
                f"driftlm: the time {document.time!r} of the document {document.id!r} cannot be read, so that neither "
                f"--as-of nor expiring finds it; give {UNDERSTOOD}. Others are not named.",
                file=sys.stderr,
                flush=True,
            )
        yield document


def tell_read(entry: "Entry", as_json: bool) -> None:
    """A document that was read, on stdout at once."""
    from driftlm.homes.journal import facts_of

    if as_json:
        show(facts_of(entry))
    else:
        static = entry.totals.static_bits_per_byte
        beside = "" if static is None else f", {static:.4f} by the static model"
        print(f"{entry.id}: {entry.totals.tokens:,} tokens, {entry.totals.bits_per_byte:.4f} bits per byte{beside}")
    sys.stdout.flush()


def listing(home: Folder, json: bool = False) -> int:
    """List what a home has read, in order; what it was taken back behind is marked.

    Args:
        home: its folder.
        json: one JSON object on stdout.
    """
    from driftlm.homes.journal import facts_of

    with journal_of(home) as journal:
        entries = [facts_of(entry) for entry in journal.entries(sorted(journal.hashes()))]
    if json:
        show({"home": home, "documents": entries})
        return 0
    for one in entries:
        undone = "" if one["active"] else "  (not behind the present state)"
        print(f"{one['seq']}  {one['id']}  {one['time'] or '-'}  {one['tokens']:,} tokens{undone}")
    print(f"{sum(one['active'] for one in entries):,} documents read")
    return 0


def forget(home: Folder, documents: Several, purge: bool = False, cost: bool = False, json: bool = False) -> int:
    """Forget documents: the home is as if they had never been read, and their text is in none of its files.

    Snapshots are not changed unless that is asked for; those that hold the documents are named, and can no longer be
    restored.

    Args:
        home: its folder.
        documents: their ids; none, with --purge, for those that were forgotten before.
        purge: make the snapshots that hold them anew without them, each under its name.
        cost: only say what it would cost.
        json: one JSON object on stdout.
    """
    from driftlm.homes import deletion
    from driftlm.homes.opening import opened

    with opened(home) as place:
        if not documents and not purge:
            raise DriftError("no document was named; give the ids that `driftlm home ls` shows.")
        planned = deletion.plan(place, *documents, purge=purge)
        tell(planned.cost)
        if not cost:
            deletion.forget(place, *documents, purge=purge)
    still = [] if purge and not cost else planned.snapshots
    if still and not cost:
        print(f"driftlm: the snapshots {', '.join(still)} still hold them; --purge makes them anew", file=sys.stderr)
    facts = {"forgotten": [] if cost else list(planned.documents), "held_by": still}
    return told(home, facts, planned.cost, json)


def tell(cost: "Cost") -> None:
    """What is to come, on stderr."""
    if cost.documents:
        what = f"{cost.documents:,} documents ({cost.tokens:,} tokens) are read again"
        print(f"driftlm: {what} from {cost.start!r}, in about {cost.seconds:.0f} s", file=sys.stderr, flush=True)
    else:
        print("driftlm: nothing has to be read again", file=sys.stderr, flush=True)


def told(home: str, facts: dict[str, Any], cost: "Cost", as_json: bool) -> int:
    """Facts, and as JSON what they cost."""
    return said({"home": home, **facts} | ({"cost": asdict(cost)} if as_json else {}), as_json)


def home() -> int:
    """Keep a memory in a folder: new, read, ls, forget (see `driftlm home --help`)."""
    raise DriftError(f"a home can {', '.join(HOME_VERBS)}; say which: driftlm home read HOME FILE.")


HOME_VERBS: dict[str, Callable[..., int]] = {"new": new, "read": read, "ls": listing, "forget": forget}
