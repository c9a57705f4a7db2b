"""The verb `study` as a user runs it, and the streams that it makes; the studies themselves are in tests/evaluation."""

import json
from pathlib import Path

import pytest
import torch

from driftlm import DriftError
from driftlm.cli.main import main
from driftlm.evaluation.paired import read, table_of
from driftlm.evaluation.question_studies import questions_of, validation_of
from driftlm.memories.bank.networks import BankNetworks
from driftlm.models.loading import load
from driftlm.report.tables import show_rows
from driftlm.streams.facts import facts
from driftlm.streams.questions import read_questions
from tests.support.made_banks import SMALL
from tests.support.made_encoders import saved, states, tiny_bert
from tests.support.running import tiny_model


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert stopped.value.code == code, err
    return err if code else out


@pytest.fixture
def made(tmp_path: Path) -> list[object]:
    torch.manual_seed(0)
    model = load(tiny_model(tmp_path))
    BankNetworks(model, SMALL).eval().save(tmp_path / "networks")
    return ["--model", tmp_path / "llama", "--networks", tmp_path / "networks"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    lines: list[dict[str, str]] = []
    for number in range(8):
        lines.append({"id": f"d{number}", "text": f"The thing number {number} was on the sea."})
        if number % 2 == 0:
            lines.append({"question": f"Where was {number}?", "answer": "on the sea", "document": f"d{number}"})
    (tmp_path / "sea.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "sea.jsonl"


def test_memories_are_compared_from_the_command_line(
    made: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = ["--documents", "8", "--sweep-documents", "4", "--out", tmp_path / "out", "--json"]
    out = said(capsys, "study", "qa", "--memories", "none,uniform", "bm25+bank", *some, *made)
    rows = json.loads(out)["rows"]
    assert [row["memory"] for row in rows] == ["none", "uniform", "bm25+bank"]
    tried = {rate: cost for rate, cost in rows[1]["learning_rates"].items() if cost is not None}
    assert tried[str(rows[1]["learning_rate"])] == min(tried.values())
    assert table_of(read(tmp_path / "out")) == rows
    (row,) = json.loads(said(capsys, "study", "forgetting", "--documents", "4", "--text", __file__, "--json", *made))[
        "rows"
    ]
    assert row["bytes"] == len(Path(__file__).read_bytes()) and row["memory"] == "bank"


def test_a_dense_memory_finds_with_the_encoder_that_was_named(
    file: Path, made: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tiny_bert(), tmp_path / "bert")
    some = ["--stream", file, "--retrieved", "4", "--out", tmp_path / "out", "--encoder", f"contriever:{folder}"]
    memories = ["none", "dense", "bm25", "bank"]
    rows = json.loads(said(capsys, "study", "qa", *some, "--memories", *memories, "--json", *made))["rows"]
    whole = read_questions(str(file))
    texts = torch.stack([states(tiny_bert(), document.text).mean(0) for document in whole.documents])
    places, shares = list[int](), list[float]()
    for question in whole.questions:
        scores, order = (texts @ states(tiny_bert(), question.text).mean(0)).sort(descending=True)
        places.append([whole.documents[place].id for place in order.tolist()].index(question.document))
        shares.append([*scores[:4].softmax(0).tolist(), 0.0, 0.0, 0.0, 0.0][places[-1]])
    none, dense, bm25, bank = rows
    assert dense["recall"] == sum(place < 4 for place in places) / len(places)
    assert dense["recall_at_1"] == sum(place == 0 for place in places) / len(places)
    assert 1 > dense["recall"] > dense["recall_at_1"] > 0
    assert dense["weight"] == pytest.approx(sum(shares) / len(shares), abs=1e-5)
    assert (bm25["recall"], bm25["recall_at_1"]) == (1, 1) and bank["recall"] >= bank["recall_at_1"]
    assert [row["encoder"] for row in rows] == [None, f"contriever:{folder}", None, None]
    assert [row["retrieved"] for row in rows] == [None, 4, 4, 4]
    assert none["recall"] is none["recall_at_1"] is None
    assert table_of(read(tmp_path / "out")) == rows
    show_rows(rows)
    header = capsys.readouterr().out.splitlines()[0]
    assert all(name in header for name in ("recall at 1", "retrieved", "encoder"))


def test_rates_are_chosen_on_documents_that_are_not_studied(file: Path) -> None:
    chosen = questions_of(str(file), 3, 0)
    held_out = validation_of(str(file), chosen, 2, seed=0)
    ids = {one.id for one in chosen.documents}
    assert len(held_out.documents) == 2 and not ids & {one.id for one in held_out.documents}
    assert {one.document for one in held_out.questions} == {one.id for one in held_out.documents}
    assert held_out == validation_of(str(file), chosen, 2, seed=0)
    assert validation_of(str(file), questions_of(str(file), 8, 0), 2, seed=0).questions == ()
    with pytest.raises(DriftError, match="`facts.documents` was 0"):
        facts(0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["qa", "--memories", "bnak"], "--memories named 'bnak'"),
        (["qa", "--memories", "bank+one"], "modulate the model"),
        (["qa", "--sweep-documents", "0"], "--sweep-documents was 0"),
        (["qa", "--learning-rate", "0"], "--learning-rate was 0.0; give a number above 0"),
        (["qa", "--text", "a.txt"], "leave out --text"),
        (["qa", "--memories", "bm25", "--retrieved", "0"], "--retrieved was 0"),
        (["forgetting", "--out", "x"], "writes no files; leave out --out"),
        (["forgetting", "--memories", "one", "--documents", "2"], "where one would give its document"),
        (["cost", "--memories", "uniform"], "about a bank alone"),
        (
            ["qa", "--memories", "dense", "--encoder", "bert:x"],
            "--encoder was 'bert:x'; give one of states, contriever",
        ),
        (["qa", "--memories", "bm25", "--encoder", "bge:x"], "no memory here has dense"),
        (["cost", "--encoder", "bge:x"], "no memory here has dense"),
        (["qa", "--memories", "dense", "--encoder", "bge:nowhere"], "no text encoder can be loaded from 'nowhere'"),
        (["retention", "--documents", "20"], "retention needs more than 200"),
    ],
)
def test_faults_get_one_sentence(
    arguments: list[str], sentence: str, made: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, "study", *arguments, *made, code=2)
    assert sentence in found and found.count("\n") == 1


def test_a_file_without_other_documents_needs_a_rate(
    file: Path, made: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, "study", "qa", "--stream", file, "--memories", "uniform", *made, code=2)
    assert "no questions are left to choose the learning rate of uniform on" in found
    out = said(
        capsys, "study", "qa", "--stream", file, "--memories", "uniform", "--learning-rate", "1e-3", "--json", *made
    )
    assert json.loads(out)["rows"][0]["learning_rate"] == 1e-3


def test_memories_without_a_bank_ask_for_no_networks(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = ["--model", tiny_model(tmp_path), "--stream", file]
    names = ["none", "context", "bm25", "dense"]
    rows = json.loads(said(capsys, "study", "qa", *some, "--memories", *names, "--json"))["rows"]
    assert [row["memory"] for row in rows] == names and {row["questions"] for row in rows} == {4}
    (row,) = json.loads(said(capsys, "study", "forgetting", *some, "--memories", "bm25", "--text", __file__, "--json"))[
        "rows"
    ]
    assert row["bytes"] == len(Path(__file__).read_bytes())
    for name in ("bank", "one", "bank+bm25"):
        found = said(capsys, "study", "qa", *some, "--memories", "none", name, code=2)
        assert f"--memories named {name}, which needs networks" in found and found.count("\n") == 1
        assert "none, uniform, spans, tfidf, bm25, dense, context need no training" in found
    for arguments in (["cost"], ["bank"]):
        assert "a bank needs networks" in said(capsys, "study", *arguments, *some, code=2)
