"""The verb `train qa`: lessons, the loss, early stopping, and that it goes on bit-equal where it stopped."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from driftlm import DriftError
from driftlm.memories.bank.networks import with_adapter
from driftlm.models.loading import load
from driftlm.models.machine import Machine
from driftlm.streams.facts import World
from driftlm.training import qa
from driftlm.training.qa import AnswerTrainer, Lesson, fact_lesson, row_of, sources, stream_lesson
from driftlm.training.settings import AnswerRun, AnswerTraining
from tests.support.made_trainings import facts_file
from tests.support.running import driftlm, refused, tiny_model

pytestmark = pytest.mark.long

SMALL: dict[str, Any] = {"batch": 2, "rank": 2, "longest": 200}


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qa, "WATCHED", 3)


def trained(folder: Path, out: str, steps: int, stream: str = "facts", **settings: Any) -> dict[str, Any]:
    machine = Machine(model=str(tiny_model(folder)))
    training = AnswerTraining(**SMALL | {"steps": steps} | settings)
    return qa.train(machine, training, AnswerRun(str(folder / out), stream, log=1, check=2))


def test_a_training_is_logged_kept_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine, settings = tiny_model(tmp_path), AnswerTraining(**SMALL, steps=4)
    whole = AnswerTrainer(load(machine), settings, *sources("facts", settings))
    expected = [whole.step() for _ in range(4)]
    first = AnswerTrainer(load(machine), settings, *sources("facts", settings))
    found = [first.step() for _ in range(2)]
    first.checked()
    torch.save(first.state(), tmp_path / "state.pt")
    second = AnswerTrainer(load(machine), settings, *sources("facts", settings))
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert found + [second.step() for _ in range(2)] == expected
    assert all(map(torch.equal, second.parameters, whole.parameters))
    assert all(map(torch.equal, second.best, first.best))

    trained(tmp_path, "out", 2)
    trained(tmp_path, "out", 3)
    assert "going on at step 2 of 3" in capsys.readouterr().err
    lines = [json.loads(text) for text in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert "held_out" not in lines[0] and {"nats", "em"} <= set(lines[1]["held_out"])
    sentence = "was made with rank 2, not 3; give the same settings, or another `TrainingRun.out`"
    with pytest.raises(DriftError, match=sentence):
        trained(tmp_path, "out", 3, rank=3)


def test_the_best_is_kept_and_the_training_ends_when_it_gets_no_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = iter([3.0, 2.0, 2.5, 2.1, 1.0])
    kept: list[torch.Tensor] = []

    def asked(language_model: Any, lessons: Any, longest: int) -> dict[str, Any]:
        name = next(name for name, _ in language_model.model.named_parameters() if "lora_B" in name)
        kept.append(language_model.model.get_parameter(name).detach().clone())
        return {"nats": next(costs)}

    monkeypatch.setattr(qa, "asked", asked)
    last = trained(tmp_path, "out", 20, patience=2)
    assert last["step"] == 8 and last["held_out"]["nats"] == 2.1
    assert trained(tmp_path, "out", 20, patience=2) == last  # over is over
    merged = with_adapter(load(tiny_model(tmp_path)), tmp_path / "out" / "adapter").model
    plain = load(tiny_model(tmp_path)).model
    name = "model.layers.0.self_attn.q_proj.weight"
    weights = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
    assert torch.equal(weights[f"{key}B.weight"], kept[1]) and not torch.equal(kept[1], kept[3])
    learned = weights[f"{key}B.weight"] @ weights[f"{key}A.weight"]
    assert torch.allclose(merged.get_parameter(name), plain.get_parameter(name) + learned, atol=1e-6)


def test_the_loss_is_that_of_answers_and_a_share_of_the_text() -> None:
    model = load()
    settings = AnswerTraining(batch=3, rank=2, text=0.2)
    lessons = sources("facts", settings)[0](0)
    rows = [row_of(model, lesson, settings.longest) for lesson in lessons]
    spelled: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for ids, marks in rows:
        with torch.no_grad():
            logits = model.model(torch.tensor([ids])).logits[0]
        nats = F.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
        for kind in spelled:
            spelled[kind].append(nats[torch.tensor(marks[1:]) == kind])
    answer, text = AnswerTrainer(model, settings, lambda step: lessons, []).losses(rows)
    assert answer.item() == pytest.approx(torch.cat(spelled[1]).mean().item(), abs=1e-4)
    assert text.item() == pytest.approx(torch.cat(spelled[0]).mean().item(), abs=1e-4)
    said = model.tokenizer.decode([i for i, mark in zip(*rows[0], strict=True) if mark], skip_special_tokens=True)
    assert said.split() == " ".join(gold for _, gold in lessons[0].asked).split()


def test_the_adapter_that_ships_was_made_like_this() -> None:
    """Losses of the program that made it, which had low-rank maps of its own (seed 0, 4 lessons, float32)."""
    settings = AnswerTraining(batch=4, text=0.2, longest=144)
    trainer = AnswerTrainer(load(), settings, sources("facts", settings)[0], [])
    found = [number for _ in range(3) for number in trainer.step()]
    assert found == pytest.approx([6.9616, 4.1297, 6.3387, 3.7687, 6.1500, 3.7385], abs=2e-3)


def test_autocast_computes_nearly_the_same() -> None:
    settings = AnswerTraining(batch=2, rank=2)
    lessons = sources("facts", settings)[0]
    plain, half = (AnswerTrainer(load(), settings, lessons, [], autocast) for autocast in (False, True))
    first, second = plain.step()[0], half.step()[0]
    assert first != second and first == pytest.approx(second, rel=0.02)


# ------------------------------------------------------------------------------------------------------------ lessons


def test_a_share_of_documents_stands_in_the_context() -> None:
    world = World("train", random.Random(0))
    lessons = [fact_lesson(world, 0.75, 2) for _ in range(400)]
    open_book = [one for one in lessons if one.texts]
    assert 0.68 < len(open_book) / 400 < 0.82
    assert {len(one.texts) for one in open_book} == {1, 2, 3}
    places = set()
    for one in open_book:
        (place,) = [n for n, text in enumerate(one.texts) if all(answer in text for _, answer in one.asked)][:1]
        places.add(place)
        assert len(one.asked) >= 3
    assert places == {0, 1, 2}
    assert all(len(one.asked) == 1 for one in lessons if not one.texts)


def test_lessons_of_a_file_are_its_own(tmp_path: Path) -> None:
    settings = AnswerTraining(batch=40, context=0.5, distracting=1)
    learned, held_out = sources(facts_file(tmp_path), settings)
    lessons = learned(0)
    assert lessons == learned(0) != learned(1)
    assert len(held_out) == 3
    for one in lessons:
        assert not one.texts or any(one.asked[0][1] in text for text in one.texts)
    asked = {lesson.asked[0] for step in range(8) for lesson in learned(step)}
    assert not asked & {lesson.asked[0] for lesson in held_out}
    stream, _ = qa.divided(facts_file(tmp_path), 0)
    assert all(len(stream_lesson(stream, random.Random(n), 1.0).texts) == 1 for n in range(5))


def test_a_document_that_does_not_fit_is_left_out() -> None:
    model = load()
    lesson = Lesson(["It rained in Paris. " * 30], [("Where?", "Paris"), ("When?", "Then")])
    ids, marks = row_of(model, lesson, 48)
    assert ids == row_of(model, Lesson([], lesson.asked), 48)[0] and sum(marks) > 3
    whole, _ = row_of(model, lesson, 512)
    assert len(whole) > 100 and len(row_of(model, lesson, 512)[0]) == len(whole)


def test_what_cannot_be_tuned_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", tiny_model(tmp_path), "--out", tmp_path / "out"]
    refused(driftlm(capsys, "train", "qa", *model, "--context", 1.5), "--context was 1.5; give the share of documents")
    refused(driftlm(capsys, "train", "qa", *model, "--check", 0), "--check 0; give at least 1")
    refused(driftlm(capsys, "train", "qa", *model, "--text", -1), "--text -1.0; give a positive rate and a weight")
    (tmp_path / "one.jsonl").write_text(
        '{"id": "a", "text": "It rained."}\n{"question": "Who?", "answer": "It", "document": "a"}\n'
    )
    refused(driftlm(capsys, "train", "qa", *model, "--stream", tmp_path / "one.jsonl"), "too few documents")
    assert not (tmp_path / "out").exists()
