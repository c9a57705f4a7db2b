"""Update rules: how a gradient changes the parameters.

A rule is two verbs: `step` changes the parameters and hands back what they were, and `state`/`restore` make a run
resumable. A rule is added by writing a class with these verbs and naming it in `RULES` (or in the entry-point group
`driftlm.rules` of another package).

Notation: θ parameters, θ₀ prior, g gradient of the window's loss (nats per token), η learning rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from driftlm.core.errors import DriftError

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class RuleSettings:
    """Everything a rule may ask for.

    Attributes:
        learning_rate: η.
        momentum: μ of SGD.
        decay: λ of RMS, the pull towards the prior.
        epsilon: ε of RMS, added to the root.
        rms: RMS of the gradients on a text, one tensor a parameter, for the RMS rule.
        normalizer: unweighted mean over all tensors of each tensor's mean RMS.
    """

    learning_rate: float
    momentum: float = 0.0
    decay: float = 0.0
    epsilon: float = 1e-4
    rms: tuple[Tensor, ...] | None = None
    normalizer: float = 1.0


class Rule(Protocol):
    """How one gradient changes the parameters. `learning_rate` may be lowered between steps."""

    learning_rate: float

    def __init__(self, parameters: Sequence[Parameter], prior: Tensors, settings: RuleSettings) -> None: ...

    def step(self) -> list[Tensor]:
        """Change every parameter by its `.grad`, drop the gradients, return the values from before."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything besides the parameters that the next step depends on."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`; an empty one is a fresh start."""
        ...


def moved(parameters: Sequence[Parameter], values: Tensors) -> list[Tensor]:
    """Put new values in place of the old storage, which is returned."""
    before = [parameter.data for parameter in parameters]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data = value
        parameter.grad = None
    return before


STEP = torch.tensor(0.0)  # like the number of a parameter's steps, as torch keeps it


def refuse_other_statistics(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse what would fail, or be left out, at the next step."""
    kinds = [{name: (one.shape, one.dtype) for name, one in some.items()} for some in (state, expected)]
    if kinds[0] != kinds[1]:
        raise DriftError(
            "the state holds other statistics than the update rule keeps; give the `Learning.rule` it was learned with."
        )


class SGD:
    """Step by θ ← θ − η·v, v ← μ·v + g; plain (v = g) for μ = 0. As torch.optim.SGD without dampening or weight decay.

    The new values are written over the gradient, so that keeping the old ones for the guard costs no copy.
    """

    def __init__(self, parameters: Sequence[Parameter], prior: Tensors, settings: RuleSettings) -> None:
        self.parameters = parameters
        self.learning_rate, self.momentum = settings.learning_rate, settings.momentum
        self.velocities: list[Tensor] = []

    def step(self) -> list[Tensor]:
        gradients = gradients_of(self.parameters)
        if self.momentum:
            if self.velocities:
                torch._foreach_mul_(self.velocities, self.momentum)
                torch._foreach_add_(self.velocities, gradients)
            else:
                self.velocities = [gradient.clone() for gradient in gradients]
        used = self.velocities or gradients
        values = [
            torch.add(parameter.data, direction, alpha=-self.learning_rate, out=gradient)
            for parameter, direction, gradient in zip(self.parameters, used, gradients, strict=True)
        ]
        return moved(self.parameters, values)

    def state(self) -> dict[str, Tensor]:
        return {f"velocity/{i}": velocity for i, velocity in enumerate(self.velocities)}

    def restore(self, state: dict[str, Tensor]) -> None:
        refuse_other_statistics(state, {f"velocity/{i}": p for i, p in enumerate(self.parameters)} if state else {})
        self.velocities = [state[f"velocity/{i}"].clone() for i in range(len(state))]


class Adam:
    """Step as torch.optim.Adam with its default betas (0.9, 0.999) and ε (1e-8), no weight decay (Kingma & Ba 2015,
    alg. 1).
    """

    KEYS = ("step", "exp_avg", "exp_avg_sq")  # that torch keeps of a parameter once it has stepped

    def __init__(self, parameters: Sequence[Parameter], prior: Tensors, settings: RuleSettings) -> None:
        self.parameters = parameters
        self.learning_rate = settings.learning_rate
        self.optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, foreach=True)

    def step(self) -> list[Tensor]:
        before = [parameter.data.clone() for parameter in self.parameters]
        self.optimizer.param_groups[0]["lr"] = self.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return before

    def state(self) -> dict[str, Tensor]:
        return {
            f"{key}/{i}": value
            for i, parameter in enumerate(self.parameters)
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        stepped = [(i, p) for i, p in enumerate(self.parameters) if any(f"{key}/{i}" in state for key in self.KEYS)]
        expected = {f"{key}/{i}": STEP if key == "step" else p for i, p in stepped for key in self.KEYS}
        refuse_other_statistics(state, expected)
        self.optimizer.state.clear()
        for name, value in state.items():
            key, i = name.split("/")
            self.optimizer.state[self.parameters[int(i)]][key] = value.clone()


class RMS:
    """Krause's rule: steps scaled by gradient statistics, and a pull to the prior where gradients are usually large.

    θ ← θ + λ·min(R, 1/λ) ⊙ (θ₀ − θ) − η·g / (RMS + ε),  RMS = √mean_b g_b² on a text read beforehand,
    R = RMS / (unweighted mean over tensors of each tensor's mean RMS).

    Source: Krause et al. 2018, "Dynamic Evaluation of Neural Sequence Models", eq. 5-7 and the authors' code (clip,
    unweighted mean). Departure: RMS is gathered with one gradient a window, not over batches of 100.
    """

    def __init__(self, parameters: Sequence[Parameter], prior: Tensors, settings: RuleSettings) -> None:
        if settings.rms is None:
            raise DriftError(
                "`Learning.rule` rms needs gradient statistics; make them with `driftlm statistics TEXT --out FILE` "
                "and give `Learning.statistics` FILE."
            )
        if settings.epsilon == 0 and any(bool((rms == 0).any()) for rms in settings.rms):
            raise DriftError(
                "`Learning.epsilon` was 0 but some gradients were always zero in the statistics; give a small one such "
                "as 1e-4."
            )
        self.parameters, self.prior = parameters, prior
        self.learning_rate = settings.learning_rate
        self.scales = [(rms + settings.epsilon).reciprocal() for rms in settings.rms]
        # λ·min(R, 1/λ) is min(λ·R, 1): the pull never goes beyond the prior.
        self.pulls = [(settings.decay * rms / settings.normalizer).clamp(max=1.0) for rms in settings.rms]
        self.decays = settings.decay > 0

    def step(self) -> list[Tensor]:
        values = gradients_of(self.parameters)
        torch._foreach_mul_(values, self.scales)
        torch._foreach_mul_(values, -self.learning_rate)
        torch._foreach_add_(values, [parameter.data for parameter in self.parameters])
        if self.decays:
            distances = torch._foreach_sub(list(self.prior), [parameter.data for parameter in self.parameters])
            torch._foreach_addcmul_(values, self.pulls, distances)
        return moved(self.parameters, values)

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        pass


RULES = {
    "sgd": "driftlm.memories.weights.rules:SGD",
    "adam": "driftlm.memories.weights.rules:Adam",
    "rms": "driftlm.memories.weights.rules:RMS",
}


def rule_class(name: str) -> Any:
    """The class behind a rule's name, ours or another package's (entry-point group `driftlm.rules`).

    Example:
        >>> rule_class("sgd").__name__
        'SGD'
    """
    known = dict(RULES) | {entry.name: entry.value for entry in entry_points(group="driftlm.rules")}
    if name not in known:
        raise DriftError(f"`Learning.rule` was {name!r}; give one of {', '.join(sorted(known))}, or mixture.")
    module, attribute = known[name].split(":")
    return getattr(import_module(module), attribute)


def gradients_of(parameters: Sequence[Parameter]) -> list[Tensor]:
    """Every parameter's gradient; zero where the loss did not reach it."""
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
