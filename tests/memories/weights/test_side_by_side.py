"""Documents read side by side: the steps of reading one after another, in the same order, and runs that go on."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driftlm import DriftError, Learning, Totals, WeightMemory, Windows, read_stream
from driftlm.memories.loop import Point
from driftlm.memories.weights.mixture import MixtureMemory
from driftlm.memories.weights.side_by_side import read_side_by_side
from driftlm.streams.documents import Document
from tests.support.build import language_model, spelled, weight_memory
from tests.support.families import random_ids
from tests.support.running import QUICK, checkpoints, driftlm, finish, refused, start, tiny_model, words, written

pytestmark = pytest.mark.long

Capture = pytest.CaptureFixture[str]
LENGTHS = [30, 50, 20, 5, 36, 1, 14]
DOCUMENTS = [
    Document(one.id, one.text, f"199{n}")
    for n, one in enumerate(spelled(random_ids(n, n)[1:], str(n)) for n in LENGTHS)
]
SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {"rule": "adam", "learning_rate": 1e-2},
    "accumulate": {"rule": "adam", "learning_rate": 1e-2, "every": 3, "cadence": "accumulate"},
    "rollbacks": {"learning_rate": 1e10},
}


def memory_of(window: Any = "overlapping", **learning: Any) -> WeightMemory:
    return weight_memory("llama", Windows(window, 20, 8), **{"learn": "lora", "reset": "document"} | learning)


def told(totals: Totals) -> Totals:
    """What of totals is the same to the last bit."""
    return replace(totals, seconds=0.0, nats=0.0, static_nats=None)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(
    ("window", "rows", "limit"),
    [("overlapping", 3, None), ("cached", 3, 110), ("cached", 20, None), ("overlapping", 1, 97)],
)
def test_steps_are_those_of_one_after_another(settings: str, window: str, rows: int, limit: int | None) -> None:
    alone, memory = memory_of(window, **SETTINGS[settings]), memory_of(window, **SETTINGS[settings])
    theirs = list(read_stream(alone, DOCUMENTS, baseline=alone.static(), limit=limit))
    ours = list(read_side_by_side(memory, DOCUMENTS, rows, compares=True, limit=limit))
    times = {document.id: document.time for document in DOCUMENTS}
    for one, other in zip(ours, theirs, strict=True):
        assert one.time == other.time == times[one.window.document]
        assert one.here == (None if one.window.index else other.here)
        assert one.behind == (other.behind if one.window.last else None)
        assert one.window == other.window and one.events == other.events
        assert told(one.before) == told(other.before) and told(one.totals) == told(other.totals)
        assert one.static_nats is not None and other.static_nats is not None
        assert (one.nats - other.nats).abs().max() <= 1e-5
        assert (one.static_nats - other.static_nats).abs().max() <= 1e-5
    assert memory.counts == alone.counts and (memory.counts.rollbacks > 0) == (settings == "rollbacks")
    last, expected = ours[-1].totals, theirs[-1].totals
    assert last.tokens == (limit or sum(LENGTHS)) and last.static_nats is not None and expected.static_nats is not None
    assert abs(last.nats - expected.nats) <= 1e-5 * last.tokens
    assert abs(last.static_nats - expected.static_nats) <= 1e-5 * last.tokens


def test_a_reading_goes_on_behind_a_document() -> None:
    whole = list(read_side_by_side(memory_of(), DOCUMENTS, 3, limit=120))
    place = next(n for n, step in enumerate(whole) if step.here == Point(2))
    memory, before = memory_of(), whole[place].before
    memory.counts.updates = before.updates
    rest = list(read_side_by_side(memory, DOCUMENTS[2:], 3, limit=120, totals=before, start=Point(2)))
    assert [step.window for step in rest] == [step.window for step in whole[place:]]
    assert [told(step.totals) for step in rest] == [told(step.totals) for step in whole[place:]]
    assert abs(rest[-1].totals.nats - whole[-1].totals.nats) <= 1e-5 * 120


def test_the_source_is_asked_for_no_more_than_is_needed() -> None:
    asked = []

    def documents() -> Iterator[Document]:
        for document in DOCUMENTS:
            asked.append(document.id)
            yield document

    steps = read_side_by_side(memory_of(), documents(), 2, limit=70)
    assert next(steps).totals.tokens == 8 and asked == ["30", "50"]
    assert list(steps)[-1].totals.tokens == 70 and asked == ["30", "50"]


def test_no_document_and_an_empty_one() -> None:
    assert list(read_side_by_side(memory_of(), [], 2)) == []
    memory = WeightMemory(language_model("llama"), Windows(context=20, stride=8), Learning("lora", reset="document"))
    with pytest.raises(DriftError, match="the document has no token"):
        list(read_side_by_side(memory, [Document("a", "one"), Document("b", "")], 2))


def test_what_has_no_form_for_rows_is_refused() -> None:
    with pytest.raises(
        DriftError,
        match="`Stream.batch` was 2 and `Learning.reset` never.*give `Learning.reset` document, or `Stream.batch` 1",
    ):
        read_side_by_side(memory_of(reset="never"), DOCUMENTS, 2)
    with pytest.raises(
        DriftError, match="`Stream.batch` was 2, but a mixture reads one document at a time; give `Stream.batch` 1"
    ):
        read_side_by_side(
            MixtureMemory(language_model("llama"), Windows(context=20, stride=8), [Learning(learning_rate=0)]),
            DOCUMENTS,
            2,
        )
    with pytest.raises(DriftError, match="give `Learning.learn` lora"):
        read_side_by_side(memory_of(learn="norms"), DOCUMENTS, 2)


# ------------------------------------------------------------------------------------------------- on the command line

LORA = ["--reset", "document", "--learn", "lora", "--rank", "2", "--learning-rate", "0.5"]


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "windows.jsonl").read_bytes().splitlines()]


def assert_alike(run: Path, other: Path) -> None:
    """Two runs say the same: what counts exactly, what was scored to 1e-5 nats per token."""
    ours, theirs = log_of(run), log_of(other)
    for one, another in zip(ours, theirs, strict=True):
        assert one.keys() == another.keys()
        for key, value in one.items():
            if key.endswith("nats"):
                assert abs(value - another[key]) <= 1e-5 * one["tokens"]
            else:
                assert value == another[key], key


def test_the_command_reads_the_same_side_by_side(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = written(tmp_path, a=words(60), b=words(5, 1), c=words(40, 2), d=words(25, 3))
    command = ["read", *texts, "--model", tiny_model(tmp_path), *QUICK, *LORA, "--run"]
    one = driftlm(capsys, *command, "one").summary
    several = driftlm(capsys, *command, "several", "--batch", 3).summary
    assert_alike(tmp_path / "several", tmp_path / "one")
    assert several.keys() == one.keys()
    for key, value in one.items():
        if key in ("tokens", "bytes", "updates", "windows", "documents", "flops", "flops_steps"):
            assert several[key] == value, key
    assert several["nats_per_token"] == pytest.approx(one["nats_per_token"], abs=1e-5)
    assert several["nats_per_token"] < several["static_nats_per_token"] - 0.1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--batch", 0], "--batch was 0; give the number of documents to read at a time, from 1"),
        (["--batch", 2, "--reset", "never"], "--batch was 2 and --reset never"),
        (["--batch", 2, "--learn", "all"], "give --learn lora"),
        (["--batch", 2, "--rule", "mixture"], "a mixture reads one document at a time"),
    ],
)
def test_the_command_refuses_before_anything_is_written(
    tmp_path: Path, capsys: Capture, flags: list[Any], sentence: str
) -> None:
    (text,) = written(tmp_path, a=words(20))
    quick = [one for one in QUICK if one not in ("--rule", "sgd")] if "mixture" in flags else QUICK
    lora = LORA[:-2] if "mixture" in flags else LORA
    command = ["read", text, "--model", tiny_model(tmp_path), *quick, *lora, *flags, "--run", tmp_path / "run"]
    refused(driftlm(capsys, *command), sentence)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_killed_a_run_loses_nothing_that_it_told(tmp_path: Path) -> None:
    texts = written(tmp_path, a=words(60), b=words(90, 1), c=words(5, 2), d=words(50, 3), e=words(40, 4))
    settings = ["--model", tiny_model(tmp_path), *QUICK, *LORA, "--batch", "2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    summary = finish(tmp_path, "read", *texts, *settings, "--run", whole).summary
    command: list[object] = ["read", *texts, *settings, "--checkpoint", "0", "--run", killed]
    second = next(line["window"] for line in log_of(whole) if line["document"].endswith("b.txt"))
    for place in (second, second + 12):
        process = start(tmp_path, *command, pause=0.02)
        reached = process.wait_until(lambda place=place: any(int(c.name[11:]) >= place for c in checkpoints(killed)))
        assert reached, process.wait()
        process.kill()
        process.wait()
        command = ["read", "--resume", killed, "--checkpoint", "0", "--no-report", "--no-live", "--json"]
    ended = finish(tmp_path, *command).summary
    assert_alike(killed, whole)
    for key in ("tokens", "bytes", "updates", "windows", "documents", "flops"):
        assert ended[key] == summary[key], key
    assert ended["nats"] == pytest.approx(summary["nats"], abs=1e-5 * summary["tokens"])
