"""The rule `relative`: torch's Adam with a rate for each tensor."""

from typing import Any

import pytest
import torch

from driftlm import DriftError, Learning, Windows
from driftlm.memories.weights.relative import Relative
from driftlm.memories.weights.rows import WeightRows
from driftlm.memories.weights.rules import RuleSettings
from tests.support.build import read, spelled, weight_memory


def test_it_is_adam_with_a_rate_for_each_tensor_and_four_steps_of_warm_up() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = [torch.randn(6, 16) * 0.3, torch.randn(4, 64), torch.ones(5), torch.zeros(3)]
        gradients = [[torch.randn_like(one) for one in prior] for _ in range(7)]
    rate = torch.tensor(0.02, dtype=torch.float64)
    ours, theirs = ([one.clone() for one in prior] for _ in range(2))
    rule = Relative(RuleSettings(prior=prior))
    state = rule.init(ours, rate)
    sizes = [prior[0].square().mean().sqrt() / 4, prior[1].square().mean().sqrt() / 8, torch.tensor(1 / 16)]
    sizes.append(torch.stack(sizes).mean())  # of zeros: as the others
    adam = torch.optim.Adam([{"params": [one]} for one in theirs])
    for count, given in enumerate(gradients, 1):
        for group, size in zip(adam.param_groups, sizes, strict=True):
            group["lr"] = 0.02 * size.item() * min(1, count / 4)
        for one, gradient in zip(theirs, given, strict=True):
            one.grad = gradient.clone()
        adam.step()
        rule.update([one.clone() for one in given], state, ours, rate)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected.detach(), atol=1e-6, rtol=1e-6)


def test_it_is_the_rule_where_neither_a_rule_nor_a_rate_is_given() -> None:
    assert (Learning().rule, Learning("lora").rule) == ("relative", "relative")
    assert (Learning().rate(), Learning("lora").rate(), Learning("lora", rule="adam").rate()) == (0.03, 0.06, 3e-4)
    assert Learning(learning_rate=1e-3).rule == "adam" and Learning(rule="sgd").rule == "sgd"
    assert Learning().settled() == Learning(rule="relative", learning_rate=0.03)


def test_a_model_scaled_up_learns_the_same() -> None:
    """Every weight matrix of a rank-one pair times ten and a tenth: sizes cancel, steps do not change what is said."""
    prior = [torch.full((2, 4), 0.5), torch.full((2, 4), 5.0)]
    rule = Relative(RuleSettings(prior=prior))
    values = [one.clone() for one in prior]
    rate = torch.tensor(0.1, dtype=torch.float64)
    rule.update([torch.ones(2, 4), torch.ones(2, 4) / 10], rule.init(values, rate), values, rate)
    steps = [(value - before) / before for value, before in zip(values, prior, strict=True)]
    torch.testing.assert_close(steps[0], steps[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("learn", ["lora", "dora"])
def test_the_second_factor_of_a_lora_goes_by_the_map_that_it_is_added_to(family: str, learn: str) -> None:
    memory = weight_memory(family, Windows(context=16, stride=8), learn=learn, rank=3, rule="relative")
    assert isinstance(memory.rule, Relative)
    scales, model = dict(zip(memory.trainable.parameters, memory.rule.scales, strict=True)), memory.language_model.model
    seconds = [name for name in scales if ".lora_B." in name]
    for name in seconds:
        layer = model.get_submodule(name.partition(".lora_B")[0])
        whole, first = (
            one.detach().double().square().mean().sqrt() for one in (layer.base_layer.weight, factor(layer))
        )
        assert scales[name].item() == pytest.approx((whole / factor(layer).norm()).item(), rel=1e-5)
        assert scales[name.replace("lora_B", "lora_A")].item() == pytest.approx(
            (first / factor(layer).shape[1] ** 0.5).item(), rel=1e-5
        )
    assert len(seconds) == len([name for name in scales if ".lora_A." in name]) > 6


def size(tensor: Any) -> Any:
    return tensor.detach().double().square().mean().sqrt()


def factor(layer: Any) -> Any:
    """The first factor of a low-rank change, (r, I)."""
    return layer.lora_A["default"].weight


def test_rows_side_by_side_have_the_same_rates() -> None:
    memory = weight_memory("llama", Windows(context=16, stride=8), learn="lora", rule="relative")
    rows = WeightRows(memory, 2)
    assert isinstance(memory.rule, Relative) and isinstance(rows.rule, Relative)
    parts = zip(memory.rule.scales, memory.prior.values, strict=True)
    expected = torch.cat([torch.full((one.numel(),), scale.item(), dtype=torch.float64) for scale, one in parts])
    assert torch.equal(rows.rule.scales[0], expected) and len(rows.rule.scales) == 1


def test_what_is_zero_throughout_is_refused() -> None:
    with pytest.raises(DriftError, match="`Learning.rule` relative goes by the size of what changes"):
        Relative(RuleSettings(prior=[torch.zeros(2, 3), torch.ones(2), torch.zeros(1)]))
    half = Relative(RuleSettings(prior=[torch.ones(2), torch.zeros(2)]))  # scales and offsets of new norms
    assert half.scales[0] == half.scales[1] == 1 / 16


def test_it_learns_a_text_that_repeats_itself() -> None:
    document = spelled([17, 4, 99, 23, 8, 250, 61] * 30)
    grid = Windows(context=32, stride=16)
    learned, static = (
        read(weight_memory("llama", grid, **one), [document])
        for one in ({"rule": "relative", "learning_rate": 0.3}, {"learn": "none"})
    )
    assert learned.sum() < 0.7 * static.sum()
