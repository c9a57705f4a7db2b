"""Studies of memories that answer questions, each one function that gives rows for a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.cost.summary import Spent
from driftlm.evaluation.answering import Answered, retention, summarized
from driftlm.evaluation.asking import answered
from driftlm.evaluation.candidates import Candidate, Terms, taking_part
from driftlm.evaluation.paired import Examined, table_of, write
from driftlm.evaluation.paired import row_of as row_of  # studies of the bank's parts have the same rows
from driftlm.evaluation.settings import GREEDY, Asking
from driftlm.evaluation.sweep import Chosen, chosen_rate, comparable
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.streams.questions import Question, QuestionStream

FIRST, LATER = 200, (0, 200, 465, 965, 1465)  # documents asked about, and further ones


def compare(
    terms: Terms,
    stream: QuestionStream,
    memories: Sequence[str],
    questions: Sequence[Question],
    asking: Asking = GREEDY,
    validation: QuestionStream | None = None,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Adapt on the whole stream, then answer: one row a memory.

    Keys of a row: memory, documents, questions, em, prefix_em, f1, nats (per answer token), recall (share of the right
    documents among the `retrieved` ones: found as text, or else of the largest shares), recall_at_1 (as the first of
    them, None where `retrieved` is 1 for all), em_interval, f1_interval, seconds_adapt (all documents), seconds_answer
    (a question), tokens_answer (of a prompt, retrieved ones included), bytes_per_document (bank: vectors and keys;
    retrieval: texts and vectors), weight (share of the right document), changed, changed_em and stale (of questions
    whose answer changed), cut (documents too long for the context), kinds, golds, beams, aggregation and size (of the
    bank, else None), retrieved (documents of each source that count as found, None without a source), encoder (of
    `dense`, else None), peak_adapt_bytes (growth while adapting, None where the system does not tell), learning_rate
    and learning_rates (nats per answer token on the validation stream, by rate), em_difference, f1_difference and their
    intervals (from the first memory).

    Args:
        terms: what all are compared on.
        stream: of documents.
        memories: names, as `candidates` has them.
        questions: about the stream's documents.
        asking: how.
        validation: where learning rates are chosen.
        out: folder for the answers as JSON lines, written anew after every memory; `paired.read` reads it.

    Raises:
        DriftError: for names that make no memory, or a learning rate that cannot be chosen.
    """
    examined: list[Examined] = []
    for name in comparable(memories, terms, validation):
        chosen = chosen_rate(name, terms, validation)
        with taking_part(name, terms, stream.documents, chosen.rate or 0.0) as candidate:
            examined.append(examine(candidate, chosen, stream, questions, asking))
        if out is not None:
            write(out, examined)
    return table_of(examined)


def examine(
    candidate: Candidate, chosen: Chosen, stream: QuestionStream, questions: Sequence[Question], asking: Asking
) -> Examined:
    """Return a memory that is new, adapted and asked."""
    with Spent(candidate.language_model.device) as adapting:
        candidate.adapt(stream.documents, questions)
    found = answered(
        candidate.language_model, questions, candidate.supply, asking, candidate.positions, candidate.terms.retrieved
    )
    facts = {
        "memory": candidate.name,
        "documents": len(stream.documents),
        "golds": asking.golds,
        "beams": asking.beams,
        "seconds_adapt": adapting.seconds,
        "bytes_per_document": candidate.bytes_kept() / len(stream.documents),
        **settings_of(candidate),
        "peak_adapt_bytes": adapting.bytes,
        "learning_rate": chosen.rate,
        "learning_rates": chosen.tried,
    }
    return Examined(facts, found)


def question_answering(
    networks: BankNetworks,
    stream: QuestionStream,
    memories: Sequence[str],
    questions: Sequence[Question],
    asking: Asking = GREEDY,
    aggregation: Aggregation = EXACT,
) -> list[dict[str, Any]]:
    """Return the rows that `compare` gives for memories without learning rates."""
    return compare(Terms(networks.language_model, networks, aggregation), stream, memories, questions, asking)


def settings_of(candidate: Candidate) -> dict[str, Any]:
    """Return what a row says of how the sources find documents: None for what a memory does not have."""
    has_bank = "bank" in candidate.parts
    found = of_aggregation(candidate.terms.aggregation) if has_bank else {"aggregation": None, "size": None}
    return found | {"retrieved": candidate.retrieved, "encoder": candidate.encoder}


def of_aggregation(aggregation: Aggregation) -> dict[str, Any]:
    """Return what a row says of it."""
    return {"aggregation": aggregation.way, "size": aggregation.size or None}


def retained(
    terms: Terms,
    stream: QuestionStream,
    memories: Sequence[str],
    asking: Asking = GREEDY,
    validation: QuestionStream | None = None,
) -> list[dict[str, Any]]:
    """Return answers about the first 200 documents as further ones arrive, relative to the start: some rows a memory.

    Keys of a row: memory, documents (further ones), questions, em, f1, em_retention, f1_retention, weight, aggregation
    and size (of the bank, else None), retrieved, encoder, learning_rate. All questions are asked whose document is one
    of the first. Where a later document changes an answer, the question names that later document (`streams.facts`), so
    that none is asked whose right answer further documents change. Arguments as of `compare`.

    Raises:
        DriftError: for a stream of 200 documents or fewer, and as `compare`.

    Source: the retention figure of MAC (arXiv 2403.04317).
    """
    if len(stream.documents) <= FIRST:
        raise DriftError(f"the stream has {len(stream.documents)} documents; retention needs more than {FIRST}.")
    first = {document.id for document in stream.documents[:FIRST]}
    questions = [one for one in stream.questions if one.document in first]
    rows: list[dict[str, Any]] = []
    for name in comparable(memories, terms, validation):
        chosen = chosen_rate(name, terms, validation)
        start: list[Answered] | None = None
        done = 0
        with taking_part(name, terms, stream.documents, chosen.rate or 0.0) as candidate:
            for size in sorted({min(FIRST + further, len(stream.documents)) for further in LATER}):
                candidate.adapt(stream.documents[done:size], questions)
                done = size
                found = answered(candidate.language_model, questions, candidate.supply, asking, candidate.positions)
                start = start or found
                kept, summary = retention(start, found, asking.golds), summarized(found, asking.golds)
                row = {"memory": name, "documents": size - FIRST, "questions": len(questions)}
                row |= {"em": summary["em"], "f1": summary["f1"], "em_retention": kept[0], "f1_retention": kept[1]}
                row |= {"weight": summary["weight"]} | settings_of(candidate) | {"learning_rate": chosen.rate}
                rows.append(row)
    return rows


def retention_curve(
    networks: BankNetworks, stream: QuestionStream, asking: Asking = GREEDY, aggregation: Aggregation = EXACT
) -> list[dict[str, Any]]:
    """Return the rows that `retained` gives for a bank."""
    return retained(Terms(networks.language_model, networks, aggregation), stream, ["bank"], asking)
