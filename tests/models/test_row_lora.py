"""A LoRA for every row of a batch: each row is what peft's own layers make of its numbers, whatever the others hold."""

import math

import pytest
import torch
from torch import Tensor

from driftlm import DriftError
from driftlm.models.loading import LanguageModel
from driftlm.models.modulated import modulating
from driftlm.models.row_lora import RowLora
from driftlm.models.trainable import Trainable, choose
from tests.support.build import language_model
from tests.support.families import FAMILIES, random_ids

ROWS, RANK = 3, 2
IDS = torch.tensor([random_ids(12, row)[:12] for row in range(ROWS)])
families = pytest.mark.parametrize("family", FAMILIES)


def rows_of(family: str) -> tuple[LanguageModel, Trainable, RowLora]:
    """Three rows that are far from each other."""
    model = language_model(family)
    trainable = choose(model, "lora", rank=RANK)
    lora = RowLora(trainable, ROWS)
    lora.values.add_(0.1 * torch.randn(lora.values.shape))
    return model, trainable, lora


def logits(model: LanguageModel, lora: RowLora | None, ids: Tensor) -> Tensor:
    with modulating(model, None if lora is None else lora.in_force()):
        return model.model(input_ids=ids, use_cache=False).logits


def put(trainable: Trainable, lora: RowLora, row: int) -> None:
    """A row's numbers into peft's own layers."""
    held = lora.values[row].split([p.numel() for p in trainable.parameters.values()])
    for parameter, value in zip(trainable.parameters.values(), held, strict=True):
        parameter.data = value.view(parameter.shape).clone()


@families
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_a_row_and_its_gradient_are_those_of_pefts_own_layers(family: str, scale: float) -> None:
    model, trainable, lora = rows_of(family)
    for layer in lora.layers.values():
        layer.scaling["default"] = scale
    ours = logits(model, lora, IDS)
    weights = torch.randn(ours.shape)
    gradients = lora.gradients((weights * ours).sum())
    static = logits(model, None, IDS)  # silent outside of its rows, and itself again
    assert (ours - static).abs().amax(dim=(1, 2)).min() > 1e-2
    for row in range(ROWS):
        put(trainable, lora, row)
        alone = logits(model, None, IDS[row : row + 1])
        torch.testing.assert_close(ours[row], alone[0], atol=1e-5, rtol=1e-5)
        (weights[row] * alone[0]).sum().backward()
        theirs = torch.cat([p.grad.flatten() for p in trainable.parameters.values() if p.grad is not None])
        torch.testing.assert_close(gradients[row], theirs, atol=1e-4, rtol=1e-4)
        for parameter in trainable.parameters.values():
            parameter.grad = None


@families
def test_a_new_row_is_the_prior_and_the_adapter_stays_as_it_was(family: str) -> None:
    model = language_model(family)
    before = logits(model, None, IDS)
    trainable = choose(model, "lora", rank=RANK)
    lora = RowLora(trainable, ROWS)
    assert torch.equal(logits(model, lora, IDS), before)
    kept = [parameter.data.clone() for parameter in trainable.parameters.values()]
    lora.values.add_(1.0)
    assert all(torch.equal(p, value) for p, value in zip(trainable.parameters.values(), kept, strict=True))
    assert torch.equal(logits(model, None, IDS), before)


@pytest.mark.parametrize("worst", [math.nan, math.inf, 1e30])
def test_a_row_that_is_lost_leaves_the_others_bit_equal(worst: float) -> None:
    model, _, lora = rows_of("llama")
    sound = logits(model, lora, IDS)
    gradients = lora.gradients(sound[::2].square().sum())
    lora.values[1] = worst
    ours = logits(model, lora, IDS)
    assert not bool(ours[1].isfinite().all())
    assert torch.equal(ours[::2], sound[::2])
    assert torch.equal(lora.gradients(ours[::2].square().sum())[::2], gradients[::2])


def test_some_rows_go_on_alone() -> None:
    model, _, lora = rows_of("gpt2")
    before = logits(model, lora, IDS)
    lora.hold(lora.values[[2, 0]])
    torch.testing.assert_close(logits(model, lora, IDS[[2, 0]]), before[[2, 0]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("learn", ["dora", "norms", "all", "none"])
def test_what_is_no_plain_lora_is_refused(learn: str) -> None:
    with pytest.raises(DriftError, match="change a plain LoRA each; give `Learning.learn` lora, or `Stream.batch` 1"):
        RowLora(choose(language_model("llama"), learn), 2)
