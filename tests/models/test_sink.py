"""The sink of cached windows: passed anew when weights or tokens change, and nothing of it is kept."""

from typing import Any

import pytest
import torch

from driftlm import WeightMemory, Windows
from driftlm.memories.weights.learning import Learning
from driftlm.models.cache import KeyValues, RotaryCache
from driftlm.models.scoring import Scorer
from driftlm.models.sink import Sink, sink_of
from tests.support.build import language_model, spelled, weight_memory
from tests.support.by_hand import passes, read, windows_of
from tests.support.families import CACHED_FAMILIES, random_ids


def reading(window: Any = "cached", sink: int = 2, family: str = "llama", **learning: Any) -> WeightMemory:
    return weight_memory(family, Windows(window, 16, 8, sink), **{"learning_rate": 0.05} | learning)


def test_weights_that_stay_pass_it_once_for_all_windows() -> None:
    memory = reading(learn="none")
    windows = windows_of(memory, 60)
    seen = passes(memory)
    read(memory, windows)
    again = [sink_of(one, KeyValues())[0] for one in windows].index(windows[1].sink)
    assert again == 1 and len(seen) > len(windows)
    first = len(seen)
    read(memory, windows)  # the same tokens again
    assert len(seen) - first == len(windows)


@pytest.mark.parametrize("every", [1, 2])
def test_weights_that_change_pass_it_again_behind_every_step(every: int) -> None:
    memory = reading(every=every, guard="off")
    assert memory.rotary is not None and memory.rotary.turns
    windows, seen = windows_of(memory, 82), passes(memory)
    read(memory, windows)
    needing = [number for number, one in enumerate(windows) if one.start > 0]
    stepped = {number // every for number in needing}  # how many steps came before
    assert len(seen) == len(windows) + len(stepped)
    assert sum(seen) <= -(-len(windows) // every)  # no graph is built for a sink


@pytest.mark.parametrize("family", CACHED_FAMILIES)
def test_a_sink_that_was_turned_is_the_one_that_is_passed_there(family: str) -> None:
    model = language_model(family)
    scorer, rotary = Scorer(model), RotaryCache(model)
    memory = WeightMemory(model, Windows("cached", 16, 8, 3), Learning("none"))
    windows = windows_of(memory, 70)
    read(memory, windows[:4])
    assert memory.cache is not None
    with torch.no_grad():
        passed = scorer.forward(windows[4], memory.cache)
        turned = scorer.forward(windows[4], Sink(scorer, rotary).before(memory.cache, windows[4]))
    assert (passed.nats - turned.nats).abs().max() <= 1e-5
    assert passed.cache is not None and turned.cache is not None
    assert passed.cache.length == turned.cache.length == memory.cache.length + 8
    without = scorer.forward(windows[4], KeyValues(memory.cache.layers, memory.cache.origin, sink=0))
    assert torch.equal(without.nats, passed.nats)


def test_a_layout_that_cannot_be_turned_passes_it_with_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(reading(), windows_of(reading(), 60))
    monkeypatch.setattr(RotaryCache, "rotates", lambda self: False)
    found = read(reading(), windows_of(reading(), 60))
    assert (found - expected).abs().max() <= 1e-4


def test_a_window_that_holds_the_beginning_has_no_sink() -> None:
    memory = reading("overlapping", sink=4)
    inputs = [(one.start, one.sink[: one.start]) for one in windows_of(memory, 40)]
    assert inputs[:2] == [(0, ()), (0, ())] and all(len(sink) == min(4, start) for start, sink in inputs)


def test_a_document_of_one_window_is_read_as_without() -> None:
    for window in ("overlapping", "cached"):
        found = [read(memory, windows_of(memory, 8)) for memory in (reading(window, 0), reading(window, 4))]
        assert torch.equal(*found)
    assert spelled(random_ids(8)[1:]).text
