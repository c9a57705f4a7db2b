"""Settings for a budget: what they cost, which are tried, and that reading with them gives what was said."""

import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driftlm.core.errors import DriftError
from driftlm.memories.loop import read_stream
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.memories.weights.learning import FROZEN, Learning
from driftlm.models.loading import LanguageModel, load
from driftlm.models.machine import Machine
from driftlm.runs import tuning
from driftlm.streams.documents import Document
from driftlm.streams.windows import Windows
from tests.support.running import driftlm, refused, tiny_model, words, written

pytestmark = pytest.mark.long

Capture = pytest.CaptureFixture[str]
WHOLE = Windows(context=256, stride=128)  # the default, halved for the positions of the tiny models
FEW = [("all", "adam", 1e-3), ("lora", "adam", 1e-2), ("all", "sgd", 0.05)]
SOME = [(1, "skip"), (4, "skip")]
KEYS = {"flags", "command", "budget", "unit", "cost", "bits_per_byte", "static_bits_per_byte", "tried"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuning")


@pytest.fixture(scope="module")
def model(place: Path) -> str:
    return str(tiny_model(place))


@pytest.fixture(scope="module")
def text(place: Path) -> str:
    return written(place, long=words(900), short=words(100))[0]


@pytest.fixture(scope="module")
def found(model: str, text: str) -> dict[float, dict[str, Any]]:
    """What is chosen for budgets from the least to plenty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "WAYS", FEW)
        patch.setattr(tuning, "CADENCES", SOME)
        patch.setattr(tuning, "MARKS", {8: 5, 4: 3, 2: 2})
        budgets = (0.7, 1.0, 4.0)
        settings = {"unit": "flops", "limit": 1100}
        return {b: tuning.tuned([text], Machine(model, threads=1), budget=b, **settings) for b in budgets}  # type: ignore[arg-type]


def test_no_more_is_spent_than_the_budget_and_more_is_never_worse(found: dict[float, dict[str, Any]]) -> None:
    for budget, result in found.items():
        assert result.keys() == KEYS
        assert result["cost"] <= budget and all(row["cost"] <= budget for row in result["tried"])
        whole = [row for row in result["tried"] if row["tokens"] == 1100]
        assert result["bits_per_byte"] == min(row["bits_per_byte"] for row in whole)
        assert result["bits_per_byte"] <= result["static_bits_per_byte"]
    bits = [result["bits_per_byte"] for result in found.values()]
    assert bits == sorted(bits, reverse=True) and bits[-1] < bits[0]


def test_a_larger_budget_reads_all_that_a_smaller_one_reads(found: dict[float, dict[str, Any]]) -> None:
    everything = found[4.0]["tried"]
    assert len(everything) == 3 * (1 + len(FEW) * len(SOME))
    for budget, result in found.items():
        assert result["tried"] == [row for row in everything if row["cost"] <= budget]


def test_the_static_model_is_read_to_the_end(found: dict[float, dict[str, Any]]) -> None:
    static = [row for row in found[1.0]["tried"] if row["learn"] == "none"]
    assert {(row["window"], row["stride"]) for row in static} == {
        ("overlapping", 128),
        ("cached", 128),
        ("cached", 64),
    }
    assert all(row["tokens"] == 1100 and row["rule"] is None for row in static)
    assert next(row["cost"] for row in static if row["window"] == "overlapping") == 1.0
    assert any(row["tokens"] < 1100 for row in found[4.0]["tried"])  # others are given up


# A whole number of windows, so that all but the first are full.
@pytest.mark.parametrize(
    ("grid", "settings"),
    [
        (Windows("overlapping", 256, 128), {}),
        (Windows("cached", 256, 128), {"every": 4}),
        (Windows("cached", 256, 64), {"learn": "lora", "every": 2, "cadence": "accumulate"}),
    ],
)
def test_a_cost_is_that_of_a_long_run(
    grid: Windows, settings: dict[str, Any], model: str, place: Path, capsys: Capture, tmp_path: Path
) -> None:
    (long,) = written(place, longer=words(4000))
    quiet = ["--limit", 256 * 24, "--compare", "none", "--no-report", "--no-live", "--json"]
    said = []
    for one in (tuning.Trial(WHOLE, FROZEN), tuning.Trial(grid, Learning(learning_rate=1e-4, **settings))):
        flags = {name: value for name, value in one.settings().items() if value is not None}
        line = shlex.split(tuning.command([long], flags, Machine(model)))[1:]
        summary = driftlm(capsys, *line, *quiet, "--run", tmp_path / str(len(said))).summary
        assert summary["tokens"] == 256 * 24
        said.append(summary["flops_per_token"])
    price = tuning.formulas(load(model))
    learning = Learning(learning_rate=1e-4, **settings)
    cost = price(tuning.Trial(grid, learning)).of(learning) / price(tuning.Trial(WHOLE, FROZEN)).score
    assert said[1] / said[0] == pytest.approx(cost, rel=0.04)  # the first windows are not full


def test_who_goes_on_is_among_the_best_of_those_before(model: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "WAYS", FEW)
    monkeypatch.setattr(tuning, "CADENCES", SOME)
    monkeypatch.setattr(tuning, "MARKS", {4: 2, 2: 1})
    language_model, documents = load(model), [Document("d", Path(text).read_text())]
    some = tuning.candidates([Windows("cached", 64, 32)])
    rows = [row for _, row in tuning.raced(some, language_model, documents, 500)]
    losses = []
    for one in some:  # every one to the end, by a memory of its own
        steps = read_stream(WeightMemory(load(model), one.windows, one.learning), documents, limit=500)
        losses.append([value for step in steps for value in step.nats.double().tolist()])
    alive = dict.fromkeys(range(len(some)), 500)
    for mark, kept in ((125, 2), (250, 1)):
        total = {i: math.fsum(losses[i][:mark]) for i in alive if alive[i] == 500}
        for i in total:
            better = [j for j in total if j < i and total[j] < total[i]]
            if len(better) >= kept and some[i].learning.learn != "none":
                alive[i] = 32 * math.ceil(mark / 32)
    assert [row["tokens"] for row in rows] == list(alive.values())
    assert len(set(alive.values())) == 3


def test_the_command_gives_what_was_said(model: str, text: str, capsys: Capture, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "WAYS", FEW[:1])
        patch.setattr(tuning, "CADENCES", SOME)
        line = ["tune", text, "--budget", 2.0, "--limit", 1024, "--model", model, "--threads", 1]
        shown, said = driftlm(capsys, *line), driftlm(capsys, *line, "--json").summary
    assert said.keys() == KEYS and said["flags"]["learn"] == "all"
    assert shown.out.splitlines()[-1] == said["command"] and f"{said['bits_per_byte']:.4f} bits" in shown.out
    for name, value in said["flags"].items():
        assert f"--{name.replace('_', '-')} {value}" in said["command"]
    words_of_it = shlex.split(said["command"])[1:]
    quiet = ["--limit", 1024, "--no-report", "--no-live", "--json", "--run", tmp_path / "run"]
    run = driftlm(capsys, *words_of_it, *quiet).summary
    assert run["tokens"] == 1024
    assert run["bits_per_byte"] == pytest.approx(said["bits_per_byte"], rel=1e-12)
    assert run["static_bits_per_byte"] == pytest.approx(said["static_bits_per_byte"], rel=1e-12)


def test_what_cannot_be_tuned_is_refused(model: str, text: str, place: Path, capsys: Capture) -> None:
    line = ["--model", model, "--threads", 1]
    short = str(place / "short.txt")
    refused(driftlm(capsys, "tune", text, "--budget", 0.3, *line), "--budget 0.3 pays for no way", "at least 0.")
    refused(driftlm(capsys, "tune", text, "--budget", "nan", *line), "--budget was nan")
    refused(driftlm(capsys, "tune", text, "--limit", 100, *line), "--limit was 100; give at least 1,024")
    refused(driftlm(capsys, "tune", short, *line), "the text has", "give at least 1,024")
    refused(driftlm(capsys, "tune", str(place / "none.txt"), *line), "no such file")
    with pytest.raises(DriftError, match="no text was given"):
        tuning.tuned([], Machine(), budget=2.0, unit="flops", limit=2000)


def test_the_least_that_is_said_is_enough(model: str, text: str, capsys: Capture) -> None:
    said = driftlm(capsys, "tune", text, "--budget", 0.1, "--model", model).err
    least = float(said.rpartition("give at least ")[2].strip().rstrip("."))
    result = tuning.tuned([text], Machine(model, threads=1), budget=least, unit="flops", limit=1024)
    assert result["flags"] == {
        "window": "cached",
        "context": 256,
        "sink": 1,
        "stride": result["flags"]["stride"],
        "learn": "none",
    }


def test_seconds_are_measured_once_a_kind(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model, measured = load(model), []

    def timed(memory: WeightMemory, ids: list[int]) -> float:
        measured.append((memory.windows, memory.learning.learn, memory.learning.rule))
        return memory.windows.stride * (2.0 if memory.learning.learn == "none" else 6.0)

    real = tuning.timed
    monkeypatch.setattr(tuning, "timed", timed)
    price = tuning.prices(language_model, [Document("d", words(50))])
    some = tuning.candidates([Windows("cached", 64, 32)])
    costs = {one: price(one).of(one.learning) for one in some}
    assert len(measured) == len(set(measured)) == 4  # static, all by Adam and SGD, LoRA by Adam
    expected = {("skip", 1): 6.0, ("skip", 2): 4.0, ("skip", 4): 3.0, ("accumulate", 2): 6.0}
    for one, cost in costs.items():
        assert cost == (expected[one.learning.cadence, one.learning.every] if one.learns else 2.0)
    assert real(WeightMemory(language_model, Windows("cached", 64, 32), FROZEN), [5, 6, 7]) > 0


def test_tuning_by_seconds_ends(model: str, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "WAYS", FEW[:1])
        patch.setattr(tuning, "CADENCES", SOME)
        result = tuning.tuned([text], Machine(model, threads=1), budget=50.0, unit="seconds", limit=1024)
    assert result["unit"] == "seconds" and len(result["tried"]) == 3 * (1 + len(SOME))
    assert all(row["cost"] > 0 for row in result["tried"])


def test_windows_are_those_that_fit_the_model(place: Path) -> None:
    assert tuning.grids_of(load(str(tiny_model(place, "gpt2")))) == [WHOLE]  # absolute positions are not cached
    narrow = load(str(tiny_model(place)))
    narrow.model.config.max_position_embeddings = 100
    assert tuning.grids_of(narrow) == [
        Windows("overlapping", 64, 32), Windows("cached", 64, 32), Windows("cached", 64, 16)
    ]  # fmt: skip


def test_of_quantized_weights_only_a_lora_learns() -> None:
    learns = {one.learning.learn for one in tuning.candidates([Windows()], quantized=True)}
    assert learns == {"none", "lora"}


@pytest.fixture(scope="module")
def language_model(model: str) -> LanguageModel:
    return load(model)


@pytest.mark.parametrize("limit", [1, 7, 50, 333, 10**6])
def test_a_beginning_has_the_tokens_of_the_whole(language_model: LanguageModel, limit: int) -> None:
    texts = ["é è 00 the thing\r\n" * 30, words(80), words(80, seed=1)]
    whole = [language_model.encode(text)[0][1:] for text in texts]

    def documents() -> Iterator[Document]:
        yield from (Document(str(i), text) for i, text in enumerate(texts))

    found, tokens = tuning.beginning(language_model, documents(), limit)
    assert tokens == min(limit, sum(map(len, whole)))
    read = [token for one in found for token in language_model.encode(one.text)[0][1:]]
    assert read[:limit] == [token for ids in whole for token in ids][:limit]
    assert sum(len(one.text) for one in found) <= sum(map(len, texts))
    assert len(read) <= limit + tuning.MARGIN + 8
    assert replace(found[0], text="") == Document("0", "")


def test_json_holds_plain_numbers(found: dict[float, dict[str, Any]]) -> None:
    assert json.loads(json.dumps(found[4.0], allow_nan=False)) == found[4.0]
