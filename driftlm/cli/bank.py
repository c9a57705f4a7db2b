"""The verb `bank`: a bank that is kept in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tyro

from driftlm.cli.output import said, show, tell
from driftlm.core.errors import DriftError
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.models.machine import Machine

Files = tyro.conf.Positional[tuple[str, ...]]


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
        tell(f"{len(added):,} documents added")
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
    from driftlm.homes.bank_folder import shown

    entry = shown(Path(bank), document)
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
    from driftlm.homes.bank_folder import forget as forget_in_bank

    return forgotten(forget_in_bank(Path(bank), documents), bank, json)


def expire(bank: str, before: str, json: bool = False) -> int:
    """Forget all documents from before a time, as `forget` does; those without a time stay.

    Args:
        bank: its folder.
        before: a date, a date and time, a year, or seconds since 1970.
        json: one JSON object on stdout.
    """
    from driftlm.homes.bank_folder import expire as expire_in_bank

    return forgotten(expire_in_bank(Path(bank), before), bank, json)


def forgotten(documents: list[str], bank: str, as_json: bool) -> int:
    """Say which documents are gone, and what is left of them."""
    if documents:
        tell(f"their vectors stay on disk until `driftlm bank compact --bank {bank}`")
    return said({"bank": bank, "forgotten": documents}, as_json)


def verify(bank: str, json: bool = False) -> int:
    """Check every byte of a bank; exits with 1 and names what is torn or was changed.

    Args:
        bank: its folder.
        json: one JSON object on stdout.
    """
    from driftlm.homes.bank_folder import verify as problems_of

    problems, count = problems_of(Path(bank))
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
    from driftlm.homes.bank_folder import compact as compact_bank

    return said({"bank": bank, "documents": compact_bank(Path(bank))}, json)


def export(
    question: tyro.conf.Positional[str],
    machine: Machine,
    aggregation: Aggregation = EXACT,
    *,
    bank: str,
    to: str,
    networks: str = "",
    json: bool = False,
) -> int:
    """Write what a bank says to one question as a folder that transformers and peft load (prefix tuning, or a LoRA).

    Args:
        question: in quotes.
        machine: which model; the bank's own where none is given.
        aggregation: attend to the whole bank or to part of it.
        bank: its folder.
        to: the folder, which must be new.
        networks: the bank's networks, where they moved.
        json: one JSON object on stdout.
    """
    from driftlm.homes.bank_folder import export as export_question

    facts = export_question(question, Path(bank), machine, networks, Path(to), aggregation)
    if json:
        show(facts)
        return 0
    print(f"{to}: {facts['as']} on {facts['base']}")
    for document in facts["documents"]:
        print(f"  {document['weight']:6.1%}  {document['id']}")
    return 0


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
