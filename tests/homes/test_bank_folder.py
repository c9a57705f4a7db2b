"""The verbs `bank` and `ask` as a user runs them, on tiny networks."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from peft import AutoPeftModelForCausalLM

from driftlm.cli.main import main
from driftlm.homes.bank_folder import ask
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import NetworksSettings
from driftlm.memories.bank.store import BankStore
from driftlm.models.loading import load
from driftlm.models.machine import Machine
from driftlm.models.prompting import answer_ids, prompt_ids
from driftlm.models.trainable import choose
from driftlm.runs.formats import save
from tests.support.running import start, tiny_model

SMALL = NetworksSettings(
    vectors=2, encoder_width=16, encoder_layers=1, encoder_heads=2, blocks=1, heads=2, head_width=8
)


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, object]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert stopped.value.code == code, err
    return json.loads(out) if out.startswith("{") else {"out": out, "err": err}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = load(tiny_model(tmp_path))
    BankNetworks(model, SMALL).eval().save(tmp_path / "networks")
    lines = [{"id": f"d{n}", "text": f"the thing number {n} was on the sea", "date": f"200{n}-01-01"} for n in range(3)]
    (tmp_path / "news.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def made(place: Path) -> list[object]:
    return ["--bank", place / "bank", "--model", place / "llama", "--networks", place / "networks", "--json"]


def test_a_bank_is_taught_asked_and_made_to_forget(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = ["--bank", place / "bank", "--json"]
    assert said(capsys, "bank", "add", place / "news.jsonl", *made(place))["added"] == ["d0", "d1", "d2"]
    assert said(capsys, "bank", "add", place / "news.jsonl", *held)["added"] == []  # the same again: nothing to do
    before = said(capsys, "ask", "What was it?", *held)
    assert set(before) == {"question", "answer", "nats", "documents"}
    weights = {one["id"]: one["weight"] for one in before["documents"]}  # type: ignore[attr-defined]
    assert set(weights) == {"d0", "d1", "d2"} and sum(weights.values()) == pytest.approx(1, abs=1e-4)
    (place / "more.txt").write_text("the storm was here")
    said(capsys, "bank", "add", place / "more.txt", *held)
    assert said(capsys, "bank", "forget", place / "more.txt", *held)["forgotten"] == [str(place / "more.txt")]
    assert said(capsys, "ask", "What was it?", *held) == before
    assert said(capsys, "bank", "expire", "--before", "2001", *held)["forgotten"] == ["d0"]
    said(capsys, "bank", "compact", *held)
    assert said(capsys, "bank", "verify", *held)["problems"] == []
    assert [one["id"] for one in said(capsys, "bank", "ls", *held)["documents"]] == ["d1", "d2"]  # type: ignore[attr-defined]
    assert said(capsys, "bank", "show", "d1", *held)["time"] == "2001-01-01"


@pytest.mark.parametrize(("modulation", "kind"), [("prefix", "PREFIX_TUNING"), ("lora", "LORA")])
def test_what_a_bank_says_to_a_question_is_loaded_by_peft(
    modulation: Literal["prefix", "lora"], kind: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind networks that came with an adapter too: the exported folder then holds the model it was merged into."""
    networks = BankNetworks(load(place / "llama"), replace(SMALL, modulation=modulation)).eval()
    with torch.no_grad():
        for weight in networks.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    networks.save(place / "networks")
    tuned = load(place / "llama")
    reader = choose(tuned, "lora", seed=1)
    for name, parameter in reader.parameters.items():
        parameter.data.normal_(std=0.1 if "lora_B" in name else 1.0)
    save(tuned, reader, place / "reader")
    question = "What was it?"
    for bank in ("plain", "tuned"):
        if bank == "tuned":
            shutil.copytree(place / "reader", place / "networks" / "adapter")
        held = ["--bank", place / bank, "--model", place / "llama", "--networks", place / "networks", "--json"]
        said(capsys, "bank", "add", place / "news.jsonl", *held)
        answered = said(capsys, "ask", question, *held)
        facts = said(capsys, "bank", "export", question, *held, "--to", place / f"{bank}-said")
        assert facts["as"] == kind and facts["documents"] == answered["documents"]
        assert (place / f"{bank}-said" / "base").exists() == (bank == "tuned")
        plain = AutoPeftModelForCausalLM.from_pretrained(place / f"{bank}-said").eval()
        model = load(place / "llama")
        prompt, answer = prompt_ids(model, question), answer_ids(model, str(answered["answer"]))
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([[*prompt, *answer[:-1]]])).logits[0, len(prompt) - 1 :]
        nats = torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum").item()
        assert nats == pytest.approx(answered["nats"], rel=1e-5)
        assert (
            "exists" in said(capsys, "bank", "export", question, *held, "--to", place / f"{bank}-said", code=2)["err"]
        )
    said(capsys, "bank", "forget", "d0", "d1", "d2", "--bank", place / "tuned")
    for asked, sentence in ((question, "is empty"), (" ", "question is empty")):
        assert sentence in said(capsys, "bank", "export", asked, *held, "--to", place / "new", code=2)["err"]
    assert not (place / "new").exists()


def test_an_empty_bank_is_the_plain_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "bank", "add", place / "news.jsonl", *made(place))
    said(capsys, "bank", "forget", "d0", "d1", "d2", "--bank", place / "bank")
    assert said(capsys, "ask", "What?", "--bank", place / "bank", "--json")["documents"] == []


def test_a_bank_is_asked_in_other_ways(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = ["--bank", place / "bank", "--json"]
    said(capsys, "bank", "add", place / "news.jsonl", *made(place))
    exact = said(capsys, "ask", "What was it?", *held)
    beside = said(capsys, "ask", "What was it?", *held, "--aggregation", "nearest", "--size", "2", "--beams", "2")
    weights = [one["weight"] for one in beside["documents"]]  # type: ignore[attr-defined]
    assert len(weights) == 3 and weights[0] >= weights[1] > weights[2] == 0
    groups = ["--aggregation", "hierarchical", "--size"]
    grouped = said(capsys, "ask", "What was it?", *held, *groups, "2")["documents"]
    assert sum(one["weight"] for one in grouped) == pytest.approx(1, abs=1e-4)  # type: ignore[attr-defined]
    assert grouped != exact["documents"] != beside["documents"]
    found = str(said(capsys, "ask", "What was it?", "--bank", place / "bank", *groups, "9")["out"]).splitlines()
    assert found[0] == exact["answer"] and len(found) == 4
    machine = Machine(model=str(place / "llama"))
    several = list(ask(("What was it?", "Where?"), place / "bank", machine, "", 24))
    (alone,) = ask(("What was it?",), place / "bank", machine, "", 24)
    assert several[0]["answer"] == alone["answer"] == exact["answer"] and several[0]["question"] == alone["question"]
    assert several[0]["nats"] == pytest.approx(alone["nats"], abs=1e-4)
    for one, other in zip(several[0]["documents"], alone["documents"], strict=True):
        assert one["id"] == other["id"] and one["weight"] == pytest.approx(other["weight"], abs=1e-5)


def test_a_study_takes_its_networks_from_no_bank_that_stands_around(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    arguments = ["study", "qa", "--documents", "8", "--networks", place / "networks", "--model", place / "llama"]
    (row,) = said(capsys, *arguments, "--json")["rows"]  # type: ignore[misc]
    assert row["memory"] == "bank" and row["questions"] == 8
    assert said(capsys, "study", "qa", "--documents", "8", "--memories", "none")["err"] == ""
    shown = str(said(capsys, *arguments, "--memories", "none", "bank", "--gold", "shortest", "--beams", "2")["out"])
    words = " ".join(shown.split())
    assert words.startswith("memory") and "golds shortest" in words and "beams 2" in words


def test_of_documents_with_one_id_the_last_is_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = {text: json.dumps({"id": "a", "text": text}) + "\n" for text in ("the sea", "the ship")}
    (place / "first.jsonl").write_text(lines["the sea"])
    (place / "back.jsonl").write_text(lines["the ship"] + lines["the sea"])
    said(capsys, "bank", "add", place / "first.jsonl", *made(place))
    assert said(capsys, "bank", "add", place / "back.jsonl", *made(place))["added"] == ["a"]
    assert said(capsys, "bank", "show", "a", "--bank", place / "bank", "--json")["text"] == "the sea"


def test_what_cannot_be_read_leaves_no_bank_and_what_was_left_of_one_is_no_hindrance(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "missing.txt" in str(said(capsys, "bank", "add", place / "missing.txt", *made(place), code=2)["err"])
    assert not (place / "bank").exists()
    (place / "bank").mkdir()
    (place / "bank" / "bank.sqlite").touch()  # killed while it was made
    assert len(said(capsys, "bank", "add", place / "news.jsonl", *made(place))["added"]) == 3  # type: ignore[arg-type]
    half = said(capsys, "bank", "add", place / "news.jsonl", "--half", "--bank", place / "bank", code=2)
    assert "keeps float32 already" in str(half["err"])


def test_two_may_make_the_same_bank(place: Path) -> None:
    adding = []
    for name in ("one", "two"):
        (place / name).mkdir()
        (place / f"{name}.txt").write_text("the storm was here")
        adding.append(start(place / name, "bank", "add", place / f"{name}.txt", *made(place)))
    assert [process.wait().code for process in adding] == [0, 0]
    with BankStore.open(place / "bank") as store:
        assert len(store) == 2


def test_a_bank_is_not_asked_through_other_networks(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "bank", "add", place / "news.jsonl", *made(place))
    shutil.copytree(place / "networks", place / "others")
    facts = json.loads((place / "others" / "networks.json").read_text())
    facts["settings"]["longest"] = 6
    (place / "others" / "networks.json").write_text(json.dumps(facts))
    long = said(capsys, "ask", "what " * 600, "--bank", place / "bank", code=2)["err"]
    assert "positions" in str(long) and "ask shorter" in str(long)
    refused = said(capsys, "ask", "What?", "--bank", place / "bank", "--networks", place / "others", code=2)["err"]
    assert "made with other networks" in str(refused) and "--networks" in str(refused)


def test_damage_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "bank", "add", place / "news.jsonl", *made(place))
    segment = next((place / "bank").glob("*.safetensors"))
    segment.write_bytes(segment.read_bytes()[:-3])
    problems = said(capsys, "bank", "verify", "--bank", place / "bank", "--json", code=1)["problems"]
    assert any(segment.name in str(problem) for problem in problems)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ask", "What?", "--bank", "nowhere"], "holds no bank"),
        (["ask", " ", "--bank", "nowhere"], "question is missing or empty"),
        (["bank"], "say which"),
        (["bank", "forget", "--bank", "nowhere"], "no document was named"),
        (["bank", "expire", "--bank", "nowhere", "--before", "soon"], "give a date"),
        (["ask", "What?", "--bank", "nowhere", "--aggregation", "nearest"], "--size was 0"),
        (["ask", "What?", "--bank", "nowhere", "--beams", "0"], "--beams 0; give at least 1"),
        (["study", "qa", "--memories", "bnak", "--documents", "0"], "give at least 1"),
        (["study", "qa", "--networks", "one", "two"], "--networks named 2 folders; study qa takes one"),
        (["study", "cost", "--memories", "none"], "about a bank alone; leave out --memories"),
        (["study", "bank", "--aggregation", "nearest", "--size", "8"], "leave out --aggregation nearest"),
        (["train", "bank", "--out", "x", "--kept", "0"], "--kept was 0"),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    found = said(capsys, *arguments, code=2)
    assert sentence in str(found["err"]) and str(found["err"]).count("\n") == 1
