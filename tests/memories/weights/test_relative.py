"""The rule `relative`: torch's Adam with a rate for each tensor."""

import pytest
import torch

from driftlm import DriftError, Windows
from driftlm.memories.weights.relative import Relative
from driftlm.memories.weights.rules import RuleSettings
from tests.support.build import read, spelled, weight_memory


def test_it_is_adam_with_a_rate_for_each_tensor_by_its_size_and_inputs() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = [torch.randn(6, 16) * 0.3, torch.randn(4, 64), torch.ones(5), torch.zeros(3)]
        gradients = [[torch.randn_like(one) for one in prior] for _ in range(5)]
    rate = torch.tensor(0.02, dtype=torch.float64)
    ours, theirs = ([one.clone() for one in prior] for _ in range(2))
    rule = Relative(RuleSettings(prior=prior))
    state = rule.init(ours, rate)
    sizes = [prior[0].square().mean().sqrt() / 4, prior[1].square().mean().sqrt() / 8, torch.tensor(1 / 16)]
    sizes.append(torch.stack(sizes).mean())  # of zeros: as the others
    groups = [{"params": [one], "lr": 0.02 * size.item()} for one, size in zip(theirs, sizes, strict=True)]
    adam = torch.optim.Adam(groups)
    for given in gradients:
        for one, gradient in zip(theirs, given, strict=True):
            one.grad = gradient.clone()
        adam.step()
        rule.update([one.clone() for one in given], state, ours, rate)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected.detach(), atol=1e-6, rtol=1e-6)


def test_a_model_scaled_up_learns_the_same() -> None:
    """Every weight matrix of a rank-one pair times ten and a tenth: sizes cancel, steps do not change what is said."""
    prior = [torch.full((2, 4), 0.5), torch.full((2, 4), 5.0)]
    rule = Relative(RuleSettings(prior=prior))
    values = [one.clone() for one in prior]
    rate = torch.tensor(0.1, dtype=torch.float64)
    rule.update([torch.ones(2, 4), torch.ones(2, 4) / 10], rule.init(values, rate), values, rate)
    steps = [(value - before) / before for value, before in zip(values, prior, strict=True)]
    torch.testing.assert_close(steps[0], steps[1], atol=1e-5, rtol=1e-4)


def test_a_new_lora_is_refused_by_name() -> None:
    with pytest.raises(DriftError, match="`Learning.rule` relative goes by the size of what changes"):
        weight_memory("llama", Windows(context=16, stride=8), learn="lora", rule="relative")


def test_it_learns_a_text_that_repeats_itself() -> None:
    document = spelled([17, 4, 99, 23, 8, 250, 61] * 30)
    grid = Windows(context=32, stride=16)
    learned, static = (
        read(weight_memory("llama", grid, **one), [document])
        for one in ({"rule": "relative", "learning_rate": 0.3}, {"learn": "none"})
    )
    assert learned.sum() < 0.7 * static.sum()
