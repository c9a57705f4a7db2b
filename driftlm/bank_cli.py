"""The command line of the bank: one typed function a verb; heavy imports inside."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from driftlm.bank.settings import Aggregation, BankTraining, NetworksSettings, Way
from driftlm.errors import DriftError
from driftlm.evaluation.settings import Asking, Golds
from driftlm.options import Machine

Files = tyro.conf.Positional[tuple[str, ...]]


def train(
    what: tyro.conf.Positional[Literal["bank"]],
    machine: Machine,
    networks: NetworksSettings,
    training: BankTraining,
    *,
    out: str,
    stream: str = "facts",
    reader: str = "",
    start: str = "",
    autocast: bool = False,
    log: int = 25,
    check: int = 100,
) -> int:
    """Meta-train the networks of a bank around a frozen model; the same command goes on after a stop.

    On several devices each takes a share of every batch: `accelerate launch --multi_gpu -m driftlm train bank ...`, or
    `torchrun --nproc-per-node 2 -m -- driftlm train bank ...`.

    Args:
        what: a bank is all there is to train.
        machine: which model.
        networks: their shapes.
        training: how they learn.
        out: folder for checkpoints, the log and the networks.
        stream: `facts`, or a file of documents with questions (SQuAD JSON, JSONL, CSV).
        reader: a PEFT adapter that teaches the model to answer from a document; part of the networks from then on.
        start: a folder of networks to begin with instead of random ones.
        autocast: compute encoders and model in bfloat16.
        log: steps between lines.
        check: steps between checkpoints, with answers to held-out questions.
    """
    from driftlm.training import train as train_bank

    if min(log, check) < 1:
        raise DriftError(f"--log was {log} and --check {check}; give at least 1 of each.")
    last = train_bank(
        machine,
        networks,
        training,
        stream=stream,
        out=Path(out),
        reader=reader,
        start=start,
        autocast=autocast,
        log=log,
        check=check,
    )
    if last is not None:  # of several processes, one speaks
        print(f"the {what}'s networks: {out}")
    return 0


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
    from driftlm.banking import ask as ask_bank

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
    from driftlm.banking import add as add_to_bank

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
    from driftlm.banking import listed

    rows = listed(Path(bank))
    if json:
        show({"bank": bank, "documents": rows})
        return 0
    for row in rows:
        print(f"{row['id']}  {row['time'] or '-'}  {row['parts']} parts  {row['bytes']:,} bytes")
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

    from driftlm.bank.store import BankStore

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
    from driftlm.bank.store import BankStore

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
    from driftlm.bank.store import BankStore
    from driftlm.streams.moments import moment_of

    moment = moment_of(before)
    if moment is None:
        raise DriftError(f"--before was {before!r}; give a date such as 2024-05-01, a year, or seconds since 1970.")
    with BankStore.open(bank) as store:
        return forgotten(store.expire(moment), bank, json)


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
    from driftlm.bank.store import BankStore

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
    from driftlm.bank.store import BankStore

    with BankStore.open(bank) as store:
        store.compact()
        return said({"bank": bank, "documents": len(store)}, json)


def study(
    what: tyro.conf.Positional[Literal["qa", "retention", "bank", "cost"]],
    machine: Machine,
    *,
    stream: str = "facts",
    memories: tuple[str, ...] = ("bank",),
    networks: tuple[str, ...] = (),
    documents: int = 1665,
    questions: int = 0,
    seed: int = 0,
    beams: int = 1,
    gold: Golds = "all",
    aggregation: Way = "exact",
    size: int = 0,
    json: bool = False,
) -> int:
    """Measure memories that answer: adapt on a whole stream, then ask.

    Args:
        what: `qa`; `retention` of the first 200 documents' answers as more arrive; `bank`: its ways of aggregation and
            what it does for running text, for one or several networks; `cost` of banks of growing size.
        machine: which model.
        stream: `facts`, or a file of documents with questions.
        memories: for `qa`, of `none`, `context` (the right document as text), `one` (a bank of the right document) and
            `bank`.
        networks: folder of the bank's networks, several for `bank`; the bundled ones by default.
        documents: how many of the stream; the largest bank of `cost`.
        questions: at most so many (`qa` and `bank`); 0 for all.
        seed: of the stream of facts, and of the sample where a file has more documents, or there are more questions.
        beams: of the search for an answer; 1 is greedy.
        gold: compare with the best of `all` gold answers, or with the `shortest` alone.
        aggregation: attend to the whole bank (`exact`), to its best documents (`nearest`), to groups (`hierarchical`),
            or to a bank made smaller first.
        size: entries attended to, of a group, or of the smaller bank.
        json: one JSON object on stdout.
    """
    from driftlm.evaluation.tables import show_rows
    from driftlm.studying import studied

    rows = studied(
        what,
        machine,
        stream=stream,
        memories=memories,
        networks=networks,
        documents=documents,
        questions=questions,
        seed=seed,
        asking=Asking(beams, gold),
        aggregation=Aggregation(aggregation, size, seed),
    )
    show({"rows": rows}) if json else show_rows(rows)
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
    """Keep a bank: add, ls, show, forget, expire, verify, compact (see `driftlm bank --help`)."""
    raise DriftError(f"a bank can {', '.join(BANK_VERBS)}; say which: driftlm bank add FILE --bank DIR.")


BANK_VERBS: dict[str, Callable[..., int]] = {
    "add": add,
    "ls": listing,
    "show": showing,
    "forget": forget,
    "expire": expire,
    "verify": verify,
    "compact": compact,
}
