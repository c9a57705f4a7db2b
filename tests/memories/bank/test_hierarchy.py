"""Hierarchical aggregation: what it visits, where it ends, and where it is exact."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from driftlm.core.errors import DriftError
from driftlm.memories.bank.aggregate import Aggregator, AggregatorSettings
from driftlm.memories.bank.hierarchy import hierarchical

pytestmark = pytest.mark.long

T, D = 2, 6


def made(*, document_score: bool = True) -> Aggregator:
    settings = AggregatorSettings(
        width=D, vectors=T, blocks=2, heads=2, head_width=3, key_width=4, document_score=document_score
    )
    return Aggregator(settings)


@pytest.mark.parametrize("group", range(2, 10))
def test_every_document_is_visited_once_a_level_and_it_ends(group: int) -> None:
    aggregator = made()
    for entries in range(1, 41):
        vectors = torch.randn(entries, T, D)
        keys = aggregator.document_key(vectors)
        question = torch.randn(1, T, D)
        modulation, trace = hierarchical(aggregator, question, vectors, keys, torch.arange(entries).double(), group)
        assert modulation.shape == (1, T, D) and modulation.isfinite().all()
        left = entries
        for level in trace:
            assert len(level) == -(-left // group)
            left = len(level)
            assert [document for inside in level for document in inside] == list(range(entries))
        assert left == 1


@given(entries=st.integers(1, 9), questions=st.integers(1, 3), scored=st.booleans(), seed=st.integers(0, 1000))
def test_a_bank_of_one_group_is_exact(entries: int, questions: int, scored: bool, seed: int) -> None:
    torch.manual_seed(seed)
    aggregator = made(document_score=scored)
    question, vectors, timestamps = (
        torch.randn(questions, T, D),
        torch.randn(entries, T, D),
        torch.rand(entries).double(),
    )
    keys = aggregator.document_key(vectors)
    found, trace = hierarchical(aggregator, question, vectors, keys, timestamps, max(2, entries))
    scores = aggregator.document_scores(aggregator.query_key(question), keys, timestamps)
    wanted, _ = aggregator(question, vectors, scores)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert len(trace) == 1


@pytest.mark.parametrize("scored", [False, True])
def test_two_levels_by_hand(scored: bool) -> None:
    aggregator = made(document_score=scored)
    question, vectors, timestamps = torch.randn(2, T, D), torch.randn(5, T, D), torch.arange(5).double()
    keys = aggregator.document_key(vectors)
    found, _ = hierarchical(aggregator, question, vectors, keys, timestamps, 3)
    for r in range(2):
        one = question[r : r + 1]
        scores = aggregator.document_scores(aggregator.query_key(one), keys, timestamps)
        parts = [aggregator(one, vectors[part], scores[:, part])[0] for part in (slice(0, 3), slice(3, 5))]
        above = torch.stack([scores[:, :3].logsumexp(1), scores[:, 3:].logsumexp(1)], dim=1) if scored else None
        wanted, _ = aggregator(one, torch.cat(parts), above)
        torch.testing.assert_close(found[r : r + 1], wanted, rtol=0, atol=1e-6)


def test_questions_do_not_mix() -> None:
    aggregator = made()
    question, vectors, timestamps = torch.randn(3, T, D), torch.randn(11, T, D), torch.rand(11).double()
    keys = aggregator.document_key(vectors)
    together, _ = hierarchical(aggregator, question, vectors, keys, timestamps, 2)
    apart = [hierarchical(aggregator, one[None], vectors, keys, timestamps, 2)[0] for one in question]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-5)


def test_what_never_ends_or_has_nothing_is_refused() -> None:
    aggregator = made()
    question, vectors = torch.randn(1, T, D), torch.randn(3, T, D)
    keys = aggregator.document_key(vectors)
    with pytest.raises(DriftError, match="at least 2"):
        hierarchical(aggregator, question, vectors, keys, torch.zeros(3), 1)
    with pytest.raises(DriftError, match="empty"):
        hierarchical(aggregator, question, vectors[:0], keys[:0], torch.zeros(0), 2)
