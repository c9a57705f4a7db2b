"""What a step of meta-training sees: documents, and a question to each subject among them.

The random choices of step n follow from the seed and n alone, so that a resumed training sees what it would have seen.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from driftlm.core.errors import DriftError
from driftlm.streams.facts import Subject, World
from driftlm.streams.questions import QuestionStream

Row = TypeVar("Row")


@dataclass(frozen=True)
class Batch:
    """Documents with times, and questions.

    Attributes:
        documents: texts.
        timestamps: a time each.
        questions: texts.
        answers: one each.
        own: the documents about each question's subject, the one that answers it last.
        kinds: kinds of the questions.
    """

    documents: list[str]
    timestamps: list[float]
    questions: list[str]
    answers: list[str]
    own: list[list[int]]
    kinds: list[str]

    def asking(self, places: Sequence[int]) -> "Batch":
        """Return the same documents, and some of the questions."""

        def some(rows: list[Row]) -> list[Row]:
            return [rows[place] for place in places]

        questions, answers = some(self.questions), some(self.answers)
        return replace(self, questions=questions, answers=answers, own=some(self.own), kinds=some(self.kinds))


@dataclass(frozen=True)
class Entries:
    """A batch's documents as entries of a bank, one for each of their parts.

    Attributes:
        rows: tokens of each.
        timestamps: of its document.
        own: the entries about each question's subject.
        newest: those of them whose document answers it.
    """

    rows: list[list[int]]
    timestamps: list[float]
    own: list[list[int]]
    newest: list[list[int]]


Batches = Callable[[int], Batch]


def entries_of(batch: Batch, parts: Callable[[str], list[list[int]]]) -> Entries:
    """Return a batch's documents, cut into parts.

    Example:
        >>> batch = Batch(["ab", "cde"], [0.1, 0.2], ["?"], ["!"], [[0, 1]], [""])
        >>> entries_of(batch, lambda text: [[ord(letter)] for letter in text])
        Entries(rows=[[97], [98], [99], [100], [101]], timestamps=[0.1, 0.1, 0.2, 0.2, 0.2], \
own=[[0, 1, 2, 3, 4]], newest=[[2, 3, 4]])
    """
    made, places = Entries([], [], [], []), list[list[int]]()
    for text, timestamp in zip(batch.documents, batch.timestamps, strict=True):
        rows = parts(text)
        places.append(list(range(len(made.rows), len(made.rows) + len(rows))))
        made.rows.extend(rows)
        made.timestamps.extend([timestamp] * len(rows))
    for own in batch.own:
        made.own.append([place for document in own for place in places[document]])
        made.newest.append(places[own[-1]])
    return made


def fact_batches(
    size: int, seed: int, *, changed: float = 0.2, distracting: float = 0.05, alike: float = 0.8
) -> Batches:
    """Return endless subjects of the world of facts; a share of them is told of twice, and the newer document wins.

    A share has a word of its name from another subject of the batch: in a bank of thousands most names share a word
    with some other, and among 64 drawn by chance few do.
    """

    def batch(step: int) -> Batch:
        world = World("train", random.Random(f"{seed} {step}"))
        made = Batch([], [], [], [], [], [])
        subjects: list[Subject] = []
        for _ in range(size):
            subject, news = drawn(world, subjects, alike), ""
            subjects.append(subject)
            own = [len(made.documents)]
            made.documents.append(world.told(subject))
            made.timestamps.append(world.random.random())
            if world.random.random() < changed:
                subject, news = world.changed(subject)
                own.append(len(made.documents))
                made.documents.append(world.told(subject, news))
                made.timestamps.append(made.timestamps[-1] + world.random.random() * (1 - made.timestamps[-1]))
            question = world.asked(subject, news or world.any_attribute(subject))
            made.questions.append(question.text)
            made.answers.append(question.answers[0])
            made.kinds.append(question.kind)
            made.own.append(own)
        for _ in range(round(distracting * size)):
            made.documents.append(world.distraction())
            made.timestamps.append(world.random.random())
        return made

    return batch


def drawn(world: World, subjects: list[Subject], alike: float) -> Subject:
    """Draw another subject than those of the batch."""
    like = world.random.choice(subjects) if subjects and world.random.random() < alike else None
    while True:
        subject = world.subject(like)
        if all(subject.name != other.name for other in subjects):
            return subject


def stream_batches(stream: QuestionStream, size: int, seed: int) -> Batches:
    """Return the documents of a stream by chance, one question to each; times are the order of the stream.

    Raises:
        DriftError: for fewer than two documents with questions.
    """
    texts = {document.id: (place, document.text) for place, document in enumerate(stream.documents)}
    asked: dict[str, list[int]] = {}
    for number, question in enumerate(stream.questions):
        asked.setdefault(question.document, []).append(number)
    known = sorted(asked)
    if len(known) < 2:
        raise DriftError(f"the stream has {len(known)} documents with questions; training needs at least 2.")

    def batch(step: int) -> Batch:
        generator = random.Random(f"{seed} {step}")
        made = Batch([], [], [], [], [], [])
        for name in generator.sample(known, min(size, len(known))):
            question = stream.questions[generator.choice(asked[name])]
            place, text = texts[name]
            made.own.append([len(made.documents)])
            made.documents.append(text)
            made.timestamps.append(place / len(texts))
            made.questions.append(question.text)
            made.answers.append(generator.choice(question.answers))
            made.kinds.append(question.kind)
        return made

    return batch
