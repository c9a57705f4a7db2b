"""Banks made smaller: sizes, who went where, and what a merged entry is."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from driftlm.core.errors import DriftError
from driftlm.memories.bank.reduction import Reduced, averaged, nearest, nearest_averaged, pruned

WAYS: dict[str, Callable[[Reduced, int], Reduced]] = {
    "pruned": lambda bank, to: pruned(bank, to, seed=3),
    "averaged": lambda bank, to: averaged(bank, to, seed=3),
    "nearest_averaged": nearest_averaged,
}


def bank_of(entries: int, seed: int = 0) -> Reduced:
    generator = torch.Generator().manual_seed(seed)
    vectors, keys = torch.randn(entries, 2, 3, generator=generator), torch.randn(entries, 4, generator=generator)
    timestamps = torch.rand(entries, generator=generator, dtype=torch.float64)
    timestamps[torch.rand(entries, generator=generator) < 0.3] = math.nan
    return Reduced.of(vectors, torch.nn.functional.normalize(keys, dim=1), timestamps)


def is_merged_from(found: Reduced, first: Reduced) -> None:
    """Every entry is what its members, counted from the first bank, say."""
    for entry, inside in enumerate(found.members):
        rows = torch.tensor(inside)
        torch.testing.assert_close(found.vectors[entry], first.vectors[rows].mean(0), rtol=0, atol=1e-6)
        key = torch.nn.functional.normalize(first.keys[rows].mean(0), dim=0)
        if len(inside) == 1 or first.keys[rows].mean(0).norm() > 1e-3:
            torch.testing.assert_close(found.keys[entry], key, rtol=0, atol=1e-4)
        known = [timestamp for timestamp in first.timestamps[rows].tolist() if not math.isnan(timestamp)]
        timestamp = found.timestamps[entry].item()
        assert timestamp == max(known) if known else math.isnan(timestamp)


@pytest.mark.parametrize("way", WAYS)
@given(entries=st.integers(1, 25), data=st.data(), seed=st.integers(0, 1000))
def test_sizes_and_members(way: str, entries: int, data: st.DataObject, seed: int) -> None:
    to = data.draw(st.integers(1, entries))
    first = bank_of(entries, seed)
    found = WAYS[way](first, to)
    assert len(found.vectors) == len(found.keys) == len(found.timestamps) == len(found.members) == to
    everyone = sorted(document for inside in found.members for document in inside)
    if way == "pruned":
        assert len(set(everyone)) == to
        assert [inside[0] for inside in found.members] == everyone  # the order is kept
    else:
        assert everyone == list(range(entries))
        assert [inside[0] for inside in found.members] == sorted(inside[0] for inside in found.members)
    if way == "averaged":
        counts = [len(inside) for inside in found.members]
        assert max(counts) - min(counts) <= 1
    is_merged_from(found, first)


@pytest.mark.parametrize("way", WAYS)
def test_the_whole_bank_stays_as_it_is(way: str) -> None:
    first = bank_of(7)
    found = WAYS[way](first, 7)
    assert found.vectors.equal(first.vectors) and found.members == first.members
    torch.testing.assert_close(found.keys, first.keys)
    torch.testing.assert_close(found.timestamps, first.timestamps, equal_nan=True)


@pytest.mark.parametrize("way", ["averaged", "nearest_averaged"])
def test_reducing_twice_weighs_every_document_alike(way: str) -> None:
    first = bank_of(13)
    found = WAYS[way](WAYS[way](first, 7), 3)
    for entry, inside in enumerate(found.members):
        torch.testing.assert_close(found.vectors[entry], first.vectors[inside].mean(0), rtol=0, atol=1e-6)


def test_random_ways_depend_on_their_seed_alone() -> None:
    first = bank_of(20)
    for way in (pruned, averaged):
        assert way(first, 5, seed=1).members == way(first, 5, seed=1).members != way(first, 5, seed=2).members


def test_the_likest_pair_is_merged_first() -> None:
    first = bank_of(12)
    cosines = (first.keys @ first.keys.T).fill_diagonal_(-2)
    a, b = divmod(int(cosines.argmax()), 12)
    pairs = [inside for inside in nearest_averaged(first, 11).members if len(inside) > 1]
    assert pairs == [sorted((a, b))]


def test_clusters_are_found() -> None:
    centres = torch.eye(4)
    keys = torch.nn.functional.normalize(centres.repeat(5, 1) + 0.05 * torch.randn(20, 4), dim=1)
    found = nearest_averaged(Reduced.of(torch.randn(20, 1, 2), keys, torch.zeros(20)), 4)
    assert found.members == [list(range(start, 20, 4)) for start in range(4)]


@pytest.mark.parametrize("held", [1, 7, 30, 1000])
def test_neighbours_are_the_same_in_blocks(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = bank_of(10).keys
    monkeypatch.setattr("driftlm.memories.bank.reduction.SIMILARITIES", held)
    likeness, neighbour = nearest(keys)
    best = (keys @ keys.T).fill_diagonal_(-2).max(dim=1)
    assert neighbour.equal(best.indices)
    torch.testing.assert_close(likeness, best.values)


def test_a_half_precision_bank_stays_one() -> None:
    first = bank_of(6)
    half = first._replace(vectors=first.vectors.half())
    found = averaged(half, 2, seed=0)
    assert found.vectors.dtype == torch.float16
    torch.testing.assert_close(found.vectors.float(), averaged(first, 2, seed=0).vectors, rtol=0, atol=2e-3)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("to", [0, -1, 6])
def test_impossible_sizes_are_refused(way: str, to: int) -> None:
    with pytest.raises(DriftError, match="5 entries"):
        WAYS[way](bank_of(5), to)


def test_likeness_needs_keys() -> None:
    first = bank_of(5)
    without = first._replace(keys=first.keys[:, :0])
    with pytest.raises(DriftError, match="no keys"):
        nearest_averaged(without, 2)
    assert averaged(without, 2, seed=0).keys.shape == (2, 0)
