"""The threads of a run: measured again where its pace falls, written down, and repeated where it goes on."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from driftlm.core.errors import DriftError
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.models import threads
from driftlm.models.loading import LanguageModel
from driftlm.models.threads import Measured, on_threads
from driftlm.runs import pace
from driftlm.runs.pace import LASTS, SHARE, Pace
from driftlm.streams.windows import Window
from tests.support.running import QUICK, Outcome, checkpoints, driftlm, ending, tiny_model, words, written

Capture = pytest.CaptureFixture[str]


def falls(seconds: Iterable[float], pace: Pace) -> list[int]:
    """Windows of 100 tokens, scored in so many seconds, behind which the threads are to be measured again."""
    return [place for place, taken in enumerate(seconds) if pace.fell(100, taken)]


def test_a_reading_that_falls_to_a_third_of_its_pace_measures_again() -> None:
    assert falls([0.5, 0.4, 1.1, 1.19, 1.21, 1.3], Pace()) == [4]
    assert falls([9.0, 3.1, 1.1, 3.2], Pace()) == []  # slower than the fastest before by less than three times


def test_a_hiccup_is_no_fall() -> None:
    slow = LASTS / 4
    assert falls([0.01, slow, slow, slow, 0.01, slow, slow, slow, slow, slow], Pace()) == [8]


def test_behind_a_measurement_the_pace_is_new_and_another_waits_its_turn() -> None:
    one = Pace()
    assert falls([0.1, 4.0], one) == [1]
    one.measured(0.5)
    assert falls([4.0] * 5, one) == []  # as fast as it is now
    one.measured(0.5)
    seconds = [0.1] + [2.0] * 9
    assert falls(seconds, one) == [next(n for n in range(10) if sum(seconds[: n + 1]) >= 0.5 / SHARE)]


# ------------------------------------------------------------------------------------------------------ runs


RESUME = ["--resume", "run", "--json", "--no-live", "--no-report"]


class Watched:
    """Runs whose pace falls at given windows, on a machine that finds the numbers of threads that are given.

    Attributes:
        seen: threads of every score and learning, as they came.
        stop: the window whose score raises; None for none.
    """

    def __init__(self, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.folder = capsys, folder
        self.files = written(folder, a=words(50), b=words(60, 1))
        self.falls: dict[int, int] = {}
        self.seen: list[tuple[str, str, int, int]] = []  # verb, document, window, threads
        self.stop: tuple[str, int] | None = None
        self.error: Exception = DriftError("enough; stop.")
        self.at = -1
        monkeypatch.chdir(folder)
        monkeypatch.setattr(pace.Threads, "fell", lambda _, step: self.fell(step.before.windows))
        monkeypatch.setattr(pace, "measure", self.measure)
        for verb in ("score", "learn"):
            monkeypatch.setattr(WeightMemory, verb, self.noted(verb, getattr(WeightMemory, verb)))

    def fell(self, window: int) -> bool:
        self.at = window
        return window in self.falls

    def measure(self, language_model: LanguageModel, most: int) -> Measured:
        torch.set_num_threads(self.falls[self.at])
        return Measured(self.falls[self.at], {1: 0.1, most: math.inf})

    def noted(self, verb: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def called(memory: WeightMemory, window: Window, *more: Any) -> Any:
            if verb == "score" and memory.scored is None and (Path(window.document).name, window.index) == self.stop:
                raise self.error
            if verb == "learn" or memory.scored is None:
                self.seen.append((verb, window.document, window.index, torch.get_num_threads()))
            return original(memory, window, *more)

        return called

    def read(self, *arguments: object, falls: dict[int, int], stop: tuple[str, int] | None = None) -> Outcome:
        self.falls, self.stop, self.seen = falls, stop, []
        return driftlm(self.capsys, "read", *arguments)

    def new(self, run: str, falls: dict[int, int], stop: tuple[str, int] | None = None, *more: object) -> Outcome:
        model = tiny_model(self.folder)
        settings = [*QUICK, "--threads", 0, "--model", model, "--run", run, *more]
        return self.read(*self.files, *settings, falls=falls, stop=stop)

    def changes(self, run: str) -> Any:
        return json.loads((self.folder / run / "config.json").read_bytes())["thread_changes"]


@pytest.fixture
def watched(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, capsys, monkeypatch)


def test_from_the_learning_of_the_window_on_the_threads_are_others(watched: Watched) -> None:
    whole = watched.new("whole", {2: 2, 5: 1})
    assert whole.code == 0
    assert watched.changes("whole") == [[2, 2], [5, 1]]
    counts = [count for _, _, _, count in watched.seen]
    assert counts == [1] * 5 + [2] * 6 + [1] * (len(counts) - 11)  # scored, learned: 0 0 1 1 2 | 2 3 3 4 4 5 | 5 ...
    assert whole.err.count("driftlm: reading fell to a third of its pace; ") == 2
    assert torch.get_num_threads() == 1
    # the same number as before is no change
    assert watched.new("same", {2: 1}).code == 0
    assert watched.changes("same") == []


def test_a_run_that_goes_on_repeats_the_threads_that_it_read_on(watched: Watched) -> None:
    own = ["--checkpoint", 1e9]
    all_falls = {2: 2, 5: 1, 9: 2}
    assert watched.new("whole", all_falls, None, *own).code == 0
    seen = watched.seen
    for number, stop in enumerate([("a.txt", 3), ("a.txt", 6), ("b.txt", 2)]):
        run = f"run{number}"
        assert watched.new(run, all_falls, stop, *own).code == 2  # saved behind the window before
        before = watched.seen
        with on_threads(2):  # whatever torch begins with
            assert watched.read("--resume", run, "--json", "--no-live", "--no-report", falls=all_falls).code == 0
        assert before + watched.seen == seen
        assert watched.changes(run) == watched.changes("whole")
        assert ending(watched.folder / run) == ending(watched.folder / "whole")


def test_a_run_that_was_killed_repeats_the_changes_behind_its_last_checkpoint(watched: Watched) -> None:
    assert watched.new("whole", {2: 2, 5: 1, 9: 2}).code == 0
    seen = watched.seen
    assert watched.new("run", {2: 2, 5: 1, 9: 2}, ("a.txt", 4)).code == 2
    (kept,) = checkpoints(watched.folder / "run")
    watched.error = RuntimeError("killed")
    with pytest.raises(RuntimeError):
        watched.read(*RESUME, falls={5: 1}, stop=("a.txt", 6))
    assert checkpoints(watched.folder / "run") == [kept] and watched.changes("run") == [[2, 2], [5, 1]]
    # the machine is another by now: nothing falls but what comes after
    assert watched.read(*RESUME, falls={4: 1, 9: 2}).code == 0
    assert watched.seen == seen[8:] and watched.changes("run") == [[2, 2], [5, 1], [9, 2]]
    assert ending(watched.folder / "run") == ending(watched.folder / "whole")


def test_threads_that_were_asked_for_stay(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.Pass, "timed", None)  # nothing is measured at the start either
    with on_threads(2):
        assert watched.new("run", {2: 2}, None, "--threads", 1).code == 0
    assert {count for *_, count in watched.seen} == {1}
    assert "thread_changes" not in json.loads((watched.folder / "run" / "config.json").read_bytes())


def test_a_run_of_before_goes_on_on_the_threads_that_it_says(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched.new("run", {}, ("b.txt", 1)).code == 2
    place = watched.folder / "run" / "config.json"
    config = json.loads(place.read_bytes())
    del config["thread_changes"]
    place.write_text(json.dumps(config))
    monkeypatch.setattr(threads.Pass, "timed", None)
    with on_threads(2):
        assert watched.read(*RESUME, falls=dict.fromkeys(range(99), 2)).code == 0
    assert {count for *_, count in watched.seen} == {1}
