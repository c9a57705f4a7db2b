"""The verb `report`, and the report behind a reading."""

from pathlib import Path

import pytest

from driftlm.core.errors import DriftError
from tests.support.running import QUICK, driftlm, refused, tiny_model, words, written

Capture = pytest.CaptureFixture[str]


def test_a_missing_extra_spoils_no_run(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Path) -> list[Path]:
        raise DriftError("altair is not installed.")

    monkeypatch.setattr("driftlm.report.write.write_report", missing)
    written(tmp_path, a=words(10))
    settings = [flag for flag in QUICK if flag != "--no-report"]
    outcome = driftlm(capsys, "read", "a.txt", "--model", tiny_model(tmp_path), *settings, "--run", "run")
    assert outcome.summary["finished"] and outcome.err == "driftlm: no report: altair is not installed.\n"
    refused(driftlm(capsys, "report", "run"), "altair")
    refused(driftlm(capsys, "report", "llama"), "llama holds no run")
