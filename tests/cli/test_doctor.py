"""The verb `doctor`, and platforms that no verb can lock a folder on."""

import sys
import tomllib
from pathlib import Path

import pytest

import driftlm as package
from driftlm.cli.doctor import EXTRAS
from tests.support.running import ROOT, driftlm, refused, tiny_model, words, written

Capture = pytest.CaptureFixture[str]


def test_platforms_without_locks_are_refused_in_a_sentence(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ("--model", tiny_model(tmp_path), "--threads", 1)
    assert driftlm(capsys, "home", "new", "home", *model).code == 0
    monkeypatch.setitem(sys.modules, "fcntl", None)
    before = set(tmp_path.rglob("*"))
    for line in (
        ["doctor"],
        ["home", "new", "other", *model],
        ["home", "read", "home", written(tmp_path / "home", a=words(4))[0]],
        ["home", "ask", "home", "where?"],
        ["home", "forget", "home", "a"],
        ["snapshot", "make", "home", "one"],
        ["snapshot", "verify", "home"],
        ["snapshot", "prune", "home"],
        ["serve", "--home-folder", "homes", "--port", 0, *model],
    ):
        refused(driftlm(capsys, *line), "fcntl, which this platform does not have; run it on Linux or macOS")
    assert {path.name for path in set(tmp_path.rglob("*")) - before} <= {"a.txt", "homes"}


def test_the_doctor_names_what_is_there_and_what_is_not(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = driftlm(capsys, "doctor")
    assert outcome.code == 0 and outcome.err == ""
    for fact in (f"driftlm {package.__version__}", "torch 2.", "CPU: ", "CUDA: ", "bundled model: ", "extra report: "):
        assert f"\n{fact}" in "\n" + outcome.out
    monkeypatch.setattr("driftlm.cli.doctor.find_spec", lambda _: None)
    assert 'extra report: not installed; pip install "driftlm[report]"' in driftlm(capsys, "doctor").out
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == declared.keys() - {"dev", "docs", "eval"}  # those are for who works on the project
