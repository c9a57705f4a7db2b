"""The command line of the bank: one typed function a verb; heavy imports inside."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from driftlm.core.errors import DriftError
from driftlm.memories.bank.settings import Aggregation, Way
from driftlm.models.machine import Machine

Files = tyro.conf.Positional[tuple[str, ...]]


def ask(
    questions: tyro.conf.Positional[tuple[str, ...]],
    machine: Machine,
    *,
    bank: str,
    networks: str = "",
    tokens: int = 24,
    beams: int = 1,
    aggregation: Way = "exact",
    size: int = 0,
    json: bool = False,
) -> int:
    """Answer questions from a bank, and say which documents were attended to.

    Args:
        questions: each in quotes.
        machine: which model; the bank's own where none is given.
        bank: its folder.
        networks: the bank's networks, where they moved.
        tokens: longest answer.
        beams: of the search for an answer; 1 is greedy.
        aggregation: attend to the whole bank (`exact`), to its best documents (`nearest`), to groups (`hierarchical`),
            or to a bank made smaller first.
        size: entries attended to, of a group, or of the smaller bank.
        json: one JSON object a question on stdout.
    """
    from driftlm.homes.bank_folder import ask as ask_bank

    way = Aggregation(aggregation, size)
    for found in ask_bank(questions, Path(bank), machine, networks, tokens, beams=beams, aggregation=way):
        if json:
            show(found)
            continue
        print(found["answer"])
        for document in found["documents"]:
            print(f"  {document['weight']:6.1%}  {document['id']}")
    return 0


def add(
    files: Files,
    machine: Machine,
    *,
    bank: str,
    networks: str = "",
    stdin: Literal["text", "jsonl"] = "text",
    half: bool = False,
    json: bool = False,
) -> int:
    """Teach a bank documents; one that is named when this says so is kept.

    Args:
        files: text files, folders, .jsonl, or - for standard input.
        machine: which model; the bank's own where none is given.
        bank: its folder, made where there is none.
        networks: folder of the networks; the bundled ones where none is given.
        stdin: what standard input holds.
        half: keep vectors in float16 (a new bank).
        json: one JSON object on stdout.
    """
    from driftlm.homes.bank_folder import add as add_to_bank

    added = []
    for ids in add_to_bank(files, Path(bank), machine, networks, stdin=stdin, half=half):
        added += ids
        print(f"driftlm: {len(added):,} documents added", file=sys.stderr)
    show({"bank": bank, "added": added}) if json else print(f"{bank}: {len(added):,} documents added")
    return 0


def listing(bank: str, json: bool = False) -> int:
    """List the documents of a bank.

    Args:
        bank: its folder.
        json: one JSON object on stdout.
    """
    from driftlm.homes.bank_folder import listed

    rows = listed(Path(bank))
    if json:
        show({"bank": bank, "documents": rows})
        return 0
    for row in rows:
        unclear = " (not understood)" if row["time"] and row["timestamp"] is None else ""
        print(f"{row['id']}  {row['time'] or '-'}{unclear}  {row['parts']} parts  {row['bytes']:,} bytes")
    print(f"{len(rows):,} documents")
    return 0


def showing(document: tyro.conf.Positional[str], bank: str, json: bool = False) -> int:
    """Show a document of a bank, its text included.

    Args:
        document: its id.
        bank: its folder.
        json: one JSON object on stdout.
    """
    from dataclasses import asdict

    from driftlm.memories.bank.store import BankStore

    with BankStore.open(bank) as store:
        entry = asdict(store.show(document))
    if json:
        show(entry)
        return 0
    for name, value in entry.items():
        print(f"{name}: {value}")
    return 0


def forget(documents: tyro.conf.Positional[tuple[str, ...]], bank: str, json: bool = False) -> int:
    """Forget documents: the bank is as if they had never been added, and their texts are in none of its files.

    Their vectors leave the disk with `driftlm bank compact`.

    Args:
        documents: their ids.
        bank: its folder.
        json: one JSON object on stdout.
    """
    from driftlm.memories.bank.store import BankStore

    if not documents:
        raise DriftError("no document was named; give the ids that `driftlm bank ls` shows.")
    with BankStore.open(bank) as store:
        store.forget(*dict.fromkeys(documents))  # all are known, or none is forgotten
    return forgotten(list(dict.fromkeys(documents)), bank, json)


def expire(bank: str, before: str, json: bool = False) -> int:
    """Forget all documents from before a time, as `forget` does; those without a time stay.

    Args:
        bank: its folder.
        before: a date, a date and time, a year, or seconds since 1970.
        json: one JSON object on stdout.
    """
    from driftlm.memories.bank.store import BankStore
    from driftlm.streams.timestamps import timestamp_of

    timestamp = timestamp_of(before)
    if timestamp is None:
        raise DriftError(f"--before was {before!r}; give a date such as 2024-05-01, a year, or seconds since 1970.")
    with BankStore.open(bank) as store:
        return forgotten(store.expire(timestamp), bank, json)


def forgotten(documents: list[str], bank: str, as_json: bool) -> int:
    """Say which documents are gone, and what is left of them."""
    if documents:
        print(f"driftlm: their vectors stay on disk until `driftlm bank compact --bank {bank}`", file=sys.stderr)
    return said({"bank": bank, "forgotten": documents}, as_json)


def verify(bank: str, json: bool = False) -> int:
    """Check every byte of a bank; exits with 1 and names what is torn or was changed.

    Args:
        bank: its folder.
        json: one JSON object on stdout.
    """
    from driftlm.memories.bank.store import BankStore

    with BankStore.open(bank) as store:
        problems, count = store.verify(), len(store)
    if json:
        show({"bank": bank, "documents": count, "problems": problems})
    else:
        print("\n".join(problems) or f"{count:,} documents, all as they were added")
    return 1 if problems else 0


def compact(bank: str, json: bool = False) -> int:
    """Write a bank's vectors anew, in one file that opens at once; those of what was forgotten leave the disk.

    Args:
        bank: its folder.
        json: one JSON object on stdout.
    """
    from driftlm.memories.bank.store import BankStore

    with BankStore.open(bank) as store:
        store.compact()
        return said({"bank": bank, "documents": len(store)}, json)


def export(
    question: tyro.conf.Positional[str],
    machine: Machine,
    *,
    bank: str,
    to: str,
    networks: str = "",
    aggregation: Way = "exact",
    size: int = 0,
    json: bool = False,
) -> int:
    """Write what a bank says to one question as a folder that transformers and peft load (prefix tuning, or a LoRA).

    Args:
        question: in quotes.
        machine: which model; the bank's own where none is given.
        bank: its folder.
        to: the folder, which must be new.
        networks: the bank's networks, where they moved.
        aggregation: attend to the whole bank or to part of it, as in `driftlm ask`.
        size: entries attended to, of a group, or of the smaller bank.
        json: one JSON object on stdout.
    """
    from driftlm.homes.bank_folder import export as export_question

    facts = export_question(question, Path(bank), machine, networks, Path(to), Aggregation(aggregation, size))
    if json:
        show(facts)
        return 0
    print(f"{to}: {facts['as']} on {facts['base']}")
    for document in facts["documents"]:
        print(f"  {document['weight']:6.1%}  {document['id']}")
    return 0


def said(facts: dict[str, Any], as_json: bool) -> int:
    """Facts as JSON, or line by line."""
    if as_json:
        show(facts)
    else:
        for name, value in facts.items():
            print(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
    return 0


def show(facts: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(facts, allow_nan=False))


def bank() -> int:
    """Keep a bank: add, ls, show, forget, expire, verify, compact, export (see `driftlm bank --help`)."""
    raise DriftError(f"a bank can {', '.join(BANK_VERBS)}; say which: driftlm bank add FILE --bank DIR.")


BANK_VERBS: dict[str, Callable[..., int]] = {
    "add": add,
    "ls": listing,
    "show": showing,
    "forget": forget,
    "expire": expire,
    "verify": verify,
    "compact": compact,
    "export": export,
}
