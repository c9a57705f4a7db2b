"""The number of CPU threads: which is taken, how long looking for it may take, and that looking leaves no trace."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from driftlm import Learning, WeightMemory, Windows
from driftlm.models import threads
from driftlm.models.machine import Machine
from driftlm.models.threads import FAR, SECONDS, STARTING, Measured, Pass, fastest, measure, on_threads
from driftlm.streams.windows import split
from tests.support.build import language_model
from tests.support.families import BOS, random_ids
from tests.support.running import tiny_model


class FakeClock:
    """A machine on which a pass takes so many seconds by the number of threads, and how many it has spent."""

    def __init__(self, seconds: Callable[[int], float], starting: float = 0.0) -> None:
        self.seconds, self.starting = seconds, starting
        self.spent, self.tried = 0.0, list[int]()

    def timed(self, count: int, limit: float) -> float:
        taken = self.seconds(count) + (self.starting if count not in self.tried else 0.0)
        self.tried.append(count)
        self.spent += min(taken, limit)
        return taken if taken <= limit else math.inf


@pytest.mark.parametrize(
    ("most", "seconds", "taken"),
    [
        (2, {1: 0.4, 2: 0.2}, 2),  # an idle machine
        (2, {1: 0.4, 2: 7.7}, 1),  # one of its two cores is taken
        (16, {1: 0.8, 8: 0.1, 16: 0.3}, 8),  # hyperthreads that share a core
        (16, {1: 0.8, 8: 0.1, 16: 0.096}, 8),  # not worth the others
        (3, {1: 0.3, 3: 0.1}, 3),
        (2, {1: 0.001, 2: 0.0008}, 2),
    ],
)
def test_the_fastest_of_one_half_and_all_is_taken(most: int, seconds: dict[int, float], taken: int) -> None:
    clock = FakeClock(seconds.__getitem__, starting=0.02)
    found = fastest(clock.timed, most)
    assert found.threads == taken
    assert set(clock.tried) == set(found.seconds) == set(seconds)
    best = min(seconds.values())
    assert all(mean == pytest.approx(seconds[n]) for n, mean in found.seconds.items() if mean < math.inf)
    assert all(seconds[n] > FAR * best for n, mean in found.seconds.items() if mean == math.inf)


@pytest.mark.parametrize("single", [0.002, 0.05, 0.7])
def test_what_cannot_be_the_fastest_costs_no_more_than_it_has_to(single: float) -> None:
    clock = FakeClock(lambda count: single if count == 1 else 1000.0)
    assert fastest(clock.timed, 64) == Measured(1, {1: pytest.approx(single), 32: math.inf, 64: math.inf})
    assert clock.spent <= 2 * (single + SECONDS) + 2 * (FAR * single + STARTING)


def test_a_number_says_what_was_found() -> None:
    found = Measured(2, {1: 0.5, 2: 0.25})
    assert str(found) == "2 threads read fastest (seconds a pass: 1: 0.500, 2: 0.250)"


@pytest.mark.parametrize("left", [False, True], ids=["whole", "left"])
@pytest.mark.parametrize("learn", ["all", "lora"])
def test_measuring_between_score_and_learn_leaves_no_trace(learn: str, left: bool) -> None:
    def read(measured: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[torch.Tensor]]:
        torch.manual_seed(5)
        windows = Windows("cached", 32, 16)
        memory = WeightMemory(language_model("llama"), windows, Learning(learn, learning_rate=0.1, rank=2))
        nats = []
        for window in split("d", [BOS, *random_ids(64)], list(range(1, 66)), windows):
            nats.append(memory.score(window).detach())
            if measured:
                spent = Pass(memory.language_model).timed(1, 0.0 if left else math.inf)
                assert (spent == math.inf) == left
            memory.learn(window)
        assert not any(module._forward_pre_hooks for module in memory.language_model.model.modules())
        return memory.state().tensors, torch.random.get_rng_state(), nats

    (state, chance, nats), (plain, untouched, expected) = read(True), read(False)
    assert torch.equal(chance, untouched)
    assert all(map(torch.equal, nats, expected))
    assert state.keys() == plain.keys() and all(torch.equal(state[name], plain[name]) for name in plain)


@pytest.mark.parametrize("family", ["gpt2", "gemma"])
def test_a_pass_fits_the_model(family: str) -> None:
    one = Pass(language_model(family))
    assert int(one.ids.max()) < language_model(family).vocabulary
    assert one.ids.shape[1] <= (language_model(family).positions or math.inf)
    assert 0 < one.timed(1, math.inf) < math.inf


def test_on_one_thread_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pass, "timed", None)
    assert measure(language_model("llama"), 1) is None


def test_threads_are_those_of_before_behind_a_context() -> None:
    with on_threads(2):
        assert torch.get_num_threads() == 2
    with on_threads(0):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 1


def test_a_machine_measures_unless_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_model(tmp_path))
    monkeypatch.setattr(threads.Pass, "timed", lambda self, count, limit: 0.2 / count)
    with on_threads(2):
        Machine(model, threads=1).load()
        assert torch.get_num_threads() == 1 and capsys.readouterr() == ("", "")
        torch.set_num_threads(2)
        Machine(model).load()
        assert torch.get_num_threads() == 2
        assert capsys.readouterr().err == ("driftlm: 2 threads read fastest (seconds a pass: 1: 0.200, 2: 0.100)\n")
