"""Run folders: what they record, and that a run which was stopped goes on as if it never had been."""

import io
import json
import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from driftlm.core.errors import DriftError
from driftlm.memories.base import State
from driftlm.memories.loop import Totals
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.learning import Learning
from driftlm.models.machine import Machine
from driftlm.runs.folder import Position, Run, Tape, latest_checkpoint
from driftlm.runs.reading import begun, refuse_others
from driftlm.runs.settings import Stream
from driftlm.streams.documents import Document
from tests.support.running import QUICK, checkpoints, driftlm, ending, refused, tiny_model, words, written

Capture = pytest.CaptureFixture[str]


def jsonl(*texts: str) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def broken_stream(folder: Path) -> tuple[list[str], str]:
    """Three files whose second breaks on its third line; and how it reads when it is mended."""
    files = written(folder, a=words(40), c=words(30, 1))
    news = folder / "news.jsonl"
    news.write_text(jsonl(words(20, 2), words(25, 3)) + "{oops\n" + jsonl(words(5, 4)))
    return [files[0], str(news), files[1]], jsonl(words(20, 2), words(25, 3), words(9, 5), words(5, 4))


# --------------------------------------------------------------------------------------------------- what is recorded


def test_a_run_records_its_settings_its_windows_and_its_totals(tmp_path: Path, capsys: Capture) -> None:
    files = written(tmp_path, a=words(40), b="é, ö, 日本.\n")
    model = tiny_model(tmp_path)
    command = ["read", *files, "--model", model, *QUICK, "--run", "run", "--seed", 3, "--learning-rate", 0.2]
    summary = driftlm(capsys, *command).summary
    run = tmp_path / "run"
    assert json.loads((run / "summary.json").read_bytes()) == summary
    assert summary["bytes"] == sum(len(Path(file).read_bytes()) for file in files)
    assert (summary["documents"], summary["finished"], summary["run"]) == (2, True, "run")

    config = json.loads((run / "config.json").read_bytes())
    assert config["driftlm"] == driftlm_version() and config["command"].startswith("driftlm")
    assert (config["threads"], config["seed"], config["learning"]["learning_rate"]) == (1, 3, 0.2)
    assert config["model"]["name"] == str(model) and config["model"]["parameters"] == config["model"]["trainable"]
    assert config["versions"]["torch"] == torch.__version__

    windows = [json.loads(line) for line in (run / "windows.jsonl").read_bytes().splitlines()]
    assert [window["window"] for window in windows] == list(range(summary["windows"]))
    assert [window["position"] for window in windows[:3]] == [1, 17, 33]
    for key in ("tokens", "bytes", "nats", "static_nats"):
        assert math.isclose(sum(window[key] for window in windows), summary[key], rel_tol=1e-12)
    assert summary["nats_per_token"] == summary["nats"] / summary["tokens"]
    assert math.isclose(summary["bits_per_byte"], summary["nats"] / math.log(2) / summary["bytes"])
    # Same settings, same run.
    driftlm(capsys, *command[:-6], "--run", "again", *command[-4:])
    assert ending(tmp_path / "again") == ending(run)


def driftlm_version() -> str:
    from driftlm import __version__

    return __version__


def test_without_a_name_a_run_goes_below_runs_and_is_named_after_its_text(tmp_path: Path) -> None:
    for source, name in (("a.txt", "a"), ("-", "stdin"), (".", tmp_path.name), ("notes/", "notes")):
        folder = begun(MemorySettings(), Machine(), Stream(files=(source,))).folder
        assert folder.parent == Path("runs") and folder.name.endswith(f"-{name}")


# ------------------------------------------------------------------------------------------------ bad input on the way


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "--window cached --every 3 --cadence accumulate",
        "--window cached --learn none",
        "--dtype bfloat16 --learn dora --rule adam --learning-rate 0.01",
        "--window cached --rule relative",
    ],
)
def test_a_stream_that_breaks_goes_on_once_it_is_mended(settings: str, tmp_path: Path, capsys: Capture) -> None:
    files, mended = broken_stream(tmp_path)
    command = ["read", *files, "--model", tiny_model(tmp_path), *QUICK, *settings.split()]
    refused(driftlm(capsys, *command, "--run", "run"), "news.jsonl, line 3", "--resume run")
    assert not (tmp_path / "run" / "summary.json").exists() and len(checkpoints(tmp_path / "run")) == 1
    refused(driftlm(capsys, "read", "--resume", "run", "--json"), "news.jsonl, line 3")

    Path(files[1]).write_text(mended)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["stream"]["controls"] = True  # what was said when it began is not said again
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    resumed = driftlm(capsys, "read", "--resume", "run", "--json").summary
    whole = driftlm(capsys, *command, "--run", "whole").summary
    assert resumed["tokens"] == whole["tokens"] and resumed["nats"] == whole["nats"]
    assert ending(tmp_path / "run") == ending(tmp_path / "whole")


def test_before_the_first_window_nothing_is_left_behind(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "news.jsonl").write_text("{oops\n")
    command = ["read", "news.jsonl", "--model", tiny_model(tmp_path), *QUICK, "--run", "run", "--save", "saved"]
    before = set(tmp_path.rglob("*"))
    refused(driftlm(capsys, *command), "news.jsonl, line 1")
    assert set(tmp_path.rglob("*")) == before


def test_learning_that_diverges_at_the_start_of_a_document_leaves_the_run_at_it(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "news.jsonl").write_text(jsonl(words(12), words(40, 1), words(10, 2)))
    settings = ["--model", tiny_model(tmp_path), *QUICK, "--guard", "off", "--learning-rate", "1e20", "--every", 3]
    refused(driftlm(capsys, "read", "news.jsonl", *settings, "--run", "run"), "diverged", "start a new run")
    stopped = latest_checkpoint(tmp_path / "run")
    assert stopped is not None
    assert stopped.totals.windows == 3
    assert (stopped.progress.document, stopped.progress.window, stopped.progress.digested) == (1, 0, 1)
    refused(driftlm(capsys, "read", "--resume", "run", "--json"), "diverged")  # again, not the document after


def test_ctrl_c_before_the_first_window_leaves_nothing(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("driftlm.runs.reading.memory_of", stop)
    written(tmp_path, a=words(10))
    outcome = driftlm(capsys, "read", "a.txt", "--model", tiny_model(tmp_path), *QUICK, "--run", "run")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "driftlm: stopped\n")
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------------------------------- resume


def stopped_run(folder: Path, capsys: Capture, *settings: object) -> list[object]:
    """A run `run` that stopped at a bad line, which was then mended; the command that reads the stream whole."""
    files, mended = broken_stream(folder)
    command = ["read", *files, "--model", tiny_model(folder), *QUICK, *settings]
    assert driftlm(capsys, *command, "--run", "run").code == 2
    Path(files[1]).write_text(mended)
    return command


def test_what_a_killed_run_left_behind_its_checkpoint_is_taken_off(tmp_path: Path, capsys: Capture) -> None:
    command = stopped_run(tmp_path, capsys)
    run = tmp_path / "run"
    with (run / "windows.jsonl").open("a") as log:
        log.write('{"window": 99}\n{"wind')
    (run / "checkpoint.partial").mkdir()
    (run / "checkpoint.partial" / "memory").write_bytes(b"half")
    shutil.copytree(checkpoints(run)[-1], run / "checkpoint-000000000001")  # the one before, half removed
    (run / "checkpoint-000000000001" / "values.json").unlink()
    assert driftlm(capsys, "read", "--resume", "run", "--json").code == 0
    assert driftlm(capsys, *command, "--run", "whole").code == 0
    assert ending(run) == ending(tmp_path / "whole")


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path: Path, capsys: Capture) -> None:
    command = stopped_run(tmp_path, capsys, "--learn", "lora", "--learning-rate", 0.5)
    shutil.rmtree(checkpoints(tmp_path / "run")[-1])
    assert driftlm(capsys, "read", "--resume", "run", "--json").code == 0
    assert driftlm(capsys, *command, "--run", "whole").code == 0
    assert ending(tmp_path / "run") == ending(tmp_path / "whole")


def test_a_checkpoint_before_the_first_new_line_knows_how_long_the_log_is(tmp_path: Path) -> None:
    class Nothing:
        def state(self) -> State:
            return State({}, {})

    run = Run(tmp_path / "run", {"driftlm": "0"})
    run.append({"window": 0})
    run.append({"window": 1})
    run.finish({})
    length = len(b'{"window": 0}\n')
    run = Run(tmp_path / "run", {"driftlm": "0"}, length)
    run.checkpoint(Position(), Totals(windows=1), Nothing(), None)
    found = latest_checkpoint(tmp_path / "run")
    assert found is not None and found.lines == length
    run.finish({})


def test_a_pipe_is_resumed_by_piping_again(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    command = ["read", "-", "--stdin", "jsonl", "--model", tiny_model(tmp_path), *QUICK]
    texts = [words(20), words(30, 1), words(10, 2)]
    pipe(jsonl(*texts[:2]) + "{oops")
    refused(driftlm(capsys, *command, "--run", "run"), "standard input, line 3")
    pipe(jsonl(words(21), *texts[1:]))
    refused(driftlm(capsys, "read", "--resume", "run", "--json"), "changed since this run read it")
    pipe(jsonl(texts[0]))
    refused(driftlm(capsys, "read", "--resume", "run", "--json"), "has 1 documents", "had read 2")
    pipe(jsonl(*texts))
    assert driftlm(capsys, "read", "--resume", "run", "--json").code == 0
    pipe(jsonl(*texts))
    assert driftlm(capsys, *command, "--run", "whole").code == 0
    assert ending(tmp_path / "run") == ending(tmp_path / "whole")


def test_a_run_goes_on_only_with_its_own_stream_model_and_settings(tmp_path: Path, capsys: Capture) -> None:
    stopped_run(tmp_path, capsys, "--learning-rate", 0.1)
    resume = ["read", "--resume", "run", "--json"]
    was = ending_so_far(tmp_path / "run")

    text = (tmp_path / "a.txt").read_text()
    (tmp_path / "a.txt").write_text(text.replace("the", "The", 1))
    refused(driftlm(capsys, *resume), "news.jsonl:2' or one before", "changed since this run read it")
    (tmp_path / "a.txt").write_text(text)

    weights = tmp_path / "llama" / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + b"\0\0\0?")
    refused(driftlm(capsys, *resume), "the model", "changed")
    weights.write_bytes(kept)

    refused(driftlm(capsys, *resume, "a.txt"), "--resume RUN alone")
    refused(driftlm(capsys, *resume, "--run", "other"), "--resume RUN alone")
    refused(driftlm(capsys, *resume, "--from", "other"), "--resume RUN alone")
    refused(driftlm(capsys, *resume, "--learning-rate", 0.2), "--learning-rate was 0.2", "0.1")
    refused(driftlm(capsys, *resume, "--limit", 5), "--limit was 5")
    refused(driftlm(capsys, *resume, "--threads", 2), "--threads was 2")
    refused(driftlm(capsys, "read", "--resume", "llama"), "llama holds no run")
    refused(driftlm(capsys, "read", "--resume", "nothing"), "nothing holds no run")
    assert ending_so_far(tmp_path / "run") == was

    # What was not read yet may change, and the run's own settings may be said again.
    (tmp_path / "c.txt").write_text(words(50, 9))
    assert driftlm(capsys, *resume, "--learning-rate", 0.1, "--threads", 1, "--no-report", "--no-live").code == 0
    refused(driftlm(capsys, *resume), "is finished", "--from run")


def test_a_rule_that_nobody_asked_for_is_not_held_against_a_run() -> None:
    folder = Path("run")
    for own in (Learning(), Learning(rule="adam"), Learning(rule="sgd"), Learning(rule="mixture")):
        refuse_others(Learning(), own.settled(), folder)
    refuse_others(Learning(learning_rate=0.05), Learning(rule="sgd", learning_rate=0.05), folder)
    with pytest.raises(DriftError, match="`Learning.learning_rate` was 0.001 but the run run has None"):
        refuse_others(Learning(learning_rate=1e-3), Learning(rule="mixture"), folder)
    with pytest.raises(DriftError, match="`Learning.rule` was sgd but the run run has 'relative'"):
        refuse_others(Learning(rule="sgd"), Learning().settled(), folder)


def ending_so_far(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_damaged_checkpoint_is_named(tmp_path: Path, capsys: Capture) -> None:
    stopped_run(tmp_path, capsys)
    (last,) = checkpoints(tmp_path / "run")
    (last / "memory").write_bytes((last / "memory").read_bytes()[:100])
    refused(driftlm(capsys, "read", "--resume", "run", "--json"), str(last.name), "damaged")


@pytest.mark.parametrize("learn", ["all", "lora", "dora", "norms"])
def test_a_run_with_a_learned_start_is_resumed_also_elsewhere(learn: str, tmp_path: Path, capsys: Capture) -> None:
    (first,) = written(tmp_path, first=words(60, 7))
    model = ["--model", tiny_model(tmp_path), *QUICK]
    assert driftlm(capsys, "read", first, *model, "--run", "first", "--learning-rate", 0.2).code == 0
    settings = ["--from", "first", "--learn", learn, "--learning-rate", 0.2, "--rank", 4]
    command = stopped_run(tmp_path, capsys, *settings)
    shutil.move("run", "moved")
    shutil.move("first", "away")  # a run keeps what it began with
    resumed = driftlm(capsys, "read", "--resume", "moved", "--json").summary
    shutil.move("away", "first")
    whole = driftlm(capsys, *command, "--run", "whole").summary
    assert {**resumed, "model": ""}.keys() == whole.keys()
    assert ending(tmp_path / "moved") == ending(tmp_path / "whole")
    assert whole["static_nats"] < 0.9 * unlearned(tmp_path, capsys, command)


def unlearned(folder: Path, capsys: Capture, command: list[object]) -> float:
    settings = ["--model", folder / "llama", *QUICK, "--learn", "none", "--run", "static"]
    return driftlm(capsys, "read", *command[1:4], *settings).summary["nats"]


def test_a_run_killed_between_its_end_and_its_saving_saves_after_all(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, a=words(20))
    command = ["read", "a.txt", "--model", tiny_model(tmp_path), *QUICK, "--run", "run", "--save", "saved"]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("driftlm.runs.formats.save", killed)
        assert driftlm(capsys, *command).code == 130
    assert (tmp_path / "run" / "summary.json").exists()
    (tmp_path / "saved").write_text("somebody else's")
    refused(driftlm(capsys, "read", "--resume", "run", "--json"), "is finished")
    (tmp_path / "saved").unlink()
    assert driftlm(capsys, "read", "--resume", "run", "--json").summary["saved"] == "saved"
    assert (tmp_path / "saved" / "model.safetensors").exists()
    refused(driftlm(capsys, "read", "--resume", "run", "--json"), "is finished")


# ----------------------------------------------------------------------------------------------------- places refused


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path, capsys: Capture) -> None:
    written(tmp_path, a=words(10), b="kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    command = ["read", "a.txt", "--model", tiny_model(tmp_path), *QUICK]
    before = set(tmp_path.rglob("*"))
    refused(driftlm(capsys, *command, "--run", "full"), "--run full", "not empty")
    refused(driftlm(capsys, *command, "--run", "b.txt"), "--run b.txt", "not empty")
    refused(driftlm(capsys, *command, "--run", "b.txt/run"), "b.txt is no folder")
    refused(driftlm(capsys, *command, "--run", "run", "--save", "full"), "full exists already")
    refused(driftlm(capsys, *command, "--run", "run", "--save", "b.txt/deep/saved"), "b.txt is no folder")
    refused(driftlm(capsys, *command, "--run", "run", "--save", "run"), "--save run", "--run run")
    refused(driftlm(capsys, *command, "--run", "out/run", "--save", "./out"), "--save ./out", "--run out/run")
    assert set(tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    assert driftlm(capsys, *command, "--run", "empty").code == 0


# ------------------------------------------------------------------------------------------------------------ the tape


def test_a_tape_notices_every_change_of_what_was_read() -> None:
    documents = [Document("a", "one"), Document("b", "two"), Document("c", "three")]
    tape = Tape(documents, Position())
    read = []
    for document in tape:
        read.append(document)
        if document.id == "b":
            break
    stopped = Position(1, 4, tape.digested, tape.digest)
    assert [document.id for document in Tape(documents, stopped)] == ["b", "c"]
    assert [document.id for document in Tape([*documents[:2], Document("d", "new")], stopped)] == ["b", "d"]
    for changed in (
        [replace(documents[0], id="A"), *documents[1:]],
        [documents[0], replace(documents[1], text="two.")],
        [Document("a", "one\0b"), Document("", "two")],
        documents[1:],
        documents[:1],
        [],
    ):
        with pytest.raises(DriftError):
            list(Tape(changed, stopped))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path, capsys: Capture) -> None:
    written(tmp_path, a=words(10))
    (tmp_path / "locked").mkdir(mode=0o500)
    command = ["read", "a.txt", "--model", tiny_model(tmp_path), *QUICK, "--run", "locked/run"]
    refused(driftlm(capsys, *command), "locked")
