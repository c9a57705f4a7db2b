"""Every verb on SmolLM2-135M, as commands, options in pairs."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from driftlm import load
from tests.support.running import driftlm, ending, start

pytestmark = pytest.mark.slow

SMALL = ["--model", "smollm2", "--threads", "1", "--no-report", "--no-live", "--json"]
GRID = ["--context", "64", "--stride", "32"]
# Every pair of a window, a type and what learns, and every one of these with a rule.
READINGS = [
    ("overlapping", "float32", "all", "adam"),
    ("overlapping", "bfloat16", "lora", "adam"),
    ("overlapping", "float32", "dora", "sgd"),
    ("overlapping", "bfloat16", "norms", "sgd"),
    ("cached", "bfloat16", "all", "sgd"),
    ("cached", "float32", "lora", "sgd"),
    ("cached", "bfloat16", "dora", "adam"),
    ("cached", "float32", "norms", "adam"),
]
RATES = {"all": {"adam": "1e-5", "sgd": "1e-3"}, "norms": {"adam": "1e-3", "sgd": "1e-2"}}
ADAPTERS = {"adam": "1e-3", "sgd": "1e-2"}


@pytest.fixture(autouse=True)
def in_an_empty_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(text[:1500], encoding="utf-8")


@pytest.mark.parametrize(("window", "dtype", "learn", "rule"), READINGS)
def test_reading_learns(capsys: pytest.CaptureFixture[str], window: str, dtype: str, learn: str, rule: str) -> None:
    rate = RATES.get(learn, ADAPTERS)[rule]
    command = ["read", "text.txt", *SMALL, *GRID, "--window", window, "--dtype", dtype, "--learn", learn]
    summary = driftlm(capsys, *command, "--rule", rule, "--learning-rate", rate, "--run", "run").summary
    assert summary["tokens"] > 300 and summary["updates"] > 8 and summary["rollbacks"] == 0
    assert 0 < summary["bits_per_byte"] < summary["static_bits_per_byte"] * 1.03
    assert summary["nats"] != summary["static_nats"]
    held = json.loads(Path("run/config.json").read_bytes())["model"]
    assert held["fingerprint"] == load("smollm2").fingerprint and held["sha256"].startswith("b179c952")


def test_a_mixture_loses_little_to_its_best(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["read", "text.txt", *SMALL, *GRID, "--window", "cached", "--learn", "lora", "--rule", "mixture"]
    summary = driftlm(capsys, *command, "--experts", "0,1e-3", "--run", "mixed").summary
    assert summary["nats"] <= summary["static_nats"] + 0.7  # ln 2


def test_a_reading_that_was_killed_ends_as_if_it_had_not_been(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["read", "text.txt", *SMALL, *GRID, "--window", "cached", "--learn", "lora", "--checkpoint", "0", "--run"]
    assert driftlm(capsys, *command, "whole").code == 0
    process = start(tmp_path, *command, "killed", pause=0.2)
    assert process.wait_until(lambda: any(Path("killed").glob("checkpoint-*")))
    process.kill()
    assert process.wait().code == -9
    assert driftlm(capsys, "read", "--resume", "killed", "--no-live", "--json").code == 0
    first, second = ending(Path("whole")), ending(Path("killed"))
    assert first["windows"] == second["windows"] and first["tensors"] == second["tensors"]


def test_what_was_learned_is_continued_exported_and_heard(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["read", "text.txt", *SMALL, *GRID, "--learn", "lora", "--limit", "128", "--dtype", "bfloat16"]
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
    assert driftlm(capsys, "home", "new", "home", "--model", "smollm2", *settings).code == 0
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
    tenants = Tenants(tmp_path / "homes", load("smollm2"), settings, 2)
    with Engine(tenants, 8) as engine:
        client = TestClient(application(engine, Limits(), None), base_url="http://localhost")
        model = client.get("/v1/models").json()["data"][0]["id"]
        read: Any = client.post("/v1/read", json={"documents": [{"id": "a", "text": "It rained in Dorset. " * 20}]})
        assert read.status_code == 200, read.text
        asked = [{"role": "user", "content": "What is the capital of France?"}]
        said = client.post("/v1/chat/completions", json={"model": model, "messages": asked, "temperature": 0})
        assert said.status_code == 200, said.text
        assert "Paris" in said.json()["choices"][0]["message"]["content"]
