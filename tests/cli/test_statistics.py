"""The verb `statistics`."""

from pathlib import Path

import pytest

from driftlm.memories.weights.statistics import Statistics
from tests.support.running import QUICK, driftlm, refused, tiny_model, words, written

Capture = pytest.CaptureFixture[str]


def test_statistics_are_gathered_for_the_rule_that_needs_them(tmp_path: Path, capsys: Capture) -> None:
    written(tmp_path, a=words(60), b=words(30, 1))
    model = tiny_model(tmp_path)
    gather = ["statistics", "a.txt", "--model", model, "--context", 32, "--stride", 16, "--threads", 1]
    outcome = driftlm(capsys, *gather, "--out", "deep/s", "--limit", 100)
    assert outcome == (0, "deep/s: statistics of 7 windows, 100 tokens\n", "")
    facts = Statistics.load("deep/s").facts
    assert (facts["tokens"], facts["windows"], facts["context"], facts["stride"]) == (100, 7, 32, 16)
    learning = ["--rule", "rms", "--statistics", "deep/s", "--learning-rate", 3e-4]
    totals = driftlm(capsys, "read", "b.txt", "--model", model, *QUICK[2:], *learning, "--run", "run").summary
    assert totals["updates"] > 0 and totals["nats"] < totals["static_nats"]
    refused(driftlm(capsys, *gather, "--out", "deep/s"), "exists already")
    refused(driftlm(capsys, *gather, "--out", "a.txt/s"), "a.txt is no folder")
    refused(driftlm(capsys, *gather, "--out", "s", "--limit", -5), "--limit was -5")
    refused(driftlm(capsys, "statistics", "no.txt", "--model", model, "--out", "s"), "no.txt: no such file")
    assert not (tmp_path / "s").exists()
