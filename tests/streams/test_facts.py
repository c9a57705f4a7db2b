"""The world of facts: from a seed, with names never seen in training, and changes that the newest document tells."""

import hashlib
import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftlm import DriftError
from driftlm.streams.fact_words import KINDS
from driftlm.streams.facts import World, facts, split_of
from driftlm.streams.questions import QuestionStream

pytestmark = pytest.mark.long


def names_of(split: str, count: int) -> set[str]:
    world = World(split, random.Random(0))  # type: ignore[arg-type]
    return {world.subject().name for _ in range(count)}


@given(st.integers(1, 300), st.integers(0, 5), st.floats(0, 1), st.floats(0, 0.9))
@settings(max_examples=25)
def test_a_stream_has_the_documents_asked_for_and_every_answer_is_in_its_document(
    documents: int, seed: int, changed: float, distractors: float
) -> None:
    stream = facts(documents, seed=seed, changed=changed, distractors=distractors)
    assert len(stream.documents) == documents
    texts = {document.id: document.text for document in stream.documents}
    assert len(texts) == len(stream.documents)
    for question in stream.questions:
        assert question.answers[0].lower() in texts[question.document].lower()
        assert question.answers[0] != question.superseded
    assert stream == facts(documents, seed=seed, changed=changed, distractors=distractors)


def test_times_rise_and_a_change_comes_later_than_what_it_changes() -> None:
    stream = facts(400, seed=3, changed=0.5)
    times = [document.time for document in stream.documents]
    assert times == sorted(set(times))  # type: ignore[type-var]
    order = {document.id: place for place, document in enumerate(stream.documents)}
    changed = [question for question in stream.questions if question.superseded]
    assert len(changed) > 100
    for question in changed:
        newest = order[question.document]
        said = [d for d in stream.documents[:newest] if question.superseded.lower() in d.text.lower()]
        assert said


def test_names_of_the_test_never_occur_in_training() -> None:
    groups = {split: names_of(split, 2000) for split in ("train", "validation", "test")}
    assert all(split_of(name) == split for split, names in groups.items() for name in names)
    assert not groups["train"] & groups["test"] and not groups["train"] & groups["validation"]


@pytest.mark.parametrize(
    ("made", "digest"),
    [
        (lambda: facts(1665), "24465c1a99a0b09b7faad17049f9d5db"),
        (lambda: facts(64, seed=1), "90583dff3e468cbfa0291a856d48b4e0"),
        (lambda: facts(5000, seed=2), "c1277d7cbd6ef65f31dbc71e18cf0833"),
        (lambda: facts(500, seed=3, split="validation", distractors=0.0), "2c05f4a416d5b69a2bc131f3ef5531b1"),
    ],
    ids=["test", "small", "large", "validation"],
)
def test_the_world_that_results_were_measured_on_stays(made: Callable[[], QuestionStream], digest: str) -> None:
    stream = made()
    said = [(one.id, one.text, one.time) for one in stream.documents]
    asked = [(one.id, one.text, one.answers, one.document, one.kind, one.superseded) for one in stream.questions]
    assert hashlib.sha256(repr((said, asked)).encode()).hexdigest()[:32] == digest


def test_where_pairs_run_out_names_have_a_middle_word() -> None:
    """More subjects than there are pairs in the split: all different, told and asked by their names, still unseen."""
    stream = facts(12_000, seed=1, changed=0.0, distractors=0.0)
    known = "|".join(re.escape(word) for kind in KINDS.values() for word in (*kind.first, *kind.second))
    longer = re.compile(rf"^((?:{known})(?:,? (?:{known})) &? ?(?:{known}))\b")
    assert len({document.text for document in stream.documents}) == len(stream.questions) == 12_000
    found = [match[1] for document in stream.documents if (match := longer.match(document.text))]
    assert len(found) > 2000 and len(set(found)) == len(found)
    assert {split_of(name) for name in found} == {"test"}


def test_every_value_and_every_wording_fills_its_place() -> None:
    for kind in KINDS.values():
        assert len(set(kind.first)) == len(kind.first) and len(set(kind.second)) == len(kind.second)
        for attribute in kind.attributes:
            assert len(set(attribute.values)) == len(attribute.values) >= 30
            for form in attribute.statements + attribute.news:
                assert "{who}" in form and "{value}" in form and form.endswith(".")
            assert all("{who}" in form and form.endswith("?") for form in attribute.questions)


def test_a_later_telling_says_the_news_first() -> None:
    world = World("train", random.Random(1))
    subject = world.subject()
    later, attribute = world.changed(subject)
    assert later.values[attribute] != subject.values[attribute]
    assert later.values[attribute].lower() in world.told(later, attribute).split(".")[0].lower()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"documents": 0}, "was 0; give 1 to 3,0"),
        ({"documents": 4_000_000}, "give 1 to 3,0"),
        ({"documents": 5, "changed": 2.0}, "give 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(DriftError, match=said):
        facts(**arguments)  # type: ignore[arg-type]
