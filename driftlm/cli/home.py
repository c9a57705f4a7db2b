"""The verb `home`: a memory that lives in a folder."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import tyro

from driftlm.cli.output import in_flags, said, show, tell
from driftlm.core.errors import DriftError
from driftlm.homes.settings import Talk
from driftlm.memories.settings import MemorySettings
from driftlm.models.machine import Machine

if TYPE_CHECKING:
    from driftlm.homes.journal import Entry
    from driftlm.homes.replay import Cost

Folder = tyro.conf.Positional[str]
Several = tyro.conf.Positional[tuple[str, ...]]


def new(home: Folder, memory: MemorySettings, machine: Machine, *, json: bool = False) -> int:
    """Make a home: a memory that lives in a folder, with its settings for good.

    Args:
        home: its folder, which must be new.
        memory: what it is made of.
        machine: which model.
        json: one JSON object on stdout.
    """
    from driftlm.homes.opening import made

    return said({"home": home, "model": made(home, memory, machine)}, json)


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
    from driftlm.homes.ingest import read_into

    for entry in read_into(home, files, stdin=stdin, follow=follow, idle=idle, tell=tell):
        show_entry(entry, json)
    return 0


def show_entry(entry: "Entry", as_json: bool) -> None:
    """Print a document that was read, at once."""
    from driftlm.homes.journal import facts_of

    if as_json:
        show(facts_of(entry))
    else:
        static = entry.totals.static_bits_per_byte
        beside = "" if static is None else f", {static:.4f} by the static model"
        print(f"{entry.id}: {entry.totals.tokens:,} tokens, {entry.totals.bits_per_byte:.4f} bits per byte{beside}")
    sys.stdout.flush()


def ask(home: Folder, question: tyro.conf.Positional[str] = "", *, talk: Talk, json: bool = False) -> int:
    """Ask a home; without a question, a prompt stays open and keeps the conversation until Ctrl-D.

    What the home keeps as documents stands before the question, and those that the answer rests on are named. Asking
    changes nothing in the home.

    Args:
        home: its folder.
        question: in quotes; without one, each line of standard input is one.
        talk: how it answers.
        json: one JSON object a question on stdout.
    """
    from driftlm.homes.conversation import conversing

    with conversing(home, talk) as conversation:
        for one in [question] if question else lines():
            try:
                answer = conversation.ask(one) if json else conversation.ask(one, say)
            except DriftError as error:
                if question:
                    raise
                tell(in_flags(str(error)))
                continue
            if json:
                show(answer.facts())
                continue
            print()
            for document, share in answer.documents:
                print(f"  {share:6.1%}  {document}", flush=True)
    return 0


def lines() -> Iterator[str]:
    """Questions from standard input, a line each, until it ends; at a terminal a sign says that one is awaited."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def say(text: str) -> None:
    """Print a piece of an answer at once."""
    print(text, end="", flush=True)


def ls(home: Folder, json: bool = False) -> int:
    """List what a home has read, in order; what it was taken back behind is marked.

    Args:
        home: its folder.
        json: one JSON object on stdout.
    """
    from driftlm.homes.identity import listed

    entries = listed(home)
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
    from driftlm.homes.deletion import forget_in

    planned = forget_in(home, documents, purge=purge, cost=cost, tell_cost=tell_cost)
    still = [] if purge and not cost else planned.snapshots
    if still and not cost:
        tell(f"the snapshots {', '.join(still)} still hold them; --purge makes them anew")
    facts = {"forgotten": [] if cost else list(planned.documents), "held_by": still}
    return told(home, facts, planned.cost, json)


def tell_cost(cost: "Cost") -> None:
    """Say what is to come, on stderr."""
    if cost.documents:
        what = f"{cost.documents:,} documents ({cost.tokens:,} tokens) are read again"
        tell(f"{what} from {cost.start!r}, in about {cost.seconds:.0f} s")
    else:
        tell("nothing has to be read again")


def told(home: str, facts: dict[str, Any], cost: "Cost", as_json: bool) -> int:
    """Print facts, and as JSON what they cost."""
    return said({"home": home, **facts} | ({"cost": asdict(cost)} if as_json else {}), as_json)


def home() -> int:
    """Keep a memory in a folder: new, read, ask, ls, forget (see `driftlm home --help`)."""
    raise DriftError(f"a home can {', '.join(HOME_VERBS)}; say which: driftlm home read HOME FILE.")


HOME_VERBS: dict[str, Callable[..., int]] = {"new": new, "read": read, "ask": ask, "ls": ls, "forget": forget}
