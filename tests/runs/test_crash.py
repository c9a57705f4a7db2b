"""Killed or stopped at any moment, a resumed run ends as one that was never stopped: bit by bit."""

import json
import os
import random
import shutil
import signal
import time
from itertools import count
from pathlib import Path

import pytest
import torch

from driftlm.memories.base import State
from driftlm.memories.loop import Totals
from driftlm.runs.folder import Position, Run, latest_checkpoint
from tests.support.running import QUICK, checkpoints, ending, finish, start, tiny_model, words, written

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")

CASES = {
    "cached": ["--window", "cached", "--learning-rate", "0.2"],
    "adam_accumulated": ["--rule", "adam", "--learning-rate", "0.005", "--every", "3", "--cadence", "accumulate"],
    "lora": ["--learn", "lora", "--rule", "adam", "--learning-rate", "0.02", "--window", "cached"],
    "rollbacks": ["--learning-rate", "40", "--momentum", "0.5", "--window", "cached"],
    "reset": [
        "--momentum",
        "0.8",
        "--learning-rate",
        "0.1",
        "--every",
        "2",
        "--reset",
        "document",
        "--compare",
        "none",
    ],
}
KILLS = 4  # a case: 20 in all


@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_moments_a_run_ends_as_if_never_stopped(case: str, tmp_path: Path) -> None:
    moments = random.Random(case)
    texts = written(tmp_path, a=words(120), b=words(5, 1), c=words(50, 2), d=words(90, 3))
    settings = ["--model", tiny_model(tmp_path), *QUICK, *CASES[case]]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    summary = finish(tmp_path, "read", *texts, *settings, "--run", whole).summary
    assert (summary["rollbacks"] > 1) == (case == "rollbacks") and summary["windows"] == 49

    often = ["--checkpoint", "0" if moments.random() < 0.5 else "0.02"]
    command: list[object] = ["read", *texts, *settings, *often, "--run", killed]
    kills = 0
    for place in sorted(moments.sample(range(summary["windows"] - 20), KILLS)):
        process = start(tmp_path, *command, pause=0.01)
        reached = process.wait_until(
            lambda place=place: any(c.name[11:] > f"{place:012d}" for c in checkpoints(killed))
        )
        assert reached, process.wait()
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        kills += process.wait().code == -signal.SIGKILL
        command = ["read", "--resume", killed, *often, "--json"]
    assert kills == KILLS
    resumed = finish(tmp_path, *command).summary
    assert resumed["windows"] == summary["windows"]
    assert ending(killed) == ending(whole)


# --------------------------------------------------------------------------------------- before every change to a file


class Held:
    """Something to keep: a number in a tensor and in a value."""

    def __init__(self, number: int) -> None:
        self.number = number

    def state(self) -> State:
        return State({"tensor": torch.full((1000,), float(self.number))}, {"number": self.number})


def lines_of(number: int) -> bytes:
    return b"".join(b'{"window": %d}\n' % window for window in range(number))


def keep_three() -> None:
    """A run of three checkpoints."""
    run = Run(Path("run"), {"driftlm": "0"})
    for number in (1, 2, 3):
        run.append({"window": number - 1})
        for _ in range(2):  # the second time as one that is resumed and stopped at once
            run.checkpoint(Position(number), Totals(windows=number), Held(number), Held(-number))


def test_a_checkpoint_is_whole_or_the_one_before_it_stands(tmp_path: Path) -> None:
    newest = []
    for change in count(1):
        folder = tmp_path / str(change)
        folder.mkdir()
        code = finish(folder, "tests.runs.test_crash:keep_three", dies_at=change).code
        found = latest_checkpoint(folder / "run")
        newest.append(0 if found is None else found.progress.document)
        if found is not None:
            assert found.baseline is not None
            for state, number in ((found.memory, newest[-1]), (found.baseline, -newest[-1])):
                assert state.values == {"number": number} and bool((state.tensors["tensor"] == number).all())
            log = (folder / "run" / "windows.jsonl").read_bytes()
            assert log[: found.lines] == lines_of(newest[-1])
        if code == 0:
            break
        assert code == -signal.SIGKILL
        # A run goes on over whatever was left.
        run = Run(folder / "run", {"driftlm": "0"}, 0 if found is None else found.lines)
        run.append({"window": newest[-1]})
        run.checkpoint(Position(9), Totals(windows=newest[-1] + 1), Held(9), None)
        run.finish({})
        again = latest_checkpoint(folder / "run")
        assert again is not None and again.progress.document == 9
        assert (folder / "run" / "windows.jsonl").read_bytes()[: again.lines] == lines_of(newest[-1] + 1)
        assert len(checkpoints(folder / "run")) == 1
    assert newest == sorted(newest) and set(newest) == {0, 1, 2, 3}
    assert len(newest) > 30  # the changes were counted


def test_killed_while_it_begins_or_ends_a_run_is_whole_after_all(tmp_path: Path) -> None:
    text, _ = written(tmp_path, a=words(20, 1), b=words(40))
    settings = ["--model", tiny_model(tmp_path), *QUICK]
    before = tmp_path / "before"
    assert finish(tmp_path, "read", tmp_path / "b.txt", *settings, "--run", before).code == 0
    command = ["read", text, *settings, "--from", before, "--learn", "lora", "--learning-rate", "1"]
    whole = tmp_path / "whole"
    assert finish(tmp_path, *command, "--run", whole, "--save", tmp_path / "adapter").code == 0
    adapter = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()

    killed, change, resumes = tmp_path / "killed" / "run", 0, 0
    for step in random.Random(0).choices((5, 7, 9, 11), k=1000):
        change += step
        shutil.rmtree(killed.parent, ignore_errors=True)
        begun = [*command, "--run", killed, "--save", killed.parent / "saved"]
        code = finish(tmp_path, *begun, dies_at=change).code
        if code == 0:
            break
        assert code == -signal.SIGKILL
        if (killed / "config.json").exists():
            begun, resumes = ["read", "--resume", killed, "--json"], resumes + 1
        outcome = finish(tmp_path, *begun)
        finished = "is finished" in outcome.err and (killed / "summary.json").exists()
        assert outcome.code == 0 or finished, (change, outcome)
        assert ending(killed) == ending(whole), change
        assert (killed.parent / "saved" / "adapter_model.safetensors").read_bytes() == adapter
    assert resumes >= 3


# -------------------------------------------------------------------------------------------------- asked to stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(number: int, tmp_path: Path) -> None:
    (text,) = written(tmp_path, a=words(300))
    settings = ["--model", tiny_model(tmp_path), *QUICK, "--window", "cached"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert finish(tmp_path, "read", text, *settings, "--run", whole).code == 0
    process = start(tmp_path, "read", text, *settings, "--run", stopped, pause=0.03)
    assert process.wait_until((stopped / "windows.jsonl").exists)
    process.kill(number)
    code, out, err = process.wait()
    assert (code, out) == (130, "") and err.count("\n") == 1
    assert f"driftlm read --resume {stopped}" in err
    assert len(checkpoints(stopped)) == 1 and not (stopped / "summary.json").exists()
    assert finish(tmp_path, "read", "--resume", stopped, "--json").summary["tokens"] > 0
    assert ending(stopped) == ending(whole)


def test_ctrl_c_is_heard_while_a_pipe_keeps_the_reader_waiting(tmp_path: Path) -> None:
    lines = [json.dumps({"text": words(count, seed)}) + "\n" for seed, count in enumerate((12, 15, 18))]
    (tmp_path / "news.jsonl").write_text("".join(lines))
    settings = ["--model", tiny_model(tmp_path), *QUICK, "--stdin", "jsonl", "--checkpoint", "0"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    news, pipe = tmp_path / "news.jsonl", tmp_path / "pipe"
    windows = finish(tmp_path, "read", "-", *settings, "--run", whole, stdin=news).summary["windows"]
    os.mkfifo(pipe)
    last = windows - len(windows_of(whole, "stdin:3")) - 1
    process = start(tmp_path, "read", "-", *settings, "--run", stopped, stdin=pipe)
    with pipe.open("w") as feed:
        feed.write(lines[0] + lines[1])
        feed.flush()
        assert process.wait_until((stopped / f"checkpoint-{last:012d}").exists)
        time.sleep(0.3)  # it learns from the last window, then it waits
        process.kill(signal.SIGINT)
        code, out, err = process.wait()
    assert (code, out) == (130, "") and f"--resume {stopped}" in err
    assert [one.name for one in checkpoints(stopped)] == [f"checkpoint-{last + 1:012d}"]
    assert finish(tmp_path, "read", "--resume", stopped, "--json", stdin=news).code == 0
    assert ending(stopped) == ending(whole)


def windows_of(run: Path, document: str) -> list[dict[str, object]]:
    lines = (run / "windows.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["document"] == document]
