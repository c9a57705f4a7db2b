"""Update rules of several rows at once: every row with a state, a count of steps and a learning rate of its own.

A row that takes no step keeps its numbers and its rule's state bit for bit. Letters: R rows, P numbers of a row.
"""

from typing import Protocol

import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learning

DECAYS, EPSILON = (0.9, 0.999), 1e-8  # of Adam, as everywhere


class RowRule(Protocol):
    """How gradients change rows.

    Attributes:
        state: by name, one tensor for all rows, (R, ...); zeros are a fresh start.
    """

    state: dict[str, Tensor]

    def change(self, gradients: Tensor, rates: Tensor, state: dict[str, Tensor]) -> Tensor:
        """What some rows are to be lowered by.

        Args:
            gradients: (M, P), of the M rows that take a step.
            rates: η of each, (M, 1) float64.
            state: theirs; changed in place.
        """
        ...


class RowSGD:
    """Step by η·v, v ← μ·v + g; by η·g for μ = 0. As `rules.SGD`."""

    def __init__(self, values: Tensor, momentum: float) -> None:
        self.momentum = momentum
        self.state = {"velocity": torch.zeros_like(values)} if momentum else {}

    def change(self, gradients: Tensor, rates: Tensor, state: dict[str, Tensor]) -> Tensor:
        if self.momentum:
            gradients = state["velocity"].mul_(self.momentum).add_(gradients)
        return rates.to(gradients.dtype) * gradients


class RowAdam:
    """Step by η·m̂ / (√v̂ + ε) with bias corrections by each row's own count of steps (Kingma & Ba 2015, alg. 1)."""

    def __init__(self, values: Tensor) -> None:
        steps = torch.zeros((len(values), 1), dtype=torch.float64, device=values.device)
        self.state = {"first": torch.zeros_like(values), "second": torch.zeros_like(values), "steps": steps}

    def change(self, gradients: Tensor, rates: Tensor, state: dict[str, Tensor]) -> Tensor:
        steps, (one, two) = state["steps"].add_(1), DECAYS
        first = state["first"].lerp_(gradients, 1 - one)
        second = state["second"].mul_(two).addcmul_(gradients, gradients, value=1 - two)
        roots = (second.sqrt() / (1 - two**steps).sqrt().to(second.dtype)).add_(EPSILON)
        return (rates / (1 - one**steps)).to(first.dtype) * first / roots


def row_rule(learning: Learning, values: Tensor) -> RowRule:
    """The rule of `learning` for all rows, before its first step.

    Raises:
        DriftError: for a rule that has no form for rows.
    """
    if learning.rule == "sgd":
        return RowSGD(values, learning.momentum)
    if learning.rule == "adam":
        return RowAdam(values)
    raise DriftError(f"`Learning.rule` was {learning.rule}, which has no form for rows side by side; give sgd or adam.")
