"""The verb `study`: a study of `evaluation.study` on a stream of questions."""

from pathlib import Path
from typing import Any

from driftlm.banking import networks_for
from driftlm.errors import DriftError
from driftlm.evaluation.study import question_answering, retention_curve
from driftlm.options import Machine
from driftlm.streams.facts import facts
from driftlm.streams.questions import QuestionStream, read_questions


def studied(
    what: str,
    machine: Machine,
    stream: str,
    memories: tuple[str, ...],
    *,
    networks: str,
    documents: int,
    questions: int,
    seed: int,
) -> list[dict[str, Any]]:
    """The rows of a study.

    Raises:
        DriftError: for a stream or networks that cannot be read, or numbers that make no sense.
    """
    if documents < 1 or questions < 0:
        raise DriftError(f"--documents was {documents} and --questions {questions}; give at least 1 and at least 0.")
    chosen = questions_of(stream, documents, seed)
    made = networks_for(Path(), machine, networks)
    if what == "retention":
        return retention_curve(made, chosen)
    return question_answering(made, chosen, memories, chosen.questions[: questions or None])


def questions_of(stream: str, documents: int, seed: int) -> QuestionStream:
    """The stream of facts about unseen entities, or the first documents of a file."""
    if stream == "facts":
        return facts(documents, seed=seed)
    return read_questions(stream, limit_documents=documents)
