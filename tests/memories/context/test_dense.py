"""Dense retrieval: the best by sorting all, whatever was added and dropped before, and rows that are copied seldom."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from driftlm import DriftError
from driftlm.memories.context.dense import DenseIndex

vectors = st.lists(st.integers(-3, 3), min_size=4, max_size=4).map(lambda row: torch.tensor([row], dtype=torch.float32))
changes = st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | vectors), max_size=15)


@settings(max_examples=60)
@given(changes, vectors, st.integers(1, 7))
def test_the_best_are_those_of_sorting_all(steps: list[tuple[str, Tensor | None]], question: Tensor, k: int) -> None:
    index, held = DenseIndex(), dict[str, Tensor]()
    for id, row in steps:
        if row is not None:
            index.add_rows([id], row)
        elif id in held:
            index.drop(id)
        held.pop(id, None)
        if row is not None:
            held[id] = row
    assert index.documents == list(held)
    scores = {id: sum(a * b for a, b in zip(row[0].tolist(), question[0].tolist())) for id, row in held.items()}
    assert index.nearest(question[0], k) == sorted(scores.items(), key=lambda one: -one[1])[:k]  # equal ones in order
    at_once = DenseIndex()
    at_once.restore(list(held), [""] * len(held), index.tensors())
    assert at_once.nearest(question[0], k) == index.nearest(question[0], k)


def test_many_rows_and_near_ties_are_told_apart_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3000, 64, generator=generator)
    rows[1000:2000] = rows[:1000] * (1 + 2e-7)  # beyond what sums in float32 can tell
    index = DenseIndex()
    ids = [str(number) for number in range(3000)]
    for start in range(0, 3000, 100):
        index.add_rows(ids[start : start + 100], rows[start : start + 100])
    question = rows[7]
    exact = rows.double() @ question.double()
    best = exact.argsort(descending=True)[:20].tolist()
    assert [id for id, _ in index.nearest(question, 20)] == [str(number) for number in best]
    index.drop(*ids[:5], *ids[1007:3000:2])
    kept = [number for number in best if number >= 5 and not (number >= 1007 and number % 2)]
    assert [id for id, _ in index.nearest(question, len(kept))] == [str(number) for number in kept]


def test_growing_and_shrinking_copy_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    index, copied = DenseIndex(), 0
    before = index.columns
    for number in range(2000):
        index.add_rows([str(number)], torch.ones(1, 2))
        if index.columns is not before:
            copied, before = copied + number, index.columns
    assert copied <= 2 * 2000 and index.columns.shape[1] <= 2 * 2000
    for number in range(2000):
        index.drop(str(number))
        if index.columns is not before:
            copied, before = copied + index.columns.shape[1], index.columns
    assert copied <= 4 * 2000 and index.documents == [] and index.nearest(torch.ones(2), 1) == []


def test_an_id_given_twice_is_that_of_the_last() -> None:
    index = DenseIndex()
    index.add_rows(["a", "b", "a"], torch.tensor([[1.0], [2.0], [3.0]]))
    assert index.documents == ["b", "a"] and index.nearest(torch.ones(1), 2) == [("a", 3.0), ("b", 2.0)]


def test_bad_vectors_and_questions_are_refused() -> None:
    index = DenseIndex()
    index.add_rows(["a"], torch.ones(1, 3))
    with pytest.raises(DriftError, match=r"shape \(1, 2\) came for 1 documents .* give one row a document"):
        index.add_rows(["b"], torch.ones(1, 2))
    with pytest.raises(DriftError, match="not finite; leave its document out"):
        index.add_rows(["a"], torch.tensor([[1.0, float("nan"), 0.0]]))
    with pytest.raises(DriftError, match="no document 'x'"):
        index.drop("a", "x")
    with pytest.raises(DriftError, match="no encoder"):
        index.search("who", 1)
    with pytest.raises(DriftError, match="0 documents were asked for"):
        index.nearest(torch.ones(3), 0)
    assert index.documents == ["a"]
