"""Training of a bank's networks: unbiased gradients, resumed bit for bit, and the language model left as it was."""

import io
import itertools
import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.backpropagation_dropout import saved_for_documents
from driftlm.core.errors import DriftError
from driftlm.memories.bank.settings import BankTraining
from driftlm.training import meta_training
from driftlm.training.batches import entries_of, fact_batches
from driftlm.training.meta_training import Trainer
from tests.support.made_trainings import FIXED, SMALL, trainer

pytestmark = pytest.mark.long


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Chosen(random.Random):
    """Its sample is given beforehand."""

    def __init__(self, subset: tuple[int, ...]) -> None:
        super().__init__(0)
        self.subset = subset

    def sample(self, population: Any, k: int, **_: Any) -> list[int]:
        assert list(population) == [0, 1, 2, 3] and k == len(self.subset)
        return list(self.subset)


def linear_gradient(one: Trainer, weights: Tensor, subset: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The gradient of a loss linear in the modulations, and the modulations."""
    one.networks.zero_grad()
    vectors = one.amortized(entries_of(FIXED, one.networks.reader.parts).rows, Chosen(subset))
    (weights * vectors).sum().backward()
    return torch.cat([weight.grad.flatten() for weight in one.networks.amortizer.parameters()]), vectors.detach()


def dropped_out() -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
    """Gradients with and without dropout, over all choices of 2 documents of 4, and modulations."""
    weights = torch.randn(4, SMALL.vectors, 32)
    full, value = linear_gradient(trainer(), weights, ())
    half = trainer(kept=0.5)
    found = [linear_gradient(half, weights, subset) for subset in itertools.combinations(range(4), 2)]
    gradients, values = zip(*found, strict=True)
    return full, list(gradients), value, list(values)


def test_backpropagation_dropout_has_the_full_gradient_in_the_mean() -> None:
    full, gradients, value, values = dropped_out()
    assert len(gradients) == 6
    mean = torch.stack(gradients).mean(dim=0)
    assert (mean - full).norm() < 1e-5 * full.norm()
    assert min((one - full).norm() for one in gradients) > 0.01 * full.norm()
    for one in values:
        torch.testing.assert_close(one, value, atol=1e-5, rtol=1e-5)


def test_unscaled_backpropagation_dropout_would_have_half_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_training, "scaled_gradient", lambda value, factor: value)
    full, gradients, _, _ = dropped_out()
    assert (torch.stack(gradients).mean(dim=0) - full / 2).norm() < 1e-5 * full.norm()


def test_documents_without_a_gradient_are_those_not_chosen() -> None:
    one = trainer(kept=0.5)
    vectors = one.amortized(entries_of(FIXED, one.networks.reader.parts).rows, Chosen((3, 1)))
    for number in range(4):
        one.networks.zero_grad()
        vectors[number].sum().backward(retain_graph=True)
        reached = any(bool(weight.grad.any()) for weight in one.networks.amortizer.parameters())
        assert reached == (number in (1, 3))


def test_a_share_that_keeps_fewer_than_two_documents_is_refused() -> None:
    with pytest.raises(
        DriftError, match="`BankTraining.kept` 0.25 leaves 1 of 4 document parts a gradient; give a share that keeps"
    ):
        trainer(kept=0.25).step()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hierarchical": 1.5}, "`BankTraining.hierarchical` was 1.5 and `BankTraining.group` 16; give a share"),
        ({"group": 1}, "`BankTraining.hierarchical` was 0.0 and `BankTraining.group` 1; .* groups of at least 2"),
        ({"distill": -0.1}, "`BankTraining.distill` -0.1 were given; give weights of at least 0"),
        ({"kept": 0}, "`BankTraining.kept` was 0; give a share of the document parts"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DriftError, match=message):
        BankTraining(**given)


@pytest.mark.parametrize("kept", [1.0, 0.5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_training_is_the_one_that_never_stopped(kept: float, accumulate: int) -> None:
    """The bank doubles at every step, so that remembered modulations are used on both sides of the stop."""
    settings = {"kept": kept, "accumulate": accumulate, "grow": -1.0, "seed": 3}
    whole = trainer(fact_batches(4, 5), **settings)
    expected = [whole.step() for _ in range(6)]
    first = trainer(fact_batches(4, 5), **settings)
    found = [first.step() for _ in range(3)]
    state = through_a_file(first.state())
    second = trainer(fact_batches(4, 5), **settings)
    with torch.no_grad():
        for weight in second.networks.parameters():
            weight.zero_()
    random.seed(9)
    torch.manual_seed(9)
    second.restore(state)
    assert second.progress.bank == 8 > second.settings.batch and len(second.memory) == 8
    found += [second.step() for _ in range(3)]
    assert found == expected and all(math.isfinite(value) for one in found for value in one.means.values())
    assert second.progress == whole.progress and whole.progress.step == 6
    assert torch.equal(second.memory, whole.memory)
    weights = zip(second.networks.state_dict().values(), whole.networks.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)


def test_a_checkpoint_of_other_settings_is_refused_and_a_longer_training_accepted() -> None:
    one = trainer()
    one.step()
    state = through_a_file(one.state())
    with pytest.raises(DriftError, match="the checkpoint was made with rate 0.0007, not 0.01; give the same settings"):
        trainer(rate=0.01).restore(state)
    longer = trainer(steps=60)
    longer.restore(state)
    assert longer.progress == one.progress and longer.settings.steps == 60
    longer.step()


def test_a_checkpoint_from_before_a_setting_existed_has_its_default() -> None:
    one = trainer()
    one.step()
    state = through_a_file(one.state())
    for name in ("distill", "hierarchical", "group"):
        del state["settings"][name]
    trainer().restore(state)
    with pytest.raises(DriftError, match="the checkpoint was made with distill 0.0, not 0.5; give the same settings"):
        trainer(distill=0.5).restore(state)


def test_the_bank_doubles_up_to_what_is_remembered() -> None:
    one = trainer(fact_batches(4, 5), grow=-1.0, steps=6)
    seen = []
    for _ in range(6):
        seen.append(one.progress.bank)
        one.step()
        assert len(one.memory) <= one.settings.remembered
    assert seen == [1, 2, 4, 8, 16, 16]


def test_remembered_modulations_are_the_latest_newest_last() -> None:
    one = trainer(remembered=3)
    for first in (0, 2, 4):
        one.remember(torch.arange(first, first + 2.0))
    assert one.memory.tolist() == [3, 4, 5]
    nothing = trainer(remembered=0)
    nothing.remember(torch.ones(2))
    assert len(nothing.memory) == 0


OWN = [[0], [1, 2], [3], [4, 5, 6]]


def masks(bank: int, entries: int = 10) -> list[Tensor]:
    one = trainer()
    one.progress.bank = bank
    return [one.visible(OWN, entries, random.Random(seed)) for seed in range(30)]


@pytest.mark.parametrize("bank", [1, 2, 4, 7, 9, 10, 16])
def test_a_question_sees_its_own_documents(bank: int) -> None:
    for mask in masks(bank):
        assert mask.shape == (4, 10)
        assert all(bool(mask[number, own].all()) for number, own in enumerate(OWN))


@pytest.mark.parametrize("bank", [1, 2, 4, 7, 9, 10, 16])
def test_a_question_sees_as_many_entries_as_the_bank_has_grown_to(bank: int) -> None:
    """Fewer only where there are no more, more only where its own are more."""
    for mask in masks(bank):
        assert mask.sum(dim=1).tolist() == [min(10, max(bank, len(own))) for own in OWN]


def test_which_others_a_question_sees_is_chance() -> None:
    found = torch.stack(masks(4))[:, 0, 1:].float().mean(dim=0)
    assert (found > 0).all() and (found < 1).all()


def test_training_lowers_the_nats_of_answers_and_leaves_the_language_model_as_it_was() -> None:
    one = trainer(steps=60, rate=0.01)
    model = one.networks.language_model.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = [one.step() for _ in range(30)]
    assert losses[-1].nats < losses[0].nats - 1.0
    assert losses[-1].readout < losses[0].readout - 1.0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_every_weight_of_the_networks_learns() -> None:
    one = trainer()
    before = {name: value.clone() for name, value in one.networks.state_dict().items()}
    one.progress.bank = 4
    loss, _ = one.losses(FIXED, random.Random(0))
    loss.backward()
    assert [name for name, weight in one.networks.named_parameters() if weight.grad is None] == []
    one.optimizer.step()
    after = one.networks.state_dict()
    assert [name for name, value in before.items() if torch.equal(value, after[name])] == []


def test_backpropagation_dropout_keeps_a_share_of_what_backward_needs() -> None:
    one = trainer()
    rows = [row for number in range(16) for row in one.networks.reader.parts(f"Text {number % 10}. " * 8)]
    every, few = (saved_for_documents(one.networks, rows, kept) for kept in (1.0, 0.25))
    assert 0.2 * every < few < 0.3 * every
