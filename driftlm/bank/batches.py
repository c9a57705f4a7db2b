"""What a step of meta-training sees: documents, and a question to each subject among them.

The random choices of step n follow from the seed and n alone, so that a resumed training sees what it would have seen.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from driftlm.errors import DriftError
from driftlm.streams.facts import Subject, World
from driftlm.streams.questions import QuestionStream


@dataclass(frozen=True)
class Batch:
    """Documents with times, and questions.

    Attributes:
        documents: texts.
        moments: a time each.
        questions: texts.
        answers: one each.
        own: the documents about each question's subject, the one that answers it last.
        kinds: kinds of the questions.
    """

    documents: list[str]
    moments: list[float]
    questions: list[str]
    answers: list[str]
    own: list[list[int]]
    kinds: list[str]


Batches = Callable[[int], Batch]


def fact_batches(
    size: int, seed: int, *, changed: float = 0.2, distracting: float = 0.05, alike: float = 0.5
) -> Batches:
    """Endless subjects of the world of facts; a share of them is told of twice, and the newer document wins.

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
            made.moments.append(world.random.random())
            if world.random.random() < changed:
                subject, news = world.changed(subject)
                own.append(len(made.documents))
                made.documents.append(world.told(subject, news))
                made.moments.append(made.moments[-1] + world.random.random() * (1 - made.moments[-1]))
            question = world.asked(subject, news or world.any_attribute(subject))
            made.questions.append(question.text)
            made.answers.append(question.answers[0])
            made.kinds.append(question.kind)
            made.own.append(own)
        for _ in range(round(distracting * size)):
            made.documents.append(world.distraction())
            made.moments.append(world.random.random())
        return made

    return batch


def drawn(world: World, subjects: list[Subject], alike: float) -> Subject:
    """Another subject than those of the batch."""
    like = world.random.choice(subjects) if subjects and world.random.random() < alike else None
    while True:
        subject = world.subject(like)
        if all(subject.name != other.name for other in subjects):
            return subject


def stream_batches(stream: QuestionStream, size: int, seed: int) -> Batches:
    """Documents of a stream by chance, one question to each; times are the order of the stream.

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
            made.moments.append(place / len(texts))
            made.questions.append(question.text)
            made.answers.append(generator.choice(question.answers))
            made.kinds.append(question.kind)
        return made

    return batch
