"""Every verb but `read` on SmolLM2-135M, as commands."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from driftlm import load
from driftlm.studies.texts import BOOKS, DRIFT
from tests.support.made_trainings import facts_file
from tests.support.pretrained import GRID, SMALL, SMOLLM2
from tests.support.running import driftlm

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("folder", "in_an_empty_folder")]

MODEL = ["--model", SMOLLM2, "--threads", "1"]
READ = ["--model", SMOLLM2, *SMALL, *GRID]


def test_what_was_learned_is_continued_exported_and_heard(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["read", "text.txt", *READ, "--learn", "lora", "--limit", "128", "--dtype", "bfloat16"]
    first = driftlm(capsys, *command, "--run", "run", "--save", "saved").summary
    again = driftlm(capsys, *command, "--run", "again", "--from", "saved").summary
    assert again["static_nats"] < first["static_nats"]
    for kind in ("peft", "huggingface", "low-rank"):
        assert driftlm(capsys, "export", "run", "--to", kind, "--as", kind, "--rank", "4").code == 0
    with safe_open("peft/adapter_model.safetensors", framework="pt") as opened:
        assert len(opened.keys()) > 100
    for place in ("run", "peft", "huggingface"):
        said = driftlm(capsys, "generate", "The format string", "--from", place, "--tokens", "4", "--temperature", "0")
        assert said.code == 0 and said.out.startswith("The format string")


def test_a_home_reads_asks_forgets_and_goes_back(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--window", "cached", "--dtype", "bfloat16", "--learn", "lora", "--sources", "bm25", *GRID]
    assert driftlm(capsys, "home", "new", "home", "--model", SMOLLM2, *settings).code == 0
    rows = [{"id": name, "text": f"{name} lives in {city}. " * 6} for name, city in (("Ada", "Oslo"), ("Otto", "Rome"))]
    Path("people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert driftlm(capsys, "home", "read", "home", "people.jsonl").code == 0
    assert driftlm(capsys, "snapshot", "make", "home", "both").code == 0
    said = driftlm(capsys, "home", "ask", "home", "Where does Ada live?", "--tokens", "12", "--temperature", "0")
    assert "Oslo" in said.out
    assert driftlm(capsys, "home", "forget", "home", "Otto").code == 0
    assert driftlm(capsys, "snapshot", "verify", "home").code == 0
    assert driftlm(capsys, "export", "home", "--to", "adapter", "--as", "peft").code == 0


def test_the_server_answers_by_the_chat_template(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from starlette.testclient import TestClient

    from driftlm.homes.tenants import Tenants
    from driftlm.memories.settings import MemorySettings
    from driftlm.memories.weights.learning import Learning
    from driftlm.serving.app import application
    from driftlm.serving.engine import Engine
    from driftlm.serving.settings import Limits
    from driftlm.streams.windows import Windows

    settings = MemorySettings(Windows("cached", 64, 32), Learning(learn="lora"))
    tenants = Tenants(tmp_path / "homes", load(SMOLLM2), settings, 2)
    with Engine(tenants, 8) as engine:
        client = TestClient(application(engine, Limits(), None), base_url="http://localhost")
        model = client.get("/v1/models").json()["data"][0]["id"]
        read: Any = client.post("/v1/read", json={"documents": [{"id": "a", "text": "It rained in Dorset. " * 20}]})
        assert read.status_code == 200, read.text
        asked = [{"role": "user", "content": "What is the capital of France?"}]
        said = client.post("/v1/chat/completions", json={"model": model, "messages": asked, "temperature": 0})
        assert said.status_code == 200, said.text
        assert "Paris" in said.json()["choices"][0]["message"]["content"]


# ------------------------------------------------------------------------------------------------- what chooses, trains


def test_tuning_prints_a_command_that_reads(capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path("long.txt").write_text(text[:6_000], encoding="utf-8")
    found = driftlm(capsys, "tune", "long.txt", *MODEL, "--limit", "1024", "--budget", "0.75", "--json").summary
    assert found["cost"] <= 0.75 and found["bits_per_byte"] <= found["static_bits_per_byte"]
    assert {row["learn"] for row in found["tried"]} >= {"none", "lora"} and len(found["tried"]) > 3
    command = shlex.split(found["command"])
    assert command[:3] == ["driftlm", "read", "long.txt"]
    read = driftlm(capsys, *command[1:], "--limit", "1024", "--no-live", "--no-report", "--json", "--run", "r").summary
    assert read["bits_per_byte"] == pytest.approx(found["bits_per_byte"], rel=1e-6)


NETWORKS = [f"--{name}={count}" for name, count in {"vectors": 4, "encoder-width": 32, "encoder-layers": 1}.items()]
NETWORKS += [f"--{name}={count}" for name, count in {"encoder-heads": 2, "blocks": 1, "head-width": 16}.items()]


def test_a_bank_is_trained_and_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stream = ["--stream", facts_file(tmp_path)]
    steps = ["--steps", "2", "--batch", "4", "--warm-up", "1", "--check", "2", "--log", "1", "--out", "bank"]
    done = driftlm(capsys, "train", "bank", *MODEL, *NETWORKS, *steps, *stream)
    assert done.code == 0, done.err
    first, last = [json.loads(row) for row in Path("bank/log.jsonl").read_text().splitlines()][:2]
    assert 0 < last["nats"] < 50 and first["nats"] != last["nats"]
    asked = ["--memories", "none", "bank", "bm25", "--networks", "bank", "--documents", "6", "--questions", "6"]
    rows = driftlm(capsys, "study", "qa", *MODEL, *stream, *asked, "--json").summary["rows"]
    assert [row["memory"] for row in rows] == ["none", "bank", "bm25"]


def test_a_salience_is_trained_and_read_by(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    steps = ["--steps", "2", "--documents", "2", "--learn", "lora", "--order", "first", "--longest", "64"]
    steps += ["--check", "2", "--log", "1", "--out", "salience", "--stream", facts_file(tmp_path)]
    done = driftlm(capsys, "train", "salience", *MODEL, *steps)
    assert done.code == 0, done.err
    command = [
        "read",
        "text.txt",
        *READ,
        "--limit",
        "96",
        "--learn",
        "lora",
        "--rule",
        "sgd",
        "--learning-rate",
        "0.05",
    ]
    summary = driftlm(capsys, *command, "--salience", "camels", "--salience-network", "salience", "--run", "r").summary
    assert summary["updates"] == 3 and summary["nats"] != summary["static_nats"]


def test_a_reader_is_trained_and_answers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    steps = ["--steps", "2", "--batch", "4", "--check", "2", "--log", "1", "--out", "qa"]
    done = driftlm(capsys, "train", "qa", *MODEL, *steps, "--stream", facts_file(tmp_path))
    assert done.code == 0, done.err
    said = driftlm(capsys, "generate", "Ada lives in", "--from", "qa/adapter", "--tokens", "3", "--temperature", "0")
    assert said.code == 0 and said.out.startswith("Ada lives in")


# ------------------------------------------------------------------------------------------------------------- studies


def test_questions_are_studied_without_networks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["--stream", facts_file(tmp_path), "--documents", "8", "--questions", "8"]
    rows = driftlm(capsys, "study", "qa", *MODEL, "--memories", "none", "context", "bm25", *asked, "--json").summary[
        "rows"
    ]
    nats = {row["memory"]: row["nats"] for row in rows}
    assert nats["context"] < nats["none"] and nats["bm25"] < nats["none"]


def test_a_claim_is_studied(capsys: pytest.CaptureFixture[str], text: str) -> None:
    for folder in ("books", "drift"):
        Path(folder).mkdir()
    rows = [{"id": str(place), "text": text[place : place + 1_500]} for place in (0, 1_500)]
    Path(DRIFT[0]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path(BOOKS[0]).write_text(text[3_000:5_000], encoding="utf-8")
    command = ["study", "online", "--data", ".", "--out", "out", "--model", SMOLLM2, "--texts", "1", "--tokens", "300"]
    found = driftlm(capsys, *command, "--settings", "learning*", "--workers", "1", "--json").summary
    assert [(row["setting"], row["text"]) for row in found["rows"]] == [
        ("learning", Path(DRIFT[0]).stem), ("learning, reset at documents", Path(DRIFT[0]).stem),
        ("learning", Path(BOOKS[0]).stem),
    ]  # fmt: skip
    for row in found["rows"]:
        assert row["parameters"] == 134_515_008 and row["updates"] >= 2 and row["rollbacks"] == 0
        assert 0 < row["bits_per_byte"] < 1.03 * row["static_bits_per_byte"] < 4
    assert found["figures"]["change"]["mean"] != 0
