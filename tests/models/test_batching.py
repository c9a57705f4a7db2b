"""How rows are cut into batches: bounds on random lengths, what reaches the model, and results whatever the cut."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from driftlm import Document
from driftlm.evaluation.asking import answered, gold_nats, own_text
from driftlm.evaluation.settings import Asking
from driftlm.memories.bank.source import bank_of
from driftlm.memories.context.encoders import PooledEncoder, StatesOfModel
from driftlm.models import batching
from driftlm.models.batching import MOST_PADDING, MOST_ROWS, MOST_TOKENS, SHARE, SHORT, Footprint, batches
from driftlm.streams.questions import Question
from driftlm.training.distillation import divergence
from driftlm.training.qa import Lesson, asked
from tests.support.build import language_model
from tests.support.made_banks import PLACES, networks
from tests.support.made_encoders import saved, tiny_bert

PLENTY, LITTLE, NONE = 1 << 40, 1 << 25, 1  # bytes


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that so much memory is available."""
    return lambda room: monkeypatch.setattr(batching, "available_bytes", lambda device: room)


@contextmanager
def passes(model: Any) -> Iterator[list[tuple[int, int]]]:
    """Rows and padded tokens of every pass that begins with a prompt."""
    seen: list[tuple[int, int]] = []

    def note(module: Any, arguments: Any, named: dict[str, Any]) -> None:
        rows, longest = (named["input_ids"] if "input_ids" in named else arguments[0]).shape
        if longest > 1:
            seen.append((rows, longest))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def test_every_row_is_in_one_batch_and_every_batch_within_its_bounds() -> None:
    generator = random.Random(0)
    for _ in range(200):
        counts = [generator.choice((3, 90, 140, 700, 9000)) + generator.randrange(20) for _ in range(50)]
        footprint = Footprint(generator.choice((1, 700)), generator.choice((0, 5)), 40)
        room = 10 ** generator.randint(3, 9)
        found = batches(counts, footprint, room)
        assert sorted(place for some in found for place in some) == list(range(50))
        for some in found:
            lengths = sorted(counts[place] for place in some)
            if len(some) > 1:
                assert len(some) <= MOST_ROWS and len(some) * lengths[-1] <= MOST_TOKENS
                assert footprint.bytes(len(some), lengths[-1]) <= room
                assert lengths[-1] <= max(SHORT, MOST_PADDING * lengths[0])
    assert batches([], Footprint(1), 1) == []
    assert len(batches([500] * 32, Footprint(1), 1e9)) == 1 and len(batches([8000] * 32, Footprint(1), 1e9)) == 16


def test_a_footprint_follows_from_the_shape_of_the_model() -> None:
    model = language_model("llama").model
    config = model.config
    head = config.hidden_size // config.num_attention_heads
    kept, plain = Footprint.of(model, answer=3), Footprint.of(model)
    assert kept.token - plain.token == 4 * 2 * config.num_hidden_layers * config.num_key_value_heads * head
    assert kept.row == 3 * 3 * 4 * config.vocab_size and plain.row == 0
    assert Footprint.of(model, states=True).token - plain.token == 4 * config.num_hidden_layers * config.hidden_size
    assert Footprint.of(model.to(torch.bfloat16)).token * 2 == plain.token


def asked_about(documents: int) -> tuple[list[Document], list[Question]]:
    """Documents of very different lengths, the longest first, with a question each."""
    texts = [f"It rained in {place}. " * (40 - 3 * number) for number, place in enumerate(PLACES[:documents])]
    told = [Document(place, text) for place, text in zip(PLACES, texts, strict=False)]
    return told, [Question(f"Where, {n}?", (one.id,), one.id) for n, one in enumerate(told)]


def test_answers_are_the_same_whatever_memory_there_is(memory: Any) -> None:
    model = language_model("llama")
    documents, questions = asked_about(8)
    footprint, found, sizes = Footprint.of(model.model, 24), [], []
    for room in (PLENTY, LITTLE, NONE):
        memory(room)
        with passes(model.model.base_model) as seen:
            found.append(answered(model, questions, own_text(documents), Asking(beams=2)))
            nats = gold_nats(model, questions, own_text(documents))
        tokens = sum(one.tokens for one in found[-1])
        assert nats == pytest.approx(sum(one.nats for one in found[-1]) / tokens, abs=1e-5)
        for rows, longest in seen:
            assert rows <= 2 or footprint.bytes(rows, longest) <= SHARE * room  # two beams of one question
        sizes.append(max(rows for rows, _ in seen))
    assert sizes[0] > sizes[1] > sizes[2] == 2
    for other in found[1:]:
        assert [one.question for one in other] == questions
        assert [one.prediction for one in other] == [one.prediction for one in found[0]]
        assert [one.prompt for one in other] == [one.prompt for one in found[0]]
        assert [one.nats for one in other] == pytest.approx([one.nats for one in found[0]], abs=1e-5)


def test_few_long_documents_are_asked_about_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever memory there is: 32 documents of some thousand tokens once stood in one batch."""
    monkeypatch.setattr(batching, "MOST_TOKENS", 1000)
    model = language_model("llama")
    text = "It rained in Paris. " * 20
    tokens = len(model.encode(text)[0])
    told = [Document(str(number), text) for number in range(8)]
    questions = [Question("Where?", ("Paris",), one.id) for one in told]
    with passes(model.model.base_model) as seen:
        answered(model, questions, own_text(told))
    assert max(rows for rows, longest in seen if longest >= tokens) == 1000 // (tokens + 40) < 8


def test_documents_are_read_the_same_whatever_memory_there_is(memory: Any, tmp_path: Path) -> None:
    made, told = networks(), asked_about(8)[0]
    texts = [one.text for one in told]
    bert, states = PooledEncoder(saved(tiny_bert(), tmp_path / "bert")), StatesOfModel(made.language_model)
    found = []
    for room in (PLENTY, LITTLE, NONE):
        memory(room)
        with passes(made.language_model.model.base_model) as seen, passes(bert.of_documents[0]) as pooled:
            bank = bank_of(made, told)
            found.append([bank.vectors, bank.keys, states.documents(texts), bert.documents(texts)])
        assert (room == NONE) == ({rows for rows, _ in (*seen, *pooled)} == {1})
    for other in found[1:]:
        for one, same in zip(other, found[0], strict=True):
            torch.testing.assert_close(one, same, atol=1e-5, rtol=1e-5)


def test_held_out_lessons_and_the_teacher_are_asked_in_batches(memory: Any) -> None:
    model = language_model("llama")
    documents, questions = asked_about(8)
    lessons = [Lesson([one.text], [(question.text, "in")]) for one, question in zip(documents, questions, strict=True)]
    golds = [model.tokenizer(" on the sea", add_special_tokens=False)["input_ids"][: 1 + n % 2] for n in range(8)]
    logits = torch.randn(8, 2, model.vocabulary, generator=torch.Generator().manual_seed(0))
    asking, telling = [one.text for one in questions], [one.text for one in documents]
    found, taught = [], []
    for room in (PLENTY, NONE):
        memory(room)
        with passes(model.model.base_model) as seen:
            found.append(asked(model, lessons, longest=512))
            taught.append(divergence(model, asking, telling, golds, logits))
        assert (room == NONE) == ({rows for rows, _ in seen} == {1})
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    torch.testing.assert_close(taught[0], taught[1], atol=1e-5, rtol=1e-5)
