"""The threads of a home: those that were the fastest when it was made, for whatever it learns and reads again."""

import math
from pathlib import Path

import pytest
import torch

from driftlm import Document, Learning, Windows
from driftlm.homes.home import Home
from driftlm.homes.identity import described
from driftlm.homes.opening import made, opened
from driftlm.homes.tenants import Tenants
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.models import threads
from driftlm.models.machine import Machine
from driftlm.models.threads import on_threads
from driftlm.streams.windows import Window
from tests.support.build import language_model
from tests.support.homes import documents
from tests.support.running import tiny_model

SETTINGS = MemorySettings(Windows("cached", 32, 16), Learning("lora", rank=2))


@pytest.fixture
def learned_on(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Threads of every window that was learned from."""
    found: list[int] = []
    learn = WeightMemory.learn

    def noted(memory: WeightMemory, window: Window, backward: bool = True) -> None:
        found.append(torch.get_num_threads())
        learn(memory, window, backward)

    monkeypatch.setattr(WeightMemory, "learn", noted)
    return found


def measured_as(monkeypatch: pytest.MonkeyPatch, best: int) -> None:
    """Passes are the fastest on so many threads."""
    monkeypatch.setattr(threads.Pass, "timed", lambda self, count, limit: 0.1 if count == best else math.inf)


@pytest.mark.parametrize(("best", "asked", "kept"), [(1, 0, 1), (2, 0, 2), (2, 1, 1)])
def test_a_home_learns_on_the_threads_that_were_the_fastest_when_it_was_made(
    best: int, asked: int, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learned_on: list[int]
) -> None:
    home, model = tmp_path / "home", str(tiny_model(tmp_path))
    measured_as(monkeypatch, best)
    with on_threads(2):
        made(home, SETTINGS, Machine(model, threads=asked))
    assert described(home)["machine"]["threads"] == kept
    monkeypatch.setattr(threads.Pass, "timed", None)  # nothing is measured again
    with on_threads(3 - kept), opened(home) as place:
        for document in documents(2):
            place.read(document)
        place.replay.saved = place.history  # as if killed: no checkpoint is written
    with on_threads(3 - kept), opened(home) as place:  # from the journal
        assert len(place.history) == 2
    assert learned_on == [kept] * 12


def test_homes_of_one_server_keep_their_own_threads(tmp_path: Path, learned_on: list[int]) -> None:
    model = language_model("llama")
    for name, count in (("ada", 1), ("bo", 2), ("old", 0)):
        Home.create(tmp_path / name, model, SETTINGS, machine=Machine(threads=count)).close()
    with on_threads(2), Tenants(tmp_path, model, SETTINGS) as tenants:
        for name in ("ada", "bo", "old"):
            with tenants.using(name) as home:
                home.read(Document("a", "It rained."))
            assert torch.get_num_threads() == 2
    assert learned_on == [1, 2, 2]


def test_a_home_that_names_no_threads_opens_on_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learned_on: list[int]
) -> None:
    model = str(tiny_model(tmp_path))
    Home.create(tmp_path / "home", Machine(model, threads=1).load(), SETTINGS, machine=Machine(model)).close()
    monkeypatch.setattr(threads.Pass, "timed", None)
    with on_threads(2), opened(tmp_path / "home") as home:
        home.read(Document("a", "It rained."))
    assert learned_on == [2]
