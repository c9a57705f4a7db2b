"""Update rules: how a gradient changes the parameters.

A rule is two pure verbs in the manner of optax: `init` gives the state before the first step, and `update` takes one
step. What it computes is written into the storage of the parameters and of the state, so that these stay where they
are. A rule is added by writing a class with these verbs and naming it in `memories/registries.py` (or in the
entry-point group `driftlm.rules` of another package).

Notation: θ parameters, θ₀ prior, g gradient of the window's loss (nats per token), η learning rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adam import adam

from driftlm.core.errors import DriftError
from driftlm.memories.registries import RULES
from driftlm.models.trainable import Trainable

Tensors = list[Tensor]
RuleState = dict[str, list[Tensor]]  # by name, a tensor for every parameter
LARGE = 1 << 24  # numbers from which Adam's step reads each once, in one fused pass, and makes no temporaries


@dataclass(frozen=True)
class RuleSettings:
    """Everything a rule may ask for besides the learning rate, which is given at every step.

    Attributes:
        momentum: μ of SGD.
        decay: λ of RMS, the pull towards the prior.
        epsilon: ε of RMS, added to the root.
        prior: θ₀, one tensor a parameter.
        rms: RMS of the gradients on a text, one tensor a parameter, for the RMS rule.
        normalizer: unweighted mean over all tensors of each tensor's mean RMS.
        own: the settings that a rule's entry in the registry brings, None where it brings none.
        trainable: what learns, for a rule that asks where in the model a parameter stands.
        joined: whether all parameters lie one behind the other in a single tensor, (R, P), as those of rows do.
    """

    momentum: float = 0.0
    decay: float = 0.0
    epsilon: float = 1e-4
    prior: Tensors = field(default_factory=list)
    rms: tuple[Tensor, ...] | None = None
    normalizer: float = 1.0
    own: Any = None
    trainable: Trainable | None = None
    joined: bool = False


class Rule(Protocol):
    """How gradients change parameters.

    Several learners side by side have one tensor with a leading row axis for each parameter, (R, ...), and a rate each.
    """

    def __init__(self, settings: RuleSettings) -> None: ...

    def init(self, parameters: Tensors, rate: Tensor) -> RuleState:
        """Return the state before the first step: everything besides the parameters that the next one depends on."""
        ...

    def update(self, gradients: Tensors, state: RuleState, parameters: Tensors, rate: Tensor) -> None:
        """Take one step, written into `parameters` and `state`; `gradients` may be overwritten.

        Args:
            gradients: one a parameter; not to be kept, since their storage is used again.
            state: what `init` gave, or an earlier step left.
            parameters: tensors without a graph.
            rate: η, () float64, or (R, 1) where rows learn side by side. Nothing else tells these apart, and no step is
                taken on the host, so that a rule can be compiled, or captured as a graph with a rate on the device.
        """
        ...


def like(numbers: Tensor, other: Tensor) -> Tensor:
    """Return numbers of rows, (R, 1), in the type of another tensor; one number alone leaves that type as it is."""
    return numbers.to(other.dtype) if numbers.ndim else numbers


class SGD:
    """Step by θ ← θ − η·v, v ← μ·v + g; plain (v = g) for μ = 0. As torch.optim.SGD, undamped, without weight decay."""

    def __init__(self, settings: RuleSettings) -> None:
        self.momentum = settings.momentum

    def init(self, parameters: Tensors, rate: Tensor) -> RuleState:
        return {"velocity": [torch.zeros_like(one) for one in parameters]} if self.momentum else {}

    def update(self, gradients: Tensors, state: RuleState, parameters: Tensors, rate: Tensor) -> None:
        if self.momentum:
            torch._foreach_mul_(state["velocity"], self.momentum)
            torch._foreach_add_(state["velocity"], gradients)
            gradients = state["velocity"]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.addcmul_(gradient, like(rate, gradient), value=-1)


class Adam:
    """Step as torch.optim.Adam with its default betas (0.9, 0.999) and ε (1e-8), no weight decay.

    Source: Kingma & Ba 2015, algorithm 1:
    m ← β₁·m + (1 − β₁)·g,  v ← β₂·v + (1 − β₂)·g²,  θ ← θ − η / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
    """

    BETAS, EPSILON = (0.9, 0.999), 1e-8

    def __init__(self, settings: RuleSettings) -> None:
        pass

    def init(self, parameters: Tensors, rate: Tensor) -> RuleState:
        return {
            "step": [torch.zeros_like(rate, dtype=torch.float32) for _ in parameters],
            "exp_avg": [torch.zeros_like(one) for one in parameters],
            "exp_avg_sq": [torch.zeros_like(one) for one in parameters],
        }

    def rates(self, rate: Tensor, steps: Tensors) -> list[Tensor]:
        """Return the rate of every parameter at the step behind as many `steps`, for each of them."""
        return [rate] * len(steps)

    def update(self, gradients: Tensors, state: RuleState, parameters: Tensors, rate: Tensor) -> None:
        means, squares, steps, (one, two) = state["exp_avg"], state["exp_avg_sq"], state["step"], self.BETAS
        each = zip(parameters, gradients, means, squares, steps, self.rates(rate, steps), strict=True)
        if rate.ndim == 0 and sum(parameter.numel() for parameter in parameters) >= LARGE:
            for parameter, gradient, mean, square, step, own in each:
                adam(
                    [parameter], [gradient], [mean], [square], [], [step], fused=True, amsgrad=False, maximize=False,
                    lr=own, beta1=one, beta2=two, eps=self.EPSILON, weight_decay=0.0,
                )  # fmt: skip
            return
        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(means, gradients, 1 - one)
        torch._foreach_mul_(squares, two)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - two)
        for parameter, _, mean, square, step, own in each:
            count = step.double()
            root = square.sqrt().div_(like((1 - two**count).sqrt(), square)).add_(self.EPSILON)
            parameter.addcdiv_(mean, root.div_(like(own / (1 - one**count), root)), value=-1)


class RMS:
    """Krause's rule: steps scaled by gradient statistics, and a pull to the prior where gradients are usually large.

    θ ← θ + λ·min(R, 1/λ) ⊙ (θ₀ − θ) − η·g / (RMS + ε),  RMS = √mean_b g_b² on a text read beforehand,
    R = RMS / (unweighted mean over tensors of each tensor's mean RMS).

    Source: Krause et al. 2018, "Dynamic Evaluation of Neural Sequence Models", eq. 5-7 and the authors' code (clip,
    unweighted mean). Departure: RMS is gathered with one gradient a window, not over batches of 100.
    """

    def __init__(self, settings: RuleSettings) -> None:
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
        self.prior = settings.prior
        self.scales = [(rms + settings.epsilon).reciprocal() for rms in settings.rms]
        # λ·min(R, 1/λ) is min(λ·R, 1): the pull never goes beyond the prior.
        self.pulls = [(settings.decay * rms / settings.normalizer).clamp(max=1.0) for rms in settings.rms]
        self.decays = settings.decay > 0

    def init(self, parameters: Tensors, rate: Tensor) -> RuleState:
        return {}

    def update(self, gradients: Tensors, state: RuleState, parameters: Tensors, rate: Tensor) -> None:
        distances = torch._foreach_sub(self.prior, parameters) if self.decays else None
        torch._foreach_mul_(gradients, self.scales)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.addcmul_(gradient, like(rate, gradient), value=-1)
        if distances is not None:
            torch._foreach_addcmul_(parameters, self.pulls, distances)


def rule_class(name: str) -> Any:
    """Return the class behind a rule's name, ours or another package's.

    Example:
        >>> rule_class("sgd").__name__
        'SGD'
    """
    RULES.refuse_unknown(name, ", or mixture")
    return RULES.load(name)


def gradients_of(parameters: Sequence[Parameter]) -> list[Tensor]:
    """Return every parameter's gradient; zero where the loss did not reach it."""
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


def flat(state: RuleState) -> dict[str, Tensor]:
    """Return a state's tensors by the names under which they are kept.

    Example:
        >>> flat({"velocity": [torch.ones(2), torch.zeros(1)]})
        {'velocity/0': tensor([1., 1.]), 'velocity/1': tensor([0.])}
    """
    return {f"{name}/{place}": one for name, several in state.items() for place, one in enumerate(several)}


def named(state: RuleState) -> dict[str, Tensor]:
    """Return what has to be kept of a state: nothing while all of it is zero, as it is before the first step."""
    tensors = flat(state)
    return tensors if any(bool(one.any()) for one in tensors.values()) else {}


def fill(state: RuleState, kept: Mapping[str, Tensor]) -> None:
    """Write what `named` gave into a state that is fresh.

    Raises:
        DriftError: for tensors of another rule, or of other parameters.
    """
    if not kept:
        return
    own = flat(state)
    kinds = [{name: (one.shape, one.dtype) for name, one in some.items()} for some in (kept, own)]
    if kinds[0] != kinds[1]:
        raise DriftError(
            "the state holds other statistics than the update rule keeps; give the `Learning.rule` it was learned with."
        )
    for name, one in own.items():
        one.copy_(kept[name])
