"""The rule `relative`: Adam's steps in proportion to the size of what they change; one rate suits any model."""

import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.weights.rules import Adam, RuleSettings, Tensors
from driftlm.models.trainable import Trainable

WARM_UP = 4  # steps
WITHOUT_INPUTS = 256  # stands for I where a tensor multiplies nothing but its own place: norms and biases


class Relative(Adam):
    """Step as Adam with a rate for each tensor, ηᵢ = η · RMS(θ₀ᵢ) / √Iᵢ, of which step t < 4 takes t/4.

    Adam's steps change every number by at most about its rate. Where all I inputs of a map agree, its outputs change by
    ηᵢ · I, while they themselves are about RMS(θ₀ᵢ) · √I: the ratio is η for every map of every model. (I is the last
    axis; GPT-2 keeps its maps the other way round, and there it is the outputs.)

    Adam's first steps are its largest, and go where a window or two point; whole, they make the next windows of some
    models worse (docs/log.md, 2026-12-01).

    The second factor of a low-rank change s·B·A of a map W begins at zero and has no size. It is to change the map as
    much, by the Frobenius norm, as steps of all the map's own numbers would: η_B = η · RMS(W) / (s · ‖A‖). Any other
    tensor of zeros takes the mean rate of those that have a size.

    Sources: You et al. 2020, "Large Batch Optimization for Deep Learning" (steps in proportion to the weights, there to
    their present norm); Yang et al. 2022, "Tensor Programs V", table 3 (Adam's rate by the number of inputs); Hayou et
    al. 2024, "LoRA+" (B's rate far above A's); Kalajdzievski 2023, arXiv 2312.03732 (steps by the root of the rank);
    Ma & Yarats 2021, arXiv 1910.04209 (warm-up of Adam; theirs is 2,000 steps long).

    Raises:
        DriftError: for parameters most of which are zero, so that nothing says how large their steps are to be.
    """

    def __init__(self, settings: RuleSettings) -> None:
        super().__init__(settings)
        names = list(settings.trainable.parameters) if settings.trainable else [""] * len(settings.prior)
        second = second_factors(settings.trainable) if settings.trainable else {}
        scales = [second.get(name) or own_scale(one) for name, one in zip(names, settings.prior, strict=True)]
        known = [scale for scale in scales if scale]
        if 2 * len(known) < len(scales):
            raise DriftError(
                "`Learning.rule` relative goes by the size of what changes, and most of it is zero here; give "
                "`Learning.rule` adam and a `Learning.learning_rate`."
            )
        mean = sum(known) / len(known)
        self.scales = [torch.tensor(scale or mean, dtype=torch.float64) for scale in scales]
        if settings.joined:
            parts = zip(self.scales, settings.prior, strict=True)
            self.scales = [torch.cat([scale.to(one.device).expand(one.numel()) for scale, one in parts])]

    def rates(self, rate: Tensor, steps: Tensors) -> list[Tensor]:
        warmed = ((steps[0] + 1) / WARM_UP).clamp(max=1)  # all parameters step together
        return [rate * scale * warmed for scale in self.scales]


def own_scale(tensor: Tensor) -> float:
    """Return RMS(θ₀) / √I of a tensor, (..., I)."""
    return size(tensor) / (tensor.shape[-1] if tensor.ndim > 1 else WITHOUT_INPUTS) ** 0.5


def second_factors(trainable: Trainable) -> dict[str, float]:
    """Return RMS(W) / (s · ‖A‖) by the name of each B."""
    layers = trainable.low_rank()
    if not layers:
        return {}
    from peft.utils.integrations import dequantize_module_weight

    found = {}
    for name, (layer, key) in layers.items():
        first = layer.lora_A[key].weight.detach().float().norm().item()
        found[name] = size(dequantize_module_weight(layer.base_layer)) / (layer.scaling[key] * (first or 1.0))
    return found


def size(tensor: Tensor) -> float:
    """Return the root of the mean square of a tensor's numbers."""
    return tensor.detach().float().square().mean().sqrt().item()
