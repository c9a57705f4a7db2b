"""The verb `study`: a study of `evaluation` on a stream of questions."""

import random
from typing import Any

from driftlm.bank.settings import EXACT, Aggregation
from driftlm.banking import networks_at
from driftlm.errors import DriftError
from driftlm.evaluation.bank_cost import MEASURED, cost_rows
from driftlm.evaluation.bank_studies import compared, text_rows
from driftlm.evaluation.settings import Asking
from driftlm.evaluation.study import question_answering, retention_curve
from driftlm.options import Machine
from driftlm.streams.facts import facts
from driftlm.streams.questions import Question, QuestionStream, read_questions


def studied(
    what: str,
    machine: Machine,
    *,
    stream: str,
    memories: tuple[str, ...],
    networks: tuple[str, ...],
    documents: int,
    questions: int,
    seed: int,
    asking: Asking,
    aggregation: Aggregation,
) -> list[dict[str, Any]]:
    """The rows of a study.

    Raises:
        DriftError: for a stream or networks that cannot be read, or settings that make no sense.
    """
    if documents < 1 or questions < 0:
        raise DriftError(f"--documents was {documents} and --questions {questions}; give at least 1 and at least 0.")
    if what != "qa" and memories != ("bank",):
        raise DriftError(f"study {what} is about a bank alone; leave out --memories.")
    if what == "bank" and aggregation != EXACT:
        raise DriftError(f"study bank aggregates in every way; leave out --aggregation {aggregation.way}.")
    if what != "bank" and len(networks) > 1:
        raise DriftError(f"--networks named {len(networks)} folders; study {what} takes one, study bank several.")
    chosen = questions_of(stream, min(documents, MEASURED) if what == "cost" else documents, seed)
    asked = sample(chosen.questions, questions, seed)
    if what == "bank":
        return bank_study(machine, networks, chosen, asked, asking, seed)
    made = networks_at(machine, networks[0] if networks else "")
    if what == "retention":
        return retention_curve(made, chosen, asking, aggregation)
    if what == "cost":
        return cost_rows(made, chosen, documents, asking, aggregation)
    return question_answering(made, chosen, memories, asked, asking, aggregation)


def bank_study(
    machine: Machine,
    folders: tuple[str, ...],
    stream: QuestionStream,
    questions: tuple[Question, ...],
    asking: Asking,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of answers for every folder of networks, then rows of running text."""
    answers, texts = list[dict[str, Any]](), list[dict[str, Any]]()
    for folder in folders or ("",):
        made, name = networks_at(machine, folder), {"networks": folder or "bundled"}
        answers += [name | row for row in compared(made, stream, questions, asking, seed)]
        texts += [name | row for row in text_rows(made, stream.documents)]
    return answers + texts


def questions_of(stream: str, documents: int, seed: int) -> QuestionStream:
    """The stream of facts about unseen entities, or a file; of one with more documents, a sample drawn by the seed."""
    if stream == "facts":
        return facts(documents, seed=seed)
    return read_questions(stream, limit_documents=documents, seed=seed)


def sample(questions: tuple[Question, ...], most: int, seed: int) -> tuple[Question, ...]:
    """At most so many, drawn by the seed and in their order; all for 0.

    >>> some = sample(facts(64).questions, 8, seed=1)
    >>> len(some), some == sample(facts(64).questions, 8, seed=1), some == facts(64).questions[:8]
    (8, True, False)
    """
    if not most or most >= len(questions):
        return questions
    return tuple(questions[place] for place in sorted(random.Random(seed).sample(range(len(questions)), most)))
