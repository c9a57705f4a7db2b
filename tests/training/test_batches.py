"""What a step of meta-training sees: it follows from the step alone, and every part of a document is in it."""

import random

import pytest

from driftlm.core.errors import DriftError
from driftlm.streams.documents import Document
from driftlm.streams.questions import Question, QuestionStream
from driftlm.training.batches import entries_of, fact_batches, stream_batches
from tests.support.made_trainings import LONG


def test_every_part_of_a_document_is_an_entry() -> None:
    made = entries_of(LONG, lambda text: [[n] for n in range(text.count(".") + 1)])
    assert made.rows == [[0], [1], [2], [3], [0], [1], [2], [0], [1]]
    assert made.timestamps == [0.1] * 4 + [0.2] * 3 + [0.3] * 2
    assert made.own == [[0, 1, 2, 3, 4, 5, 6], [7, 8]] and made.newest == [[4, 5, 6], [7, 8]]


def test_some_of_the_questions_keep_all_documents() -> None:
    one = LONG.asking([1])
    assert one.documents == LONG.documents and one.timestamps == LONG.timestamps
    assert (one.questions, one.answers, one.own, one.kinds) == (["Where was the cat seen?"], ["Bern"], [[2]], ["cat"])


def test_batches_of_facts_follow_from_the_step_alone() -> None:
    batches = fact_batches(4, 5)
    first = [batches(step) for step in range(4)]
    random.seed(7)
    assert [batches(step) for step in (3, 2, 1, 0)] == first[::-1]
    assert [fact_batches(4, 5)(step) for step in range(4)] == first
    assert first[0] != first[1] and fact_batches(4, 6)(0) != first[0]


def test_of_two_documents_about_a_subject_the_newer_one_comes_last() -> None:
    batch = fact_batches(16, 5, changed=1.0, distracting=0.25)(0)
    assert len(batch.documents) == len(batch.timestamps) == 2 * 16 + 4
    assert all(len(own) == 2 and batch.timestamps[own[0]] < batch.timestamps[own[1]] for own in batch.own)
    assert sorted(place for own in batch.own for place in own) == list(range(32))
    for answer, own in zip(batch.answers, batch.own, strict=True):
        assert answer in batch.documents[own[-1]] and answer not in batch.documents[own[0]]


def stream(count: int, asked: int) -> QuestionStream:
    documents = tuple(Document(str(number), f"Text {number}.") for number in range(count))
    questions = tuple(
        Question(f"What is {number} {which}?", (f"A{number}", f"B{number}"), str(number))
        for number in range(asked)
        for which in range(2)
    )
    return QuestionStream(documents, questions)


@pytest.mark.parametrize(("count", "asked"), [(1, 1), (5, 1), (2, 0)])
def test_a_stream_with_fewer_than_two_documents_with_questions_is_refused(count: int, asked: int) -> None:
    with pytest.raises(DriftError, match=f"the stream has {asked} documents with questions; training needs at least 2"):
        stream_batches(stream(count, asked), 4, 0)


def test_batches_of_a_stream_ask_each_document_once_and_keep_its_time() -> None:
    batches = stream_batches(stream(8, 6), 4, 0)
    for step in range(8):
        batch = batches(step)
        assert batch == batches(step) and batch.own == [[0], [1], [2], [3]]
        names = [text.split()[1].rstrip(".") for text in batch.documents]
        assert len(set(names)) == 4 and all(int(name) < 6 for name in names)
        assert batch.timestamps == [int(name) / 8 for name in names]
        assert [question.split()[2] for question in batch.questions] == names
        assert all(answer[1:] == name for answer, name in zip(batch.answers, names, strict=True))
    assert len(stream_batches(stream(3, 3), 9, 0)(0).documents) == 3
