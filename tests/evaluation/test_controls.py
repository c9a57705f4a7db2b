"""What a gain is made of: every step against a reading by hand, and the verb as a user runs it."""

import json
import math
from pathlib import Path

import pytest
import torch

from driftlm import Document, DriftError, Learning, WeightMemory, Windows
from driftlm.cli.main import main
from driftlm.evaluation.controls import STEPS, affordable, compared, richer, simpler
from driftlm.memories.weights.learning import FROZEN
from driftlm.runs.settings import Stream
from driftlm.runs.tuning import Trial, formulas
from tests.support.build import language_model, read
from tests.support.running import tiny_model, words

GRID = Windows("cached", 32, 16, sink=1)
SGD = Learning(rule="sgd", learning_rate=0.1)


def test_every_step_is_a_reading_and_the_steps_add_up() -> None:
    model, told = language_model("llama"), [Document("a", words(150)), Document("b", words(80, seed=1))]
    rows = compared(model, told, GRID, SGD, 10_000)
    assert [row["step"] for row in rows] == [*STEPS, "learning, same windows"]
    by_hand = {name: read(WeightMemory(model, one, FROZEN), told) for name, one in simpler(GRID).items()}
    by_hand["learning"] = read(WeightMemory(model, GRID, SGD), told)
    size = sum(len(one.text.encode()) for one in told)
    for row in rows[:-1]:
        if row["step"] in by_hand:
            nats = by_hand[row["step"]].double()
            assert row["nats_per_token"] == pytest.approx(nats.mean().item(), abs=1e-6)
            assert row["bits_per_byte"] == pytest.approx(nats.sum().item() / math.log(2) / size, abs=1e-6)
    apart, *others, same = rows
    assert apart["brings"] is apart["share"] is same["share"] is None
    whole = apart["nats_per_token"] - others[-1]["nats_per_token"]
    assert sum(row["brings"] for row in others) == pytest.approx(whole)
    assert sum(row["share"] for row in others) == pytest.approx(1)
    assert same["brings"] == pytest.approx(rows[2]["nats_per_token"] - same["nats_per_token"])
    assert all(low <= row["brings"] <= high for row in (*others, same) for low, high in [row["brings_interval"]])
    overlap = rows[3]
    assert overlap["brings"] >= 0 and overlap["flops_per_token"] <= rows[4]["flops_per_token"]


def test_static_windows_of_the_same_cost_are_the_richest_that_learning_pays_for() -> None:
    model = language_model("llama")
    price = formulas(model)
    most = price(Trial(GRID, SGD)).of(SGD)
    chosen = list(affordable(model, GRID, most))
    assert chosen and len({(one.window, one.context) for one in chosen}) == len(chosen)
    for one in richer(GRID):
        fits = price(Trial(one, FROZEN)).score <= most
        assert one not in chosen or fits
        better = [two for two in chosen if (two.window, two.context) == (one.window, one.context)]
        assert not fits or better[0].stride <= one.stride
    assert list(affordable(model, GRID, 0.0)) == []
    assert all(one.context <= 512 for one in affordable(model, Windows("overlapping", 500, 250, sink=1), 1e12))


def test_a_reading_says_what_its_gain_is_made_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(words(160))
    grid = ["--rule", "sgd", "--context", "32", "--stride", "16", "--threads", "1", "--no-report", "--no-live"]
    run = ["read", str(tmp_path / "a.txt"), "--model", str(tiny_model(tmp_path)), "--controls", *grid]
    threads = torch.get_num_threads()
    found = []
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as stopped:
            main([*run, "--run", str(tmp_path / f"run{len(more)}"), *more])
        assert not stopped.value.code
        found.append(capsys.readouterr().out)
    torch.set_num_threads(threads)
    assert all(step in found[0] for step in STEPS) and "bits per byte" in found[0]
    summary = json.loads(found[1])
    assert [row["step"] for row in summary["controls"]] == [*STEPS, "learning, same windows"]
    learned = summary["controls"][-1]
    assert learned["nats_per_token"] == pytest.approx(summary["nats_per_token"], abs=1e-6)


@pytest.mark.parametrize("more", [{"follow": True}, {"batch": 2}, {"start_from": "x"}, {"files": ("-",)}])
def test_what_cannot_be_read_several_times_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(DriftError, match="several times"):
        Stream(**({"files": ("a.txt",), "controls": True} | more))  # type: ignore[arg-type]


def test_memories_that_are_not_weights_alone_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(words(40))
    for more in (["--sources", "bm25"], ["--rule", "mixture"], ["--memory", "bm25"]):
        with pytest.raises(SystemExit) as stopped:
            main(["read", str(tmp_path / "a.txt"), "--controls", "--run", str(tmp_path / "run"), *more])
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and "--controls compares weights that learn" in said
    assert not (tmp_path / "run").exists()
