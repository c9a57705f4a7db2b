"""A lesson for a new bank: documents about invented people, places and firms, and questions about them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.homes.bank_folder import add, ask
from driftlm.models.machine import Machine
from driftlm.streams.demonstration import invented
from driftlm.streams.questions import Question

LONGEST = 24  # tokens of an answer


@dataclass(frozen=True)
class Taught:
    """What a bank was taught: the file, and how many documents of it."""

    text: Path
    documents: int


def lesson(bank: Path, seed: int, machine: Machine) -> tuple[Taught, Iterator[tuple[Question, dict[str, Any]]]]:
    """Teach a new bank what is invented; returns what it was, and every question with the answer that `ask` gives.

    Raises:
        DriftError: where the folder exists.
    """
    if bank.exists():
        raise DriftError(f"`lesson.bank` {bank} exists already; give a new folder.")
    text, questions = invented(bank, seed)
    taught = Taught(text, sum(len(ids) for ids in add((str(text),), bank, machine, "", stdin="text", half=False)))
    return taught, zip(questions, ask(tuple(one.text for one in questions), bank, machine, "", LONGEST), strict=True)
