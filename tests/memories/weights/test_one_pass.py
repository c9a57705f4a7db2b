"""Experts that share their passes against the same experts one after another."""

from typing import Any

import pytest
import torch

from driftlm import Learning, Windows
from driftlm.memories.base import Memory
from driftlm.memories.weights.mixture import MixtureMemory
from driftlm.memories.weights.one_pass import one_pass
from tests.support.build import language_model, read, reads_numbers, spelled, weight_memory
from tests.support.families import CACHED_FAMILIES, FAMILIES, random_ids

pytestmark = pytest.mark.long

BOTH = [(family, "overlapping") for family in FAMILIES] + [(family, "cached") for family in CACHED_FAMILIES]
DOCUMENTS = [spelled(random_ids(length, length)[1:], str(length)) for length in (45, 21)]
ABSURD = 1e10  # an expert that goes back again and again, beside those that do not
EXPERTS = [("adam", 1e-2), ("sgd", 0.3), ("adam", 0.0), ("sgd", ABSURD), ("adam", 1e-3)]


def mixture(family: str, window: Any, together: bool, **learning: Any) -> MixtureMemory:
    experts = [Learning("lora", rank=4, rule=rule, learning_rate=rate, **learning) for rule, rate in EXPERTS]
    memory: MixtureMemory = reads_numbers(MixtureMemory(language_model(family), Windows(window, 20, 8), experts))
    assert memory.together is not None
    if not together:
        memory.together = None
    return memory


def same(one: Memory, other: Memory) -> None:
    ours, theirs = read(one, DOCUMENTS), read(other, DOCUMENTS)
    assert (ours - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize(("family", "window"), BOTH)
def test_experts_of_every_family_are_what_they_are_alone(family: str, window: str) -> None:
    ours, theirs = mixture(family, window, True), mixture(family, window, False)
    same(ours, theirs)
    assert torch.allclose(ours.mixing.losses, theirs.mixing.losses, atol=1e-5 * theirs.mixing.tokens)
    assert [one.counts for one in ours.active] == [one.counts for one in theirs.active]
    assert ours.active[2].counts.rollbacks > 0 and ours.active[0].counts.rollbacks == 0


@pytest.mark.parametrize("cadence", ["skip", "accumulate"])
@pytest.mark.parametrize("reset", ["never", "document"])
def test_every_cadence_and_reset(cadence: str, reset: str) -> None:
    learning = {"every": 3, "cadence": cadence, "reset": reset}
    ours, theirs = mixture("llama", "cached", True, **learning), mixture("llama", "cached", False, **learning)
    same(ours, theirs)
    assert ours.counts == theirs.counts and ours.counts.updates > 0


def test_one_that_diverges_leaves_the_others_bit_equal() -> None:
    ours, sound = mixture("llama", "overlapping", True), mixture("llama", "overlapping", True)
    tame = sound.active[2]
    tame.rate.zero_()
    read(ours, DOCUMENTS)
    read(sound, DOCUMENTS)
    for n in (0, 1, 3):
        pairs = zip(ours.active[n].parameters, sound.active[n].parameters, strict=True)
        assert all(torch.equal(one.data, other.data) for one, other in pairs)


def test_who_can_share_passes() -> None:
    grid = Windows("overlapping", 20, 8)
    lora = {"learn": "lora", "rank": 2}
    two = [weight_memory("llama", grid, **lora) for _ in range(2)]
    assert one_pass(two) is not None and one_pass(two[:1]) is None and one_pass([]) is None
    for other in (
        {"learn": "lora", "rank": 3},
        {"learn": "all"},
        {"learn": "dora", "rank": 2},
        lora | {"salience": "tfidf"},
    ):
        assert one_pass([two[0], weight_memory("llama", grid, **other)]) is None
