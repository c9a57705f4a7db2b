"""The verb `study`: a study of `evaluation` on a stream of questions."""

import random
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.evaluation.bank_cost import MEASURED, cost_rows
from driftlm.evaluation.bank_studies import compared, text_rows
from driftlm.evaluation.candidates import Terms, checked, learner_of, parts_of
from driftlm.evaluation.forgetting import forgotten, unrelated
from driftlm.evaluation.settings import Asking, QuestionStudy
from driftlm.evaluation.study import compare, retained
from driftlm.memories.bank.networks import load_networks
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.memories.context.named_encoders import STATES, parsed
from driftlm.models.machine import Machine
from driftlm.streams.documents import read_documents
from driftlm.streams.facts import facts
from driftlm.streams.questions import Question, QuestionStream, read_questions

OF_MEMORIES = ("qa", "retention", "forgetting")


def studied(
    what: str, machine: Machine, study: QuestionStudy, asking: Asking, aggregation: Aggregation
) -> list[dict[str, Any]]:
    """Measure what is asked for and return its rows.

    Raises:
        DriftError: for a stream or networks that cannot be read, or settings that make no sense together.
    """
    if what not in OF_MEMORIES and study.memories != ("bank",):
        raise DriftError(f"study {what} is about a bank alone; leave out `QuestionStudy.memories`.")
    if what not in ("qa", "retention") and study.out:
        raise DriftError(f"study {what} writes no files; leave out `QuestionStudy.out`.")
    if what != "forgetting" and study.text:
        raise DriftError(f"study {what} reads no text besides the stream; leave out `QuestionStudy.text`.")
    if what == "bank" and aggregation != EXACT:
        raise DriftError(f"study bank aggregates in every way; leave out `Aggregation.way` {aggregation.way}.")
    if what != "bank" and len(study.networks) > 1:
        raise DriftError(
            f"`QuestionStudy.networks` named {len(study.networks)} folders; study {what} takes one, study bank several."
        )
    names = checked(study.memories) if what in OF_MEMORIES else []
    parsed(study.encoder)
    if study.encoder != STATES and not any("dense" in parts_of(name) for name in names):
        raise DriftError(
            f"`QuestionStudy.encoder` was {study.encoder}, and no memory here has dense; add dense to "
            f"`QuestionStudy.memories` or leave it out."
        )
    documents = min(study.documents, MEASURED) if what == "cost" else study.documents
    stream = questions_of(study.stream, documents, study.seed)
    asked = sample(stream.questions, study.questions, study.seed)
    if what == "bank":
        return bank_study(machine, study.networks, stream, asked, asking, study.seed)
    made = load_networks(study.networks[0] if study.networks else None, machine.load())
    if what == "cost":
        return cost_rows(made, stream, study.documents, asking, aggregation)
    terms = Terms(
        made,
        aggregation,
        study.retrieved,
        study.budget,
        study.salience_network,
        study.learning_rate,
        study.encoder,
    )
    swept = any(learner_of(name) is not None for name in names) and study.learning_rate is None
    validation = validation_of(study.stream, stream, study.sweep_documents, study.seed) if swept else None
    if what == "qa":
        return compare(terms, stream, names, asked, asking, validation, Path(study.out) if study.out else None)
    if what == "retention":
        return with_chart(retained(terms, stream, names, asking, validation), study.out)
    texts = list(read_documents(study.text)) if study.text else unrelated()
    return forgotten(terms, stream, names, texts, validation)


def with_chart(rows: list[dict[str, Any]], out: str) -> list[dict[str, Any]]:
    """Return the rows, drawn into a folder where one is named.

    Raises:
        DriftError: where the `report` extra is missing.
    """
    if out:
        if not (find_spec("altair") and find_spec("vl_convert")):
            raise DriftError('The chart needs altair, which is not installed; run: pip install "driftlm[report]"')
        from driftlm.report.retention_chart import write_chart

        write_chart(rows, Path(out))
    return rows


def bank_study(
    machine: Machine,
    folders: tuple[str, ...],
    stream: QuestionStream,
    questions: tuple[Question, ...],
    asking: Asking,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the rows of answers for every folder of networks, then rows of running text."""
    answers, texts = list[dict[str, Any]](), list[dict[str, Any]]()
    for folder in folders or ("",):
        made, name = load_networks(folder or None, machine.load()), {"networks": folder or "bundled"}
        answers += [name | row for row in compared(made, stream, questions, asking, seed)]
        texts += [name | row for row in text_rows(made, stream.documents)]
    return answers + texts


def questions_of(stream: str, documents: int, seed: int) -> QuestionStream:
    """Return the stream of facts about unseen entities, or a file; of one with more documents, a sample drawn by the
    seed.
    """
    if stream == "facts":
        return facts(documents, seed=seed)
    return read_questions(stream, limit_documents=documents, seed=seed)


def validation_of(stream: str, chosen: QuestionStream, documents: int, seed: int) -> QuestionStream:
    """Return where learning rates are chosen: facts about other names, or documents of the file that are not studied.

    Example:
        >>> studied = facts(8)
        >>> held_out = validation_of("facts", studied, 8, seed=0)
        >>> {one.id for one in studied.documents} & {one.id for one in held_out.documents}
        set()
    """
    if stream == "facts":
        return facts(documents, seed=seed, split="validation")
    whole, studied_ids = read_questions(stream), {document.id for document in chosen.documents}
    asked_about = {question.document for question in whole.questions} - studied_ids
    left = [document for document in whole.documents if document.id in asked_about]
    kept = sorted(random.Random(seed).sample(range(len(left)), min(documents, len(left))))
    held_out = {left[place].id for place in kept}
    return replace(
        whole,
        documents=tuple(left[place] for place in kept),
        questions=tuple(question for question in whole.questions if question.document in held_out),
    )


def sample(questions: tuple[Question, ...], most: int, seed: int) -> tuple[Question, ...]:
    """Draw at most so many by the seed, in their order; all for 0.

    >>> some = sample(facts(64).questions, 8, seed=1)
    >>> len(some), some == sample(facts(64).questions, 8, seed=1), some == facts(64).questions[:8]
    (8, True, False)
    """
    if not most or most >= len(questions):
        return questions
    return tuple(questions[place] for place in sorted(random.Random(seed).sample(range(len(questions)), most)))
