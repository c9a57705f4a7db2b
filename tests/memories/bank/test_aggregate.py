"""The aggregator in its three forms, against a plain loop and against each other."""

import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.bank.aggregate import Aggregator, AggregatorSettings, newer_mass, preselected

pytestmark = pytest.mark.long

T, D, H, E = 3, 10, 2, 4
CLOSE = {"rtol": 0.0, "atol": 1e-5}
sizes = st.integers(1, 9)
seeds = st.integers(0, 1000)


def made(**changes: object) -> Aggregator:
    """An aggregator whose gains and biases are not the trivial ones it starts with."""
    values = {"width": D, "vectors": T, "blocks": 2, "heads": H, "head_width": E, "hidden": 7, "key_width": 5} | changes
    aggregator = Aggregator(AggregatorSettings(**values))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in aggregator.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "to_query" in name or "to_key" in name:
                parameter.mul_(3)  # so that attention is not uniform
    return aggregator


def inputs(questions: int, entries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Question vectors, bank vectors with an offset, scores."""
    return torch.randn(questions, T, D), 2 * torch.randn(entries, T, D) + 0.5, torch.randn(questions, entries)


def timestamps_of(entries: int) -> Tensor:
    """Times of which some are equal and some unknown."""
    timestamps = torch.randint(0, 4, (entries,)).double()
    return torch.where(torch.rand(entries) < 0.2, torch.nan, timestamps)


def agrees(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(one[0], other[0], **CLOSE)
    torch.testing.assert_close(one[1], other[1], **CLOSE)


# The plain loop: numpy, float64, one question, one head, one query vector at a time.


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def layer_norm(x: np.ndarray, norm: torch.nn.LayerNorm) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
    return scaled * array(norm.weight) + array(norm.bias)


def linear(x: np.ndarray, layer: torch.nn.Linear) -> np.ndarray:
    return x @ array(layer.weight).T + (0.0 if layer.bias is None else array(layer.bias))


def gelu(x: np.ndarray) -> np.ndarray:
    return x * np.vectorize(lambda value: 0.5 * (1 + math.erf(value / math.sqrt(2))))(x)


def plain(aggregator: Aggregator, question: Tensor, vectors: Tensor, scores: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(T, D), (N, T, D), (N,) -> modulation (T, D), shares (N,)."""
    x, bank, bias = array(question), array(vectors), array(scores)
    shares = np.zeros(len(bank))
    for block in aggregator.blocks:
        attended = np.zeros((T, H * E))
        for head in range(H):
            columns = slice(head * E, (head + 1) * E)
            for t in range(T):
                query = linear(layer_norm(x[t], block.norm), block.to_query)[columns]
                logits, values = [], []
                for n in range(len(bank)):
                    for u in range(T):
                        normed = layer_norm(bank[n, u], block.bank_norm)
                        key = linear(normed, block.to_key)[columns]
                        logits.append(query @ key / math.sqrt(E) + 2 * bias[n])
                        values.append(linear(normed, block.to_value)[columns])
                weights = np.exp(np.array(logits) - max(logits))
                weights /= weights.sum()
                attended[t, columns] = weights @ np.array(values)
                shares += weights.reshape(-1, T).sum(1) / (len(aggregator.blocks) * H * T)
        x = x + linear(attended, block.out)
        inner, _, outer = block.feed_forward
        x = x + linear(gelu(linear(layer_norm(x, block.forward_norm), inner)), outer)
    return x, shares


@settings(max_examples=15)
@given(questions=st.integers(1, 3), entries=sizes, seed=seeds)
def test_forward_is_the_plain_loop(questions: int, entries: int, seed: int) -> None:
    torch.manual_seed(seed)
    aggregator = made()
    question, vectors, scores = inputs(questions, entries)
    modulation, shares = aggregator(question, vectors, scores)
    for r in range(questions):
        wanted, wanted_shares = plain(aggregator, question[r], vectors, scores[r])
        np.testing.assert_allclose(array(modulation[r]), wanted, **CLOSE)
        np.testing.assert_allclose(array(shares[r]), wanted_shares, **CLOSE)
    torch.testing.assert_close(shares.sum(1), torch.ones(questions), **CLOSE)


@settings(max_examples=40)
@given(questions=st.integers(1, 3), entries=sizes, chunk=st.integers(1, 12), scored=st.booleans(), seed=seeds)
def test_every_form_is_forward(questions: int, entries: int, chunk: int, scored: bool, seed: int) -> None:
    torch.manual_seed(seed)
    aggregator = made()
    question, vectors, drawn = inputs(questions, entries)
    scores = drawn if scored else None
    wanted = aggregator(question, vectors, scores)
    agrees(aggregator.aggregate_chunked(question, vectors, scores, chunk), wanted)
    agrees(aggregator.aggregate_chunked(question, vectors, scores), wanted)
    projected = aggregator.project(vectors)
    agrees(aggregator.aggregate_cached(question, projected, scores), wanted)
    agrees(aggregator.aggregate(question, vectors, scores, projected), wanted)
    agrees(aggregator.aggregate(question, vectors, scores, chunk=chunk), wanted)
    own = vectors.expand(questions, *vectors.shape)
    agrees(aggregator(question, own, scores), wanted)
    agrees(aggregator.aggregate_chunked(question, own, scores, chunk), wanted)
    for without in (
        aggregator(question, vectors, scores, want_shares=False),
        aggregator.aggregate_chunked(question, vectors, scores, chunk, want_shares=False),
        aggregator.aggregate_cached(question, projected, scores, want_shares=False),
    ):
        torch.testing.assert_close(without[0], wanted[0], **CLOSE)
        assert without[1].shape == (questions, 0)


def test_kept_keys_and_values_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    aggregator = made()
    question, vectors, scores = inputs(2, 9)
    wanted = aggregator(question, vectors, scores)
    projected = aggregator.project(vectors)
    for rows in (1, 2, 5, 9, 20):
        monkeypatch.setattr("driftlm.memories.bank.aggregate.CACHED_CHUNK", rows * 2 * H * T * T)
        agrees(aggregator.aggregate_cached(question, projected, scores), wanted)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_a_half_precision_bank_is_its_upcast(chunk: int) -> None:
    aggregator = made()
    question, vectors, scores = inputs(2, 9)
    half = vectors.half()
    wanted = aggregator(question, half.float(), scores)
    agrees(aggregator.aggregate_chunked(question, half, scores, chunk), wanted)


def test_own_banks_are_those_of_each_question() -> None:
    aggregator = made()
    question, _, scores = inputs(3, 4)
    vectors = torch.randn(3, 4, T, D)
    both = aggregator(question, vectors, scores)
    for r in range(3):
        one = slice(r, r + 1)
        agrees(aggregator(question[one], vectors[r], scores[one]), (both[0][one], both[1][one]))


@settings(max_examples=25)
@given(entries=sizes, seed=seeds)
def test_the_order_of_the_bank_does_not_matter(entries: int, seed: int) -> None:
    torch.manual_seed(seed)
    aggregator = made()
    question, vectors, _ = inputs(2, entries)
    timestamps, query = timestamps_of(entries), aggregator.query_key(question)
    order = torch.randperm(entries)

    def answer(rows: Tensor) -> tuple[Tensor, Tensor]:
        keys = aggregator.document_key(vectors[rows])
        return aggregator(question, vectors[rows], aggregator.document_scores(query, keys, timestamps[rows]))

    modulation, shares = answer(torch.arange(entries))
    agrees(answer(order), (modulation, shares[:, order]))


@settings(max_examples=40)
@given(questions=st.integers(1, 3), entries=sizes, masked=st.booleans(), seed=seeds)
def test_scores_are_the_plain_loop(questions: int, entries: int, masked: bool, seed: int) -> None:
    torch.manual_seed(seed)
    aggregator = made()
    query = torch.nn.functional.normalize(torch.randn(questions, 5), dim=1)
    keys = torch.nn.functional.normalize(torch.randn(entries, 5), dim=1)
    timestamps = timestamps_of(entries)
    mask = torch.rand(questions, entries) < 0.6 if masked else torch.ones(questions, entries, dtype=torch.bool)
    mask[:, 0] = True
    found = aggregator.document_scores(query, keys, timestamps, mask if masked else None)
    temperature = math.exp(aggregator.log_temperature.item())
    strength = math.log1p(math.exp(aggregator.raw_strength.item()))
    for r in range(questions):
        seen = [n for n in range(entries) if mask[r, n]]
        cosine = {n: temperature * float(array(query[r]) @ array(keys[n])) for n in seen}
        total = sum(math.exp(8 * cosine[n]) for n in seen)
        for n in range(entries):
            if n not in seen:
                assert found[r, n] == -math.inf
                continue
            newer = sum(
                math.exp(8 * cosine[j]) / total for j in seen if timestamps[j] > timestamps[n]
            )  # False with NaN
            assert found[r, n].item() == pytest.approx(cosine[n] - strength * newer, abs=2e-5)


def test_keys_have_length_one() -> None:
    aggregator = made()
    question, vectors, _ = inputs(2, 4)
    for keys, rows in ((aggregator.query_key(question), 2), (aggregator.document_key(vectors), 4)):
        torch.testing.assert_close(keys.norm(dim=1), torch.ones(rows))
        assert keys.shape == (rows, 5)


def test_the_newest_of_equal_matches_wins_and_unknown_times_take_no_part() -> None:
    aggregator = made()
    query = torch.nn.functional.normalize(torch.randn(1, 5), dim=1)
    keys = query.expand(4, 5)
    scores = aggregator.document_scores(query, keys, torch.tensor([1.0, 3.0, 2.0, math.nan]))[0]
    assert scores[1] > scores[2] > scores[0]
    plain_score = aggregator.document_scores(query, keys, torch.full((4,), math.nan))[0]
    assert scores[3] == plain_score[3] == scores[1]
    assert aggregator.document_scores(query, keys, torch.full((4,), 7.0))[0].equal(plain_score)


def test_an_unrelated_newer_document_supersedes_nothing() -> None:
    aggregator = made()
    query = torch.eye(5)[:1]
    keys = torch.stack([torch.eye(5)[0], -torch.eye(5)[0]])
    scores = aggregator.document_scores(query, keys, torch.tensor([1.0, 2.0]))[0]
    assert scores[0] > scores[1]


@settings(max_examples=60)
@given(times=st.lists(st.sampled_from([0.0, 1.0, 2.0, -5.0, 1e15, math.nan]), min_size=1, max_size=12), seed=seeds)
def test_newer_mass_is_the_double_loop(times: list[float], seed: int) -> None:
    mass = torch.rand(2, len(times), generator=torch.Generator().manual_seed(seed))
    found = newer_mass(mass, torch.tensor(times, dtype=torch.float64))
    for k, timestamp in enumerate(times):
        wanted = sum((mass[:, j] for j, other in enumerate(times) if other > timestamp), torch.zeros(2))
        torch.testing.assert_close(found[:, k], wanted, **CLOSE)


def test_newer_mass_tells_seconds_apart_in_float64() -> None:
    """Unix seconds in float32 are 128 apart."""
    timestamps = 1.7e9 + torch.arange(3, dtype=torch.float64)
    assert newer_mass(torch.ones(1, 3), timestamps).tolist() == [[2.0, 1.0, 0.0]]


def test_every_parameter_learns() -> None:
    aggregator = made()
    question, vectors, _ = inputs(3, 6)
    question.requires_grad_()
    vectors.requires_grad_()
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[0, 4:] = mask[2, 0] = False
    query, keys = aggregator.query_key(question), aggregator.document_key(vectors)
    scores = aggregator.document_scores(query, keys, torch.arange(6.0), mask)
    modulation, shares = aggregator(question, vectors, scores, mask)
    assert not shares.requires_grad
    (modulation.square().sum() + scores[mask].square().sum()).backward()
    for name, parameter in [*aggregator.named_parameters(), ("question", question), ("vectors", vectors)]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_scores_learn_from_the_modulation_alone() -> None:
    aggregator = made()
    question, vectors, scores = inputs(2, 5)
    scores.requires_grad_()
    aggregator(question, vectors, scores)[0].square().sum().backward()
    assert scores.grad is not None and scores.grad.abs().min() > 0


@pytest.mark.parametrize("infinite", [False, True])
def test_a_masked_entry_has_no_influence(infinite: bool) -> None:
    aggregator = made()
    question, vectors, _ = inputs(3, 6)
    mask = torch.rand(3, 6) < 0.5
    mask[:, 2] = True
    timestamps = timestamps_of(6)

    def answer(bank: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, keys = aggregator.query_key(question), aggregator.document_key(bank)
        scores = aggregator.document_scores(query, keys, timestamps, mask)
        return *aggregator(question, bank, scores, None if infinite else mask), scores

    for r in range(3):
        changed = torch.where(mask[r, :, None, None], vectors, torch.randn_like(vectors))
        for before, after in zip(answer(vectors), answer(changed)):
            torch.testing.assert_close(before[r], after[r], rtol=0, atol=1e-6)
        modulation, shares, scores = answer(vectors)
        assert shares[r][~mask[r]].eq(0).all()
        alone = aggregator(question[[r]], vectors[mask[r]], scores[[r]][:, mask[r]])
        agrees((modulation[[r]], shares[[r]][:, mask[r]]), alone)
        for chunk in (1, 2, 10):
            agrees(aggregator.aggregate_chunked(question, vectors, scores, chunk), (modulation, shares))


def test_without_document_scores_it_is_the_papers_network() -> None:
    aggregator = made(document_score=False)
    question, vectors, _ = inputs(2, 5)
    query, keys = aggregator.query_key(question), aggregator.document_key(vectors)
    assert query.shape == (2, 0) and keys.shape == (5, 0)
    scores = aggregator.document_scores(query, keys, torch.arange(5.0))
    assert scores.equal(torch.zeros(2, 5))
    agrees(aggregator(question, vectors, scores), aggregator(question, vectors))
    mask = torch.rand(2, 5) < 0.5
    assert aggregator.document_scores(query, keys, torch.arange(5.0), mask).isneginf().equal(~mask)
    assert not any("key" in name.split(".")[0] or "raw" in name for name, _ in aggregator.named_parameters())


def test_preselected_entries_make_a_bank_for_each_question() -> None:
    aggregator = made()
    question, vectors, scores = inputs(2, 8)
    best = preselected(scores, 3)
    assert all(a >= b for row in scores.gather(1, best).tolist() for a, b in pairwise(row))
    modulation, _ = aggregator(question, vectors[best], scores.gather(1, best))
    hidden = torch.full_like(scores, -math.inf).scatter(1, best, scores.gather(1, best))
    torch.testing.assert_close(modulation, aggregator(question, vectors, hidden)[0], **CLOSE)
    assert preselected(scores, 100).shape == (2, 8)


def test_what_cannot_be_aggregated_is_refused() -> None:
    aggregator = made()
    question, vectors, scores = inputs(2, 4)
    for refused in (
        lambda: aggregator(question, vectors[:0]),
        lambda: aggregator.project(vectors[:0]),
        lambda: aggregator.aggregate(question, vectors[:0]),
    ):
        with pytest.raises(DriftError, match="empty"):
            refused()
    with pytest.raises(DriftError, match="made for 3 vectors of width 10"):
        aggregator(question, vectors[..., :9])
    with pytest.raises(DriftError, match="scores"):
        aggregator(question, vectors, scores[:, :3])
    with pytest.raises(DriftError, match="no entry"):
        aggregator(question, vectors, scores, torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(DriftError, match="at least 1"):
        preselected(scores, 0)
    with pytest.raises(DriftError, match="heads"):
        AggregatorSettings(width=4, vectors=1, heads=0)
    with pytest.raises(DriftError, match="hidden"):
        AggregatorSettings(width=4, vectors=1, hidden=-1)


MEMORY = """
import sys, torch
from pathlib import Path
from driftlm.memories.bank.aggregate import Aggregator, AggregatorSettings
from driftlm.memories.bank.attention import RunningAttention

torch.set_num_threads(1)
entries, file = int(sys.argv[1]), sys.argv[2]
aggregator = Aggregator(AggregatorSettings(width=64, vectors=12))
vectors = torch.from_file(file, shared=False, size=entries * 12 * 64, dtype=torch.float16).view(entries, 12, 64)
question, scores = torch.randn(1, 12, 64), torch.zeros(1, entries)

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

add, most = RunningAttention.add, 0

def watched(self, *part):
    global most
    add(self, *part)
    most = max(most, anonymous())

RunningAttention.add = watched
aggregator.aggregate_chunked(question, vectors[:500], scores[:, :500], want_shares=False)
held, most = anonymous(), 0
aggregator.aggregate_chunked(question, vectors, scores, want_shares=False)
print(most - held)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_mapped_bank_does_not_grow_with_it(tmp_path: Path) -> None:
    """Its own pages are the file's; what is measured is the memory that is not."""
    file, entries = tmp_path / "bank.bin", 100_000  # 154 MB, 307 MB upcast
    np.random.default_rng(0).standard_normal((entries, 12, 64), dtype=np.float32).astype(np.float16).tofile(file)
    command = [sys.executable, "-c", MEMORY, str(entries), str(file)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 40 * 1024, f"{grown} KiB"
