"""The parts of the loss: all parts of a document count, kinds are told apart, and groups are aggregated as by hand."""

import math
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from driftlm.memories.bank.hierarchy import in_groups
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import BankTraining
from driftlm.models.answers import nats_of
from driftlm.training import meta_training
from driftlm.training.batches import entries_of
from driftlm.training.meta_training import Losses, Trainer
from tests.support.build import language_model
from tests.support.made_trainings import FIXED, LONG, SMALL, trainer


class Order(random.Random):
    """Its sample of everything is an order given beforehand."""

    def __init__(self, order: list[int]) -> None:
        super().__init__(0)
        self.order = order

    def sample(self, population: Any, k: int, **_: Any) -> list[int]:
        assert sorted(population) == sorted(self.order) and k == len(self.order)
        return self.order


def of_short_parts() -> Trainer:
    """Reads 24 tokens at a time, of which each text of `LONG` has more."""
    one = trainer(lambda step: LONG, batch=2, bank=64)
    one.networks.reader.longest = 24
    return one


def test_gradients_reach_every_part_and_attention_counts_on_all_of_them() -> None:
    one = of_short_parts()
    rows = entries_of(LONG, one.networks.reader.parts).rows
    assert len(rows) == 6 and max(map(len, rows)) == 24
    made: list[Tensor] = []
    amortized = one.amortized

    def kept(*given: Any) -> Tensor:
        made.append(amortized(*given))
        made[0].retain_grad()
        return made[0]

    one.amortized = kept  # type: ignore[method-assign]
    loss, losses = one.losses(LONG, random.Random(0))
    loss.backward()
    assert made[0].grad is not None and len(made[0].grad) == len(rows)
    assert (made[0].grad.flatten(1).abs().sum(dim=1) > 0).all()
    assert len(one.memory) == min(8, len(rows)) and 0 < losses.share < 1


def test_the_contrast_of_a_document_is_that_of_its_parts_together() -> None:
    """By hand, with scores that are given: the subject's share without time, then the newest document's within it."""
    one = trainer()
    scores = torch.randn(2, 6)
    one.networks.aggregator.document_scores = lambda *_: scores  # type: ignore[method-assign]
    own, newest = meta_training.marked([[0, 1, 2, 3], [4]], 6), meta_training.marked([[2, 3], [4]], 6)
    found = one.contrast(torch.zeros(2, 8), torch.zeros(6, 8), torch.zeros(6), own, newest)
    p = scores.exp()
    first = -math.log(p[0, :4].sum() / p[0].sum()) - math.log(p[0, 2:4].sum() / p[0, :4].sum())
    second = -math.log(p[1, 4] / p[1].sum())
    torch.testing.assert_close(found, torch.tensor([first, second]))


def test_kinds_are_counted_one_by_one() -> None:
    answers = [Losses(1, 1, 1, 0, 0.5, 1, Counter(hat=1, cat=1), Counter(cat=1)) for _ in range(3)]
    answers.append(Losses(3, 1, 1, 0, 1.0, 1, Counter(hat=2), Counter(hat=2)))
    mean = Losses.mean(answers)
    assert mean.nats == 1.5 and mean.exact == 0.625
    assert mean.kinds == {"hat": 0.4, "cat": 1.0} and next(iter(mean.kinds)) == "hat"


def test_a_question_answered_exactly_counts_for_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is exact where every token of it is: all tokens of the first, all but one of the second, ..."""
    batch = replace(FIXED, kinds=["place", "place", "time", "way"])

    def half_right(logits: Tensor, answers: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        nats, there, right = nats_of(logits, answers)
        right[:] = there
        right[1, len(answers[1]) - 1] = right[3, 0] = False
        return nats, there, right

    monkeypatch.setattr(meta_training, "nats_of", half_right)
    _, losses = trainer(lambda step: batch).losses(batch, random.Random(0))
    assert losses.exact == 0.5 and losses.kinds == {"way": 0.0, "place": 0.5, "time": 1.0}


@pytest.mark.parametrize("scored", [True, False])
def test_a_hierarchical_step_aggregates_in_groups_of_an_order_by_chance(scored: bool) -> None:
    """By hand: each question alone, from its visible entries alone; a group it sees nothing of is not there."""
    torch.manual_seed(0)
    model = language_model("llama")
    made = BankNetworks(model, replace(SMALL, document_score=scored))
    one = Trainer(made, BankTraining(hierarchical=1.0, group=2), lambda step: FIXED)
    asked, bank, aggregator = torch.randn(2, 4, 32), torch.randn(5, 4, 32), made.aggregator
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 0, 1]]).bool()
    scores = torch.randn(2, 5).masked_fill(~mask, -math.inf) if scored else torch.zeros(2, 5)
    generator = Order([3, 1, 4, 0, 2])
    found, shares = one.aggregated(asked, bank, scores, mask, generator)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2))
    assert (shares > 0).equal(mask)
    for row in range(2):
        groups = [[n for n in group if mask[row, n]] for group in ([3, 1], [4, 0], [2])]
        level = [(bank[group], scores[row, group]) for group in groups if group]
        together = level[:2] if row == 0 else level[:1]
        alone = level[len(together) :]

        def up(parts: list[tuple[Tensor, Tensor]], row: int = row) -> tuple[Tensor, Tensor]:
            question = asked[row : row + 1]
            answers = [aggregator(question, x, s[None] if scored else None)[0][0] for x, s in parts]
            return torch.stack(answers), torch.stack([s.logsumexp(0) for _, s in parts])

        top = [up(together), up(alone)]
        wanted, _ = up([(torch.cat([up([one])[0] for one in top]), torch.stack([s.logsumexp(0) for _, s in top]))])
        torch.testing.assert_close(found[row], wanted[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.5, 5), (1.0, 10)])
def test_the_share_of_hierarchical_steps(share: float, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(meta_training, "in_groups", lambda *given: calls.append(1) or in_groups(*given))
    one = trainer(hierarchical=share, group=2, steps=10, bank=4)
    for _ in range(10):
        assert math.isfinite(one.step().nats)
    assert abs(len(calls) - expected) <= (2 if share == 0.5 else 0)
