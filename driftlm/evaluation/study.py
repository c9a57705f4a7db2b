"""Studies of memories that answer questions, each one function that gives rows for a table."""

import time
from collections.abc import Sequence
from typing import Any

from driftlm.bank.networks import BankNetworks
from driftlm.errors import DriftError
from driftlm.evaluation.answering import Answered, retention, summarized
from driftlm.evaluation.asking import bank_of, from_bank, from_context, from_nothing, from_own_document
from driftlm.streams.questions import Question, QuestionStream

MEMORIES = ("none", "context", "one", "bank")
FIRST, LATER = 200, (0, 200, 465, 965, 1465)  # documents asked about, and further ones


def question_answering(
    networks: BankNetworks, stream: QuestionStream, memories: Sequence[str], questions: Sequence[Question]
) -> list[dict[str, Any]]:
    """Adapt on the whole stream, then answer: one row a memory.

    Keys of a row: memory, documents, questions, em, prefix_em, f1, nats (per answer token), em_interval, f1_interval,
    seconds_adapt (all documents), seconds_answer (a question), bytes_per_document (vectors and keys), weight (attention
    on the right document), changed_em and stale (over the questions whose answer changed), kinds.

    Raises:
        DriftError: for a memory that there is not.
    """
    unknown = [memory for memory in memories if memory not in MEMORIES]
    if unknown or not memories:
        raise DriftError(f"--memories was {' '.join(unknown) or 'empty'}; give some of {', '.join(MEMORIES)}.")
    rows = []
    for memory in memories:
        seconds, size = 0.0, 0.0
        if memory == "bank":
            began = time.perf_counter()
            bank = bank_of(networks, stream.documents)
            seconds = time.perf_counter() - began
            size = sum(t.numel() * t.element_size() for t in (bank.vectors, bank.keys)) / len(stream.documents)
            found = from_bank(networks, bank, questions)
        elif memory == "one":
            found = from_own_document(networks, stream, questions)
        elif memory == "context":
            found = from_context(networks.language_model, stream, questions)
        else:
            found = from_nothing(networks.language_model, questions)
        rows.append(row_of(memory, len(stream.documents), found, seconds, size))
    return rows


def row_of(memory: str, documents: int, found: Sequence[Answered], seconds: float, size: float) -> dict[str, Any]:
    """A row of the table."""
    summary = summarized(found)
    changed = [one for one in found if one.question.superseded]
    return {
        "memory": memory,
        "documents": documents,
        "questions": summary["questions"],
        **{name: summary[name] for name in ("em", "prefix_em", "f1", "nats", "em_interval", "f1_interval")},
        "seconds_adapt": seconds,
        "seconds_answer": summary["seconds"],
        "bytes_per_document": size,
        "weight": summary["weight"],
        "changed": len(changed),
        "changed_em": summarized(changed)["em"] if changed else None,
        "stale": summary["stale"],
        "kinds": summary["kinds"],
    }


def retention_curve(networks: BankNetworks, stream: QuestionStream) -> list[dict[str, Any]]:
    """Answers about the first 200 documents as further ones arrive, relative to the start.

    Keys of a row: documents (further ones), em, f1, em_retention, f1_retention, weight. Questions whose answer a
    later document changes are left out: for them, losing the old answer is right.

    Source: the retention figure of MAC (arXiv 2403.04317).
    """
    if len(stream.documents) <= FIRST:
        raise DriftError(f"the stream has {len(stream.documents)} documents; retention needs more than {FIRST}.")
    first = {document.id for document in stream.documents[:FIRST]}
    questions = [one for one in stream.questions if one.document in first]
    sizes = sorted({min(FIRST + further, len(stream.documents)) for further in LATER})
    rows: list[dict[str, Any]] = []
    start: list[Answered] | None = None
    for size in sizes:
        found = from_bank(networks, bank_of(networks, stream.documents[:size]), questions)
        start = start or found
        kept, summary = retention(start, found), summarized(found)
        row = {"memory": "bank", "documents": size - FIRST, "questions": len(questions)}
        row |= {"em": summary["em"], "f1": summary["f1"], "em_retention": kept[0], "f1_retention": kept[1]}
        rows.append(row | {"weight": summary["weight"]})
    return rows
