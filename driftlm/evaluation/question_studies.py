"""Studies of memories that answer, on a stream of questions."""

import random
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.evaluation.bank_cost import MEASURED, cost_rows
from driftlm.evaluation.bank_studies import compared, text_rows
from driftlm.evaluation.candidates import MODULATING, PARTS, TRAINED, Terms, checked, learner_of, parts_of
from driftlm.evaluation.forgetting import forgotten, unrelated
from driftlm.evaluation.settings import OF_MEMORIES, Asking, QuestionStudy
from driftlm.evaluation.study import compare, retained
from driftlm.memories.bank.networks import BankNetworks, bundled_for, load_networks
from driftlm.memories.context.named_encoders import parsed
from driftlm.models.loading import LanguageModel
from driftlm.models.machine import Machine
from driftlm.streams.documents import read_documents
from driftlm.streams.facts import facts
from driftlm.streams.questions import Question, QuestionStream, read_questions


def studied(what: str, machine: Machine, study: QuestionStudy) -> list[dict[str, Any]]:
    """The rows of a study.

    Args:
        what: `qa`, `retention`, `forgetting`, `bank` or `cost`.
        machine: which model.
        study: what is measured.

    Raises:
        DriftError: for a stream or networks that cannot be read, or settings that make no sense.
    """
    names = checked(study.memories) if what in OF_MEMORIES else []
    parsed(study.encoder)
    study.refuse_unused(what)
    documents = min(study.documents, MEASURED) if what == "cost" else study.documents
    chosen = questions_of(study.stream, documents, study.seed)
    asked = sample(chosen.questions, study.questions, study.seed)
    if what == "bank":
        return bank_study(machine, study.networks, chosen, asked, study.asking, study.seed)
    language_model = machine.load()
    made = networks_for(language_model, study.networks[0] if study.networks else None, names)
    aggregation = replace(study.aggregation, seed=study.seed)
    if what == "cost":
        return cost_rows(
            made or load_networks(None, language_model), chosen, study.documents, study.asking, aggregation
        )
    terms = Terms(
        language_model,
        made,
        aggregation,
        study.retrieved,
        study.budget,
        study.salience_network,
        study.learning_rate,
        study.encoder,
    )
    swept = any(learner_of(name) is not None for name in names) and study.learning_rate is None
    validation = validation_of(study.stream, chosen, study.sweep_documents, study.seed) if swept else None
    if what == "qa":
        return compare(terms, chosen, names, asked, study.asking, validation, Path(study.out) if study.out else None)
    if what == "retention":
        return with_chart(retained(terms, chosen, names, study.asking, validation), study.out)
    return forgotten(terms, chosen, names, list(read_documents(study.text)) if study.text else unrelated(), validation)


def networks_for(language_model: LanguageModel, folder: str | None, names: Sequence[str]) -> BankNetworks | None:
    """Return the bank's networks: those of the folder, or the bundled ones; None where no memory needs any.

    The bundled ones are also there where nothing needs them but they are the model's own: the reader they came with
    answers for every memory, so that a memory's row is the same whatever stands beside it.

    Raises:
        DriftError: where a memory needs networks and there are none for the model.
    """
    bundled = folder is None and bundled_for(language_model)
    needing = [name for name in names if {*parts_of(name)} & {*MODULATING}]
    if needing and folder is None and not bundled:
        others = ", ".join(part for part in PARTS if part not in TRAINED)
        raise DriftError(
            f"`QuestionStudy.memories` named {needing[0]}, which needs networks that were trained for "
            f"{language_model.name!r}, and the bundled ones are another model's; train some with `driftlm train bank` "
            f"and give `QuestionStudy.networks`, or name others: {others} need no training."
        )
    return load_networks(folder, language_model) if bundled or folder is not None else None


def with_chart(rows: list[dict[str, Any]], out: str) -> list[dict[str, Any]]:
    """The rows, drawn into a folder where one is named.

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
    """Rows of answers for every folder of networks, then rows of running text."""
    answers, texts = list[dict[str, Any]](), list[dict[str, Any]]()
    for folder in folders or ("",):
        made, name = load_networks(folder or None, machine.load()), {"networks": folder or "bundled"}
        answers += [name | row for row in compared(made, stream, questions, asking, seed)]
        texts += [name | row for row in text_rows(made, stream.documents)]
    return answers + texts


def questions_of(stream: str, documents: int, seed: int) -> QuestionStream:
    """The stream of facts about unseen entities, or a file; of one with more documents, a sample drawn by the seed."""
    if stream == "facts":
        return facts(documents, seed=seed)
    return read_questions(stream, limit_documents=documents, seed=seed)


def validation_of(stream: str, chosen: QuestionStream, documents: int, seed: int) -> QuestionStream:
    """Where learning rates are chosen: facts about other names, or documents of the file that are not studied.

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
    """At most so many, drawn by the seed and in their order; all for 0.

    >>> some = sample(facts(64).questions, 8, seed=1)
    >>> len(some), some == sample(facts(64).questions, 8, seed=1), some == facts(64).questions[:8]
    (8, True, False)
    """
    if not most or most >= len(questions):
        return questions
    return tuple(questions[place] for place in sorted(random.Random(seed).sample(range(len(questions)), most)))
