"""The rule `relative`: Adam's steps in proportion to the size of what they change; one rate suits any model."""

from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.weights.rules import Adam, RuleSettings, RuleState, Tensors

WITHOUT_INPUTS = 256  # stands for I where a tensor multiplies nothing but its own place: norms and biases


class Relative:
    """Step as Adam with a rate for each tensor: ηᵢ = η · RMS(θ₀ᵢ) / √Iᵢ.

    Adam's first steps change every number by about its rate. Where all I inputs of a map agree, its outputs change by
    ηᵢ · I, while they themselves are about RMS(θ₀ᵢ) · √I: the ratio is η for every map of every model. A tensor of
    zeros, which has no size, takes the mean rate of the others.

    Sources: You et al. 2020, "Large Batch Optimization for Deep Learning" (steps in proportion to the weights, there to
    their present norm); Yang et al. 2022, "Tensor Programs V", table 3 (Adam's rate by the number of inputs).

    Raises:
        DriftError: for parameters most of which are zero, such as those of a new LoRA.
    """

    def __init__(self, settings: RuleSettings) -> None:
        self.adam = Adam(settings)
        sizes = [one.float().square().mean().sqrt().item() for one in settings.prior]
        inputs = [one.shape[-1] if one.ndim > 1 else WITHOUT_INPUTS for one in settings.prior]
        scales = [size / count**0.5 for size, count in zip(sizes, inputs, strict=True)]
        known = [scale for scale in scales if scale]
        if 2 * len(known) <= len(scales):
            raise DriftError(
                "`Learning.rule` relative goes by the size of what changes, and a new LoRA begins at zero; give "
                "`Learning.rule` adam, or `Learning.learn` all."
            )
        mean = sum(known) / len(known)
        self.scales = [scale or mean for scale in scales]

    def init(self, parameters: Tensors, rate: Tensor) -> RuleState:
        return self.adam.init(parameters, rate)

    def update(self, gradients: Tensors, state: RuleState, parameters: Tensors, rate: Tensor) -> None:
        for place, scale in enumerate(self.scales):
            of_one = {name: several[place : place + 1] for name, several in state.items()}
            self.adam.update(gradients[place : place + 1], of_one, parameters[place : place + 1], rate * scale)
