"""Ways of asking a bank: each against another way to compute it, and whose documents the attention is counted for."""

from dataclasses import replace

import pytest
import torch

from driftlm.core.errors import DriftError
from driftlm.evaluation.asking import bank_of
from driftlm.evaluation.settings import Asking
from driftlm.memories.bank import asked
from driftlm.memories.bank.asked import AskedBank
from driftlm.memories.bank.hierarchy import hierarchical
from driftlm.memories.bank.modulations import Modulations
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.reduction import Reduced, averaged, nearest_averaged, pruned
from driftlm.memories.bank.settings import Aggregation
from tests.support.at_once import asked as asked_at_once
from tests.support.made_banks import SMALL, networks, stream, tensors, unknown_times

QUESTIONS = [question.text for question in stream().questions[:3]]


@pytest.fixture(scope="module")
def made() -> BankNetworks:
    return networks()


@pytest.fixture(scope="module")
def bank(made: BankNetworks) -> Modulations:
    found = bank_of(made, stream().documents)
    assert len(found.keys) > found.documents  # some have several parts
    return found


def of_documents(bank: Modulations, members: list[list[int]], shares: torch.Tensor) -> torch.Tensor:
    """By loops: an entry's share is divided among its members, and each member's is its document's."""
    found = torch.zeros(len(shares), bank.documents)
    for row in range(len(shares)):
        for entry, inside in enumerate(members):
            for one in inside:
                found[row, int(bank.owner[one])] += shares[row, entry] / len(inside)
    return found


def same(one: object, other: object) -> None:
    for left, right in zip(tensors(one), tensors(other), strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


def test_keys_and_values_are_kept_for_several_questions_as_long_as_they_fit(
    made: BankNetworks, bank: Modulations, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = AskedBank(made, bank, several=True)
    size = sum(2 * one.numel() * one.element_size() for one in kept.projected.keys)  # type: ignore[union-attr]
    assert AskedBank(made, bank, several=False).projected is None
    monkeypatch.setattr(asked, "KEPT_BYTES", size)
    assert AskedBank(made, bank, several=True).projected is not None
    monkeypatch.setattr(asked, "KEPT_BYTES", size - 1)
    chunked = AskedBank(made, bank, several=True)
    assert chunked.projected is None
    modulated, shares = asked_at_once(made, QUESTIONS, bank.vectors, bank.keys, bank.timestamps)
    members = [[entry] for entry in range(len(bank.keys))]
    for ready in (kept, chunked):
        found, weights = ready.asked(QUESTIONS)
        same(found, modulated)
        torch.testing.assert_close(weights, of_documents(bank, members, shares), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("way", ["pruned", "averaged", "nearest-averaged"])
def test_a_smaller_bank_gives_its_members_equal_parts(
    way: str, several: bool, dtype: torch.dtype, made: BankNetworks, bank: Modulations
) -> None:
    bank = replace(bank, vectors=bank.vectors.to(dtype), keys=bank.keys.to(dtype))
    whole = Reduced.of(bank.vectors, bank.keys, bank.timestamps)
    ways = {"pruned": lambda: pruned(whole, 5, 3), "averaged": lambda: averaged(whole, 5, 3)}
    smaller = ways.get(way, lambda: nearest_averaged(whole, 5))()
    modulated, shares = asked_at_once(made, QUESTIONS, *smaller[:3])
    ready = AskedBank(made, bank, Aggregation(way, 5, 3), several)  # type: ignore[arg-type]
    found, weights = ready.asked(QUESTIONS)
    same(found, modulated)
    torch.testing.assert_close(weights, of_documents(bank, smaller.members, shares), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))


def test_the_nearest_are_a_bank_of_their_own(made: BankNetworks, bank: Modulations) -> None:
    bank = unknown_times(bank)  # else the others still tell which of the nearest are superseded
    ready = AskedBank(made, bank, Aggregation("nearest", 4), several=True)
    _, weights = ready.asked(QUESTIONS)
    for row, question in enumerate(QUESTIONS):
        query = made.aggregator.query_key(made.question_vectors([question]))
        rows = (query @ bank.keys.T)[0].argsort(descending=True)[:4]
        modulated, shares = asked_at_once(made, [question], bank.vectors[rows], bank.keys[rows], bank.timestamps[rows])
        same(ready.asked([question])[0], modulated)
        wanted = of_documents(bank, [[int(one)] for one in rows], shares)
        torch.testing.assert_close(weights[row : row + 1], wanted, atol=1e-5, rtol=1e-5)


def test_groups_of_groups_are_the_hierarchy_and_share_by_the_product_of_their_shares(
    made: BankNetworks, bank: Modulations
) -> None:
    question = made.question_vectors(QUESTIONS)
    for group in (2, 5):
        found, weights = AskedBank(made, bank, Aggregation("hierarchical", group)).asked(QUESTIONS)
        wanted, _ = hierarchical(made.aggregator, question, bank.vectors, bank.keys, bank.timestamps, group)
        same(found, made.modulation(wanted))
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    some = bank.select(torch.arange(6))  # in two groups of three
    scores = made.aggregator.document_scores(made.aggregator.query_key(question), some.keys, some.timestamps)
    halves = [made.aggregator(question, some.vectors[part], scores[:, part]) for part in (slice(3), slice(3, 6))]
    above = torch.stack([scores[:, :3].logsumexp(1), scores[:, 3:].logsumexp(1)], dim=1)
    _, top = made.aggregator(question, torch.stack([half for half, _ in halves], dim=1), above)
    shares = torch.cat([part * top[:, place : place + 1] for place, (_, part) in enumerate(halves)], dim=1)
    _, weights = AskedBank(made, some, Aggregation("hierarchical", 3)).asked(QUESTIONS)
    torch.testing.assert_close(weights, of_documents(some, [[n] for n in range(6)], shares), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["nearest", "hierarchical", "pruned", "averaged", "nearest-averaged"])
def test_of_a_bank_that_is_small_enough_every_way_is_exact(way: str, made: BankNetworks, bank: Modulations) -> None:
    exact, shares = AskedBank(made, bank).asked(QUESTIONS)
    found, weights = AskedBank(made, bank, Aggregation(way, len(bank.keys) + 1)).asked(QUESTIONS)  # type: ignore[arg-type]
    same(found, exact)
    torch.testing.assert_close(weights, shares, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Aggregation("best", 3), "`Aggregation.way` was 'best'; give one of exact, nearest"),
        (lambda: Aggregation("exact", 3), "`Aggregation.size` was 3, but exact aggregation has no size"),
        (lambda: Aggregation("nearest"), "`Aggregation.size` was 0; nearest aggregation needs one of at least 1"),
        (
            lambda: Aggregation("hierarchical", 1),
            "`Aggregation.size` was 1; hierarchical aggregation needs one of at least 2",
        ),
        (lambda: Asking(beams=0), "`Asking.beams` was 0; give at least 1"),
    ],
)
def test_refusals(call: object, sentence: str) -> None:
    with pytest.raises(DriftError, match=sentence):
        call()  # type: ignore[operator]


def test_networks_without_document_scores_have_no_nearest() -> None:
    made = networks(settings=replace(SMALL, document_score=False))
    bank = bank_of(made, stream(3).documents)
    with pytest.raises(DriftError, match="score no documents, so none is nearest"):
        AskedBank(made, bank, Aggregation("nearest", 2))
    AskedBank(made, bank, Aggregation("hierarchical", 2)).asked(QUESTIONS)
