"""The verb `read`: what it accepts, what it prints where, and how it refuses."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from driftlm.core.errors import DriftError
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.learning import Learning
from driftlm.models.machine import Machine
from driftlm.runs.settings import Stream
from driftlm.streams.windows import Windows
from tests.support.running import QUICK, driftlm, refused, tiny_model, words, written

Capture = pytest.CaptureFixture[str]
TOTALS = {
    "tokens", "bytes", "nats_per_token", "bits_per_byte", "static_nats_per_token", "static_bits_per_byte", "updates",
    "rollbacks", "seconds", "run",
}  # fmt: skip


def parsed(capsys: Capture, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[Any, ...]:
    """The settings that reach the verb `read`."""
    seen: list[tuple[Any, ...]] = []

    def read(*settings: Any) -> dict[str, Any]:
        seen.append(settings)
        raise DriftError("seen")

    monkeypatch.setattr("driftlm.runs.reading.read", read)
    outcome = driftlm(capsys, "read", *arguments)
    assert outcome.err == "driftlm: seen\n", outcome.err
    return seen[0]


def test_every_flag_reaches_its_setting(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    line = (
        "a.txt b.txt --model DIR --window cached --context 256 --stride 128 --learn lora --layers 2-5 --rule adam "
        "--learning-rate 0.05 --every 2 --cadence accumulate --reset document --limit 20000 --compare none --guard off "
        "--run RUN --from OTHER --save SAVED --dtype bfloat16 --device cpu --threads 1 --seed 7 --json --rank 4 "
        "--target-modules attention --freeze-embeddings --momentum 0.5 --decay 0.01 --epsilon 1e-3 --statistics FILE "
        "--bos <s> --online --batch 4 --stdin jsonl --piece 2000 --checkpoint 5 --no-live --no-report --salience spans "
        "--tagger spacy --bits 8 --sources bm25 bank --networks NETWORKS --retrieved 3 --budget 99 --memory weights"
    )
    assert parsed(capsys, monkeypatch, *line.split()) == (
        MemorySettings(
            Windows("cached", 256, 128),
            Learning(
                learn="lora", layers="2-5", rank=4, target_modules="attention", freeze_embeddings=True, rule="adam",
                learning_rate=0.05, momentum=0.5, decay=0.01, epsilon=1e-3, statistics="FILE", every=2,
                cadence="accumulate", reset="document", guard="off", salience="spans", tagger="spacy", seed=7,
            ),
            ("bm25", "bank"), "NETWORKS", 3, 99, "none", "weights",
        ),
        Machine("DIR", "bfloat16", "cpu", 1, "<s>", True, 8),
        Stream(
            ("a.txt", "b.txt"), 20000, 4, "RUN", "", "OTHER", "SAVED", "jsonl", False, None, 2000, 5.0,
            True, False, False,
        ),
    )  # fmt: skip
    (*_, stream) = parsed(capsys, monkeypatch, "feed/", "--follow", "--idle", "2.5")
    assert stream == Stream(("feed/",), follow=True, idle=2.5)


@pytest.mark.parametrize("flag", ["window", "learn", "rule", "cadence", "reset", "compare", "guard", "memory", "dtype"])
def test_every_choice_is_taken(flag: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = {
        "window": "overlapping cached",
        "learn": "all lora dora norms none",
        "rule": "sgd adam rms",
        "cadence": "skip accumulate",
        "reset": "never document",
        "compare": "static none",
        "guard": "on off",
        "memory": "weights bank bm25 dense",
        "dtype": "float32 bfloat16",
    }[flag].split()
    for choice in choices:
        memory, *others = parsed(capsys, monkeypatch, "a.txt", f"--{flag}", choice)
        settings = [memory, memory.windows, memory.learning, *others]
        assert [getattr(one, flag) for one in settings if hasattr(one, flag)] == [choice]


def test_files_may_stand_before_between_and_behind_the_flags(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in ("a.txt - --json --limit 3", "--json a.txt - --limit 3", "--limit 3 --json a.txt -"):
        (*_, stream) = parsed(capsys, monkeypatch, *line.split())
        assert stream == Stream(("a.txt", "-"), limit=3, json=True)
    (*_, stream) = parsed(capsys, monkeypatch, "--resume", "RUN", "--json")
    assert stream == Stream(resume="RUN", json=True)


BAD = {
    "no.txt": ("no.txt: no such file", []),
    "empty.txt": ("empty.txt: the file is empty", []),
    "latin.txt": ("latin.txt: not UTF-8 at byte offset 3", []),
    "news.jsonl": ("news.jsonl, line 1", []),
    "folder": ("folder: the folder has no .txt", []),
    "a.txt": ("--stride 64 exceeds --context 32", ["--stride", "64"]),
    "a.txt ": ("--stride was 0", ["--stride", "0"]),
    "a.txt  ": ("--limit was 0", ["--limit", "0"]),
    "a.txt   ": ("--every was 0", ["--every", "0"]),
    "a.txt 1": ("--layers was '3-x'", ["--layers", "3-x"]),
    "a.txt 2": ("--layers was 1-2", ["--layers", "1-2"]),
    "a.txt 3": ("--learning-rate was -1.0", ["--learning-rate", "-1"]),
    "a.txt 4": ("--learning-rate was nan", ["--learning-rate", "nan"]),
    "a.txt 5": ("--rule was 'magic'", ["--rule", "magic"]),
    "a.txt 6": ("driftlm statistics TEXT", ["--rule", "rms"]),
    "a.txt 7": ("the model 'nothing'", ["--model", "nothing"]),
    "a.txt 8": ("folder has no config.json", ["--model", "folder"]),
    "a.txt 9": ("512 positions", ["--context", "513"]),
    "a.txt 10": ("--threads was -1", ["--threads", "-1"]),
    "a.txt 11": ("--bos 'nonsense'", ["--bos", "nonsense"]),
    "a.txt 12": ("--piece 3", ["--piece", "3"]),
    "a.txt 13": ("--rank was 0", ["--learn", "lora", "--rank", "0"]),
    "a.txt 14": ("--target-modules named 'q'", ["--learn", "lora", "--target-modules", "q"]),
    "a.txt 15": ("--window overlapping", ["--model", "gpt2", "--window", "cached"]),
    "a.txt 16": ("FILE does not exist", ["--rule", "rms", "--statistics", "FILE"]),
    "a.txt 17": ("--idle was 3.0", ["--idle", "3"]),
    "a.txt 18": ("--idle was -1.0", ["--idle", "-1", "--follow"]),
    "a.txt 19": ("--batch was 2, but --follow", ["--batch", "2", "--follow"]),
    "missing 20": ("missing: no such file or folder to follow", ["--follow"]),
    "- -": ("standard input can be read only once", []),
    "-": ("standard input", []),
}


@pytest.mark.parametrize("source", BAD)
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    source: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    written(tmp_path, a=words(10), empty="")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin1"))
    (tmp_path / "news.jsonl").write_text('{"title": "no text"}\n')
    (tmp_path / "folder").mkdir()
    sentence, settings = BAD[source]
    models = [tiny_model(tmp_path), tiny_model(tmp_path, "gpt2")]
    before = set(tmp_path.rglob("*"))
    files = [part for part in source.split() if not part.isdigit()]
    outcome = driftlm(capsys, "read", *files, "--model", models[0], *QUICK, "--run", "run", *settings)
    refused(outcome, sentence)
    assert set(tmp_path.rglob("*")) == before


def read(capsys: Capture, folder: Path, *arguments: object) -> dict[str, Any]:
    run = f"run-{len(list(folder.glob('run-*')))}"
    return driftlm(capsys, "read", *arguments, "--model", tiny_model(folder), *QUICK, "--run", run).summary


def test_json_is_one_object_with_the_totals(tmp_path: Path, capsys: Capture) -> None:
    files = written(tmp_path, a=words(30), b=words(20, 1))
    totals = read(capsys, tmp_path, *files)
    assert totals.keys() >= TOTALS
    assert totals["nats_per_token"] < totals["static_nats_per_token"] and totals["updates"] == totals["windows"] > 5
    assert totals["bytes"] == sum(Path(file).stat().st_size for file in files)
    alone = read(capsys, tmp_path, *files, "--compare", "none")
    assert {key for key, value in alone.items() if value is None} == {
        "static_nats_per_token", "static_bits_per_byte", "static_nats", "gain_nats"
    }  # fmt: skip
    assert alone["nats"] == totals["nats"]  # comparing changes nothing


def test_learning_nothing_is_the_static_model(tmp_path: Path, capsys: Capture) -> None:
    files = written(tmp_path, a=words(30), b=words(20, 1))
    none = read(capsys, tmp_path, *files, "--learn", "none")
    assert none["nats"] == none["static_nats"] == read(capsys, tmp_path, *files)["static_nats"]
    assert none["updates"] == none["rollbacks"] == 0 and none["gain_nats"] == 0
    idle = read(capsys, tmp_path, *files, "--learning-rate", 0)
    assert idle["nats"] == idle["static_nats"] == none["nats"]
    assert read(capsys, tmp_path, *files, "--learn", "none", "--compare", "none")["static_nats"] is None


@pytest.mark.parametrize("window", ["overlapping", "cached"])
def test_the_limit_counts_scored_tokens_over_all_files(window: str, tmp_path: Path, capsys: Capture) -> None:
    files = written(tmp_path, a=words(25), b=words(20, 1), c=words(20, 2))
    grid = ["--window", window]
    first = read(capsys, tmp_path, files[0], *grid)["tokens"]
    both = read(capsys, tmp_path, *files[:2], *grid)
    everything = read(capsys, tmp_path, *files, *grid)
    lines = windows(tmp_path, everything["run"])
    for limit in (1, 16, first - 1, first, first + 1, both["tokens"], everything["tokens"], 10**9):
        totals = read(capsys, tmp_path, *files, *grid, "--limit", limit)
        assert totals["tokens"] == min(limit, everything["tokens"])
        cut = windows(tmp_path, totals["run"])
        assert cut[:-1] == lines[: len(cut) - 1]  # the limit is not seen before it is reached
        if limit in (first, both["tokens"], 10**9):
            assert cut[-1] == lines[len(cut) - 1]
    at_the_end = read(capsys, tmp_path, *files, *grid, "--limit", both["tokens"])
    assert at_the_end["nats"] == both["nats"] and at_the_end["documents"] == 2


def windows(folder: Path, run: str) -> list[Any]:
    return [json.loads(line) for line in (folder / run / "windows.jsonl").read_bytes().splitlines()]


def test_what_stands_behind_the_limit_is_not_asked_for(tmp_path: Path, capsys: Capture) -> None:
    news = tmp_path / "news.jsonl"
    news.write_text(json.dumps({"text": words(20)}) + "\n")
    tokens = read(capsys, tmp_path, news)["tokens"]
    news.write_text(news.read_text() + "{oops\n")
    assert read(capsys, tmp_path, news, "--limit", tokens)["tokens"] == tokens


def test_text_stands_as_it_is(tmp_path: Path, capsys: Capture) -> None:
    raw = b"\xef\xbb\xbf  one\r\n\r\ntwo\rthree <|endoftext|> \xf0\x9f\x98\x80\n\n "
    (tmp_path / "raw.txt").write_bytes(raw)
    assert read(capsys, tmp_path, "raw.txt")["bytes"] == len(raw)


def test_people_get_a_sentence_and_the_run(tmp_path: Path, capsys: Capture) -> None:
    written(tmp_path, a=words(30))
    settings = ["a.txt", "--model", tiny_model(tmp_path), *QUICK[:-3], "--no-report"]
    outcome = driftlm(capsys, "read", *settings, "--run", "run")
    assert outcome.code == 0
    sentence, run = outcome.out.splitlines()
    assert sentence.startswith("read ") and "fewer" in sentence and run == "run: run"
    assert "tokens" in outcome.err
    worse = driftlm(capsys, "read", *settings, "--run", "worse", "--learning-rate", 30)
    assert "MORE" in worse.out
    alone = driftlm(capsys, "read", *settings, "--run", "alone", "--compare", "none")
    assert "static" not in alone.out and "bits per byte" in alone.out
