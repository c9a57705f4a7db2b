"""The verb `train salience`: what it writes, that it goes on bit-equal where it stopped, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from driftlm import DriftError
from driftlm.memories.weights.camels import load_network
from driftlm.models.machine import Machine
from driftlm.training import salience
from driftlm.training.loop import divided
from driftlm.training.settings import SalienceRun, SalienceTraining
from tests.support.made_trainings import facts_file
from tests.support.running import driftlm, refused, tiny_model, words, written

SMALL: dict[str, Any] = {"documents": 2, "reset": 4, "hidden": 4, "longest": 24, "inner_rate": 0.1}


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(salience, "WATCHED", 1)
    monkeypatch.setattr(salience, "ENOUGH", 6)


def trained(folder: Path, out: str, steps: int, stream: str = "facts", **settings: Any) -> dict[str, Any]:
    machine = Machine(model=str(tiny_model(folder)))
    training = SalienceTraining(**SMALL | {"steps": steps} | settings)
    return salience.train(machine, training, SalienceRun(str(folder / out), stream, log=1, check=2))


def test_a_training_is_logged_kept_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = trained(tmp_path, "whole", 3)
    said = capsys.readouterr().err
    assert said.startswith("the graph of a step holds ") and "2 documents, second order" in said
    assert "unseen: before" in said
    trained(tmp_path, "parts", 2)
    assert "going on at step 2 of 3" not in capsys.readouterr().err
    parts = trained(tmp_path, "parts", 3)
    assert "going on at step 2 of 3" in capsys.readouterr().err
    assert whole | {"seconds": 0} == parts | {"seconds": 0}
    lines = [json.loads(text) for text in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[2] == parts
    assert set(lines[2]["held_out"]) == {"before", "learned", "even", "uniform"} and "held_out" not in lines[0]
    networks = [load_network(tmp_path / out)[0].state_dict() for out in ("whole", "parts")]
    assert all(torch.equal(value, networks[1][name]) for name, value in networks[0].items())
    assert networks[0]["fc2.weight"].abs().sum() > 0
    with pytest.raises(DriftError, match="the checkpoint was made with documents 2, not 3; give the same settings"):
        trained(tmp_path, "parts", 3, documents=3)


def test_a_file_of_questions_is_learned_from_and_its_network_read_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path, "out", 1, facts_file(tmp_path), order="first", learn="norms")
    (text,) = written(tmp_path, a=words(60))
    where = ["--model", tiny_model(tmp_path), "--run", tmp_path / "run", "--no-live", "--no-report", "--json"]
    rule = ["--rule", "sgd", "--learning-rate", "0.1", "--salience", "camels", "--salience-network", tmp_path / "out"]
    summary = driftlm(capsys, "read", text, *where, *rule, "--context", 64, "--stride", 32).summary
    assert summary["updates"] > 1 and summary["nats"] != summary["static_nats"]


def test_the_last_document_of_a_batch_is_the_unrelated_one() -> None:
    training = SalienceTraining(**SMALL)
    for made in salience.sources("facts", training):
        for step in range(3):
            episode = made(step)
            assert len(episode.documents) == len(episode.questions) == len(episode.answers) == 2
            assert episode.unrelated not in episode.documents
            told = zip(episode.documents, episode.answers, strict=True)
            assert all(answer in document for document, answer in told)
            assert not any(answer in episode.unrelated for answer in episode.answers)


def test_documents_are_held_out(tmp_path: Path) -> None:
    learned, watched = divided(facts_file(tmp_path), 0)
    assert len(watched.documents) == 3 and len(learned.documents) == 57
    assert not {one.id for one in learned.documents} & {one.id for one in watched.documents}


def test_what_cannot_be_trained_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", tiny_model(tmp_path), "--out", tmp_path / "out"]
    small = ["--documents", 2, "--longest", 24]
    refused(driftlm(capsys, "train", "salience", *model, "--log", 0), "--log was 0 and --check 50; give at least 1")
    refused(driftlm(capsys, "train", "salience", *model, "--documents", 0), "--documents was 0")
    refused(driftlm(capsys, "train", "salience", *model, *small, "--memory", 1), "more than --memory 1 MiB; give fewer")
    refused(driftlm(capsys, "train", "salience", *model, "--reader", tmp_path), "holds no PEFT adapter")
    refused(driftlm(capsys, "train"), "there is bank, salience, qa to train; say which")
    assert not (tmp_path / "out").exists()
