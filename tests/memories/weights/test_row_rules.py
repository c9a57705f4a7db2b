"""Rules of several rows against torch.optim, one optimizer a row."""

from typing import Any

import pytest
import torch

from driftlm import DriftError, Learning
from driftlm.memories.weights.row_rules import row_rule

ROWS, NUMBERS = 4, 7
RULES: dict[str, dict[str, Any]] = {
    "sgd": {"rule": "sgd"},
    "momentum": {"rule": "sgd", "momentum": 0.9},
    "adam": {"rule": "adam"},
}


def optimizer(learning: Learning, parameter: torch.Tensor, rate: float) -> torch.optim.Optimizer:
    if learning.rule == "sgd":
        return torch.optim.SGD([parameter], lr=rate, momentum=learning.momentum)
    return torch.optim.Adam([parameter], lr=rate)


@pytest.mark.parametrize("name", RULES)
def test_every_row_steps_as_torchs_own_optimizer(name: str) -> None:
    learning = Learning("lora", **RULES[name])
    values = torch.randn(ROWS, NUMBERS)
    rule = row_rule(learning, values)
    alone = [torch.nn.Parameter(row.clone()) for row in values]
    rates = torch.tensor([[1e-3], [1e-1], [0.03], [0.0]], dtype=torch.float64)
    optimizers = [optimizer(learning, one, float(rate)) for one, rate in zip(alone, rates, strict=True)]
    for turn in range(12):
        stepping = [row for row in range(ROWS) if turn % (row + 1) == 0]  # counts of steps differ
        gradients = torch.randn(ROWS, NUMBERS)
        state = {key: tensor[stepping] for key, tensor in rule.state.items()}
        values[stepping] -= rule.change(gradients[stepping], rates[stepping], state)
        for key, tensor in rule.state.items():
            tensor[stepping] = state[key]
        for row in stepping:
            alone[row].grad = gradients[row].clone()
            optimizers[row].step()
        torch.testing.assert_close(values, torch.stack([one.data for one in alone]), atol=1e-6, rtol=1e-6)


def test_a_rule_without_a_form_for_rows_is_refused() -> None:
    with pytest.raises(
        DriftError, match="`Learning.rule` was rms, which has no form for rows side by side; give sgd or adam"
    ):
        row_rule(Learning("lora", rule="rms"), torch.zeros(2, 3))
