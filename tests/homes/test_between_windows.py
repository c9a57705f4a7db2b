"""Between two windows a home is asked by its weights there, and its reading is bit by bit the same as without."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from driftlm import Document, DriftError, Learning, read_stream
from driftlm.homes.completing import Completion, Sampling
from driftlm.homes.decoding import complete
from driftlm.homes.home import Home
from driftlm.homes.prompts import continued
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.base import Memory
from driftlm.memories.build import memory_for
from driftlm.memories.composed import TINY
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.dynamic import WeightMemory
from tests.support.homes import ADAM, GRID, KINDS, LORA, assert_same, home_in, model
from tests.support.running import words

LONG = [Document("a", words(20, 1)), Document("b", words(12, 2)), Document("c", words(16, 3))]
SETTINGS = {
    name: KINDS[name] for name in ("all adam", "lora sgd", "words", "learns behind words")
} | {
    "accumulating": MemorySettings(GRID, replace(ADAM, every=3, cadence="accumulate")),
    "overlapping, diverging": MemorySettings(
        replace(GRID, window="overlapping"), Learning(rule="sgd", learning_rate=1e3), ("bm25",), budget=6
    ),
    "dora, reset": MemorySettings(GRID, Learning("dora", rank=2, learning_rate=1e-2, reset="document")),
    "bank": MemorySettings(GRID, LORA, ("bank",)),
}  # fmt: skip


def asked(memory: Memory) -> Completion:
    """An answer whose tokens are reported, so that two by the same weights are the same in every number."""
    sampling = Sampling(3, temperature=0, alternatives=2)
    return complete(memory, continued(memory.language_model, "the sea and the"), sampling, 3)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_reading_with_answers_in_it_is_the_reading_without(name: str, tmp_path: Path) -> None:
    settings, answers = SETTINGS[name], list[Completion]()
    if "bank" in settings.sources:
        BankNetworks(model(), TINY).save(tmp_path / "networks")
        settings = replace(settings, networks=str(tmp_path / "networks"))
    with home_in(tmp_path / "quiet", settings) as quiet, home_in(tmp_path / "asked", settings) as busy:
        for document in LONG:
            expected = quiet.read(document)
            found = busy.read(document, between=lambda: answers.append(asked(busy.memory)))
            assert replace(found.totals, seconds=0) == replace(expected.totals, seconds=0)
        assert_same(busy.memory.state(), quiet.memory.state())
        assert asked(busy.memory) == asked(quiet.memory)
    assert len(answers) > 6
    with home_in(tmp_path / "asked") as again, home_in(tmp_path / "quiet") as quiet:
        assert_same(again.memory.state(), quiet.memory.state())


def test_it_is_asked_by_the_weights_of_the_window_before(tmp_path: Path) -> None:
    answers, expected = list[Completion](), list[Completion]()
    memory = memory_for(KINDS["all adam"], model(), None)
    for _ in read_stream(memory, LONG[:1], between=lambda: expected.append(asked(memory))):
        pass
    with home_in(tmp_path, KINDS["all adam"]) as home:
        home.read(LONG[0], between=lambda: answers.append(asked(home.memory)))
    assert answers == expected and len({one.tokens for one in answers}) == len(answers) > 2


def test_no_pass_that_is_to_be_learned_from_is_held_between_windows() -> None:
    """Its graph would be in memory while answers are written."""
    memory = memory_for(KINDS["lora sgd"], model(), None)
    assert isinstance(memory, WeightMemory)
    held = list[object]()
    for _ in read_stream(memory, LONG[:1], between=lambda: held.append(memory.scored)):
        assert memory.scored is not None
    assert held and not any(held)


def test_nothing_else_can_be_done_in_the_middle_of_a_document(tmp_path: Path) -> None:
    with home_in(tmp_path, KINDS["lora sgd"]) as home:
        home.snapshot("empty")
        target = home.point(snapshot="empty")
        refused = list[str]()

        def between() -> None:
            for act in (
                lambda: home.read(LONG[1]),
                lambda: home.snapshot("half"),
                lambda: home.restore(target),
                home.checkpoint,
            ):
                with pytest.raises(DriftError) as error:
                    act()
                refused.append(str(error.value))

        home.read(LONG[0], between=between)
        assert len(refused) >= 12 and home.snapshots.names() == ["empty"] and len(home.history) == 1


def test_the_seconds_of_answers_are_not_the_readings(tmp_path: Path) -> None:
    waits = list[float]()

    def between() -> None:
        began = time.perf_counter()
        time.sleep(0.05)
        waits.append(time.perf_counter() - began)

    with home_in(tmp_path, KINDS["lora sgd"]) as home:
        began = time.perf_counter()
        entry = home.read(LONG[0], between=between)
        assert entry.totals.seconds <= time.perf_counter() - began - sum(waits)


def test_what_fails_between_windows_leaves_the_home_as_before(tmp_path: Path) -> None:
    def fails() -> None:
        raise DriftError("no")

    with home_in(tmp_path, KINDS["all adam"]) as home:
        before = home.memory.state()
        with pytest.raises(DriftError, match="no"):
            home.read(LONG[0], between=fails)
        assert_same(home.memory.state(), before)
        assert home.history == [] and home.read(LONG[0]).seq == 1


def test_answers_draw_nothing_from_the_generator_of_the_process(tmp_path: Path) -> None:
    def drawn(home: Home) -> None:
        complete(home.memory, continued(model(), "the sea"), Sampling(4, seed=3), 4)

    with home_in(tmp_path, KINDS["lora sgd"]) as home:
        before = torch.random.get_rng_state()
        home.read(LONG[0], between=lambda: drawn(home))
        assert torch.equal(torch.random.get_rng_state(), before)
