"""Studies of memories that answer questions, each one function that gives rows for a table."""

import time
from collections.abc import Sequence
from typing import Any

from driftlm.bank.modulations import Modulations
from driftlm.bank.networks import BankNetworks
from driftlm.bank.settings import EXACT, Aggregation
from driftlm.errors import DriftError
from driftlm.evaluation.answering import Answered, retention, summarized
from driftlm.evaluation.asking import bank_of, from_bank, from_context, from_nothing, from_own_document
from driftlm.evaluation.settings import GREEDY, Asking
from driftlm.streams.questions import Question, QuestionStream

MEMORIES = ("none", "context", "one", "bank")
FIRST, LATER = 200, (0, 200, 465, 965, 1465)  # documents asked about, and further ones
SHARED = ("em", "prefix_em", "f1", "nats", "em_interval", "f1_interval")  # of a summary and a row
LAST = ("weight", "changed", "changed_em", "stale", "cut", "kinds")


def question_answering(
    networks: BankNetworks,
    stream: QuestionStream,
    memories: Sequence[str],
    questions: Sequence[Question],
    asking: Asking = GREEDY,
    aggregation: Aggregation = EXACT,
) -> list[dict[str, Any]]:
    """Adapt on the whole stream, then answer: one row a memory.

    Keys of a row: memory, documents, questions, em, prefix_em, f1, nats (per answer token), em_interval, f1_interval,
    seconds_adapt (all documents), seconds_answer (a question), bytes_per_document (vectors and keys), weight (attention
    on the right document), changed, changed_em and stale (of questions whose answer changed), cut (documents too long
    for the context), kinds, golds, beams, aggregation and size (of the bank, else None).

    Raises:
        DriftError: for a memory that there is not.
    """
    unknown = [memory for memory in memories if memory not in MEMORIES]
    if unknown or not memories:
        raise DriftError(f"--memories was {' '.join(unknown) or 'empty'}; give some of {', '.join(MEMORIES)}.")
    rows = []
    for memory in memories:
        seconds, size, of_bank = 0.0, 0.0, memory == "bank"
        if memory == "bank":
            bank, seconds = adapted(networks, stream)
            size = bytes_per_document(bank, aggregation)
            found = from_bank(networks, bank, questions, asking, aggregation)
        elif memory == "one":
            found = from_own_document(networks, stream, questions, asking)
        elif memory == "context":
            found = from_context(networks.language_model, stream, questions, asking)
        else:
            found = from_nothing(networks.language_model, questions, asking)
        row = {"memory": memory} | row_of(found, len(stream.documents), asking, seconds, size)
        rows.append(row | (of_aggregation(aggregation) if of_bank else {"aggregation": None, "size": None}))
    return rows


def adapted(networks: BankNetworks, stream: QuestionStream) -> tuple[Modulations, float]:
    """A bank of all documents, and the seconds that it took."""
    began = time.perf_counter()
    return bank_of(networks, stream.documents), time.perf_counter() - began


def bytes_per_document(bank: Modulations, aggregation: Aggregation) -> float:
    """Vectors and keys of the bank that is attended to, over the documents that it is made of."""
    kept = min(1.0, aggregation.size / len(bank.keys)) if aggregation.reduces else 1.0
    return kept * sum(t.numel() * t.element_size() for t in (bank.vectors, bank.keys)) / bank.documents


def of_aggregation(aggregation: Aggregation) -> dict[str, Any]:
    """What a row says of it."""
    return {"aggregation": aggregation.way, "size": aggregation.size or None}


def row_of(found: Sequence[Answered], documents: int, asking: Asking, seconds: float, size: float) -> dict[str, Any]:
    """What every row of answers holds."""
    summary = summarized(found, asking.golds)
    return {
        "documents": documents,
        "questions": summary["questions"],
        **{name: summary[name] for name in SHARED},
        "seconds_adapt": seconds,
        "seconds_answer": summary["seconds"],
        "bytes_per_document": size,
        **{name: summary[name] for name in LAST},
        "golds": asking.golds,
        "beams": asking.beams,
    }


def retention_curve(
    networks: BankNetworks, stream: QuestionStream, asking: Asking = GREEDY, aggregation: Aggregation = EXACT
) -> list[dict[str, Any]]:
    """Answers about the first 200 documents as further ones arrive, relative to the start.

    Keys of a row: memory, documents (further ones), questions, em, f1, em_retention, f1_retention, weight. All
    questions are asked whose document is one of the first. Where a later document changes an answer, the question names
    that later document (`streams.facts`), so that none is asked whose right answer further documents change.

    Raises:
        DriftError: for a stream of 200 documents or fewer.

    Source: the retention figure of MAC (arXiv 2403.04317).
    """
    if len(stream.documents) <= FIRST:
        raise DriftError(f"the stream has {len(stream.documents)} documents; retention needs more than {FIRST}.")
    first = {document.id for document in stream.documents[:FIRST]}
    questions = [one for one in stream.questions if one.document in first]
    whole = bank_of(networks, stream.documents)
    rows: list[dict[str, Any]] = []
    start: list[Answered] | None = None
    for size in sorted({min(FIRST + further, len(stream.documents)) for further in LATER}):
        found = from_bank(networks, whole.select(whole.owner < size), questions, asking, aggregation)
        start = start or found
        kept, summary = retention(start, found, asking.golds), summarized(found, asking.golds)
        row = {"memory": "bank", "documents": size - FIRST, "questions": len(questions)}
        row |= {"em": summary["em"], "f1": summary["f1"], "em_retention": kept[0], "f1_retention": kept[1]}
        rows.append(row | {"weight": summary["weight"]} | of_aggregation(aggregation))
    return rows
