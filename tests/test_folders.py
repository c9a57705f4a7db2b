"""Folders that an earlier version wrote: opened, resumed, verified, asked, they say what that version said of them."""

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.folders.outcomes import KINDS, MODEL, STOPPED, moved_home
from tests.support.running import driftlm, refused

KEPT = Path(__file__).parent / "folders" / "v1"
EXPECTED: dict[str, Any] = json.loads((KEPT / "expected.json").read_bytes())
ROUNDED = {"trained": 1e-4}  # what a log rounds

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders at another place; they need not outlive a power failure there, and charts take seconds."""
    monkeypatch.chdir(shutil.copytree(KEPT, tmp_path / "v1"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setitem(sys.modules, "altair", None)
    for drawing in ("driftlm.report.charts", "driftlm.studies.drawing"):  # which earlier tests may have loaded
        monkeypatch.delitem(sys.modules, drawing, raising=False)


def assert_close(found: Any, expected: Any, absolute: float, where: str = "") -> None:
    """Numbers to a millionth, all else exactly."""
    if isinstance(expected, dict):
        assert isinstance(found, dict) and found.keys() == expected.keys(), where
        for name, value in expected.items():
            assert_close(found[name], value, absolute, f"{where}/{name}")
    elif isinstance(expected, list):
        assert isinstance(found, list | tuple) and len(found) == len(expected), where
        for number, (one, value) in enumerate(zip(found, expected, strict=True)):
            assert_close(one, value, absolute, f"{where}/{number}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6, abs=absolute), where
    else:
        assert found == expected, where


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_an_earlier_version_is_what_it_was(kind: str, capsys: Capture) -> None:
    found = KINDS[kind](partial(driftlm, capsys))
    assert_close(found, EXPECTED[kind], ROUNDED.get(kind, 1e-6), kind)


def test_every_kind_was_expected_to_learn_and_stopped_in_mid_document() -> None:
    assert EXPECTED.keys() == KINDS.keys()
    for name in STOPPED:
        one = EXPECTED[f"run {name}"]
        assert 0 < one["from_window"] < one["windows"]
        assert (one["in_document"] > 0) == (name != "side")  # which goes on behind whole documents
        assert one["updates"] > 3 and abs(one["nats"] - one["static_nats"]) > 5e-5 * one["nats"]


def damage(file: Path, place: int) -> None:
    """Change one byte, and nothing else."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_damaged_byte_is_named(capsys: Capture) -> None:
    say = partial(driftlm, capsys)
    (checkpoint,) = Path("runs/adam").glob("checkpoint-*")
    damage(checkpoint / "memory", 8)  # the header
    refused(say("read", "--resume", "runs/adam"), checkpoint.name, "is damaged")

    (segment,) = Path("bank").glob("*.safetensors")
    damage(segment, -1)
    verified = say("bank", "verify", "--bank", "bank", "--json")
    assert verified.code == 1 and any(segment.name in problem for problem in json.loads(verified.out)["problems"])

    kept = min(Path("homes/adam/snapshots/objects").iterdir())
    damage(kept, -1)
    verified = say("snapshot", "verify", "homes/adam", "--json")
    assert verified.code == 1 and any(kept.name in problem for problem in json.loads(verified.out)["problems"])

    moved_home(Path("homes/lora"))
    damage(Path("homes/lora/home.json"), 20)
    refused(say("home", "read", "homes/lora", "texts/d5.jsonl"), "home.json is damaged")


def test_another_model_is_refused(capsys: Capture) -> None:
    damage(Path(MODEL, "model.safetensors"), -1)
    refused(driftlm(capsys, "read", "--resume", "runs/momentum"), "changed since this run began")
    moved_home(Path("homes/lora"))
    refused(driftlm(capsys, "home", "read", "homes/lora", "texts/d5.jsonl"), "was made with the model")
