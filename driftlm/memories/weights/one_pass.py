"""Several learners with a LoRA each that read the same windows: one forward and one backward pass for all of them.

Each keeps its parameters, rule, guard and cache; only the passes over the frozen weights that all share are made at
once. Letter: K learners.
"""

from collections.abc import Sequence

import torch

from driftlm.core.errors import DriftError
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.models.row_lora import in_place_of, lora_layers
from driftlm.models.row_scoring import score_rows
from driftlm.models.scoring import Forward
from driftlm.models.sink import behind_sinks
from driftlm.streams.windows import Window


class OnePass:
    """K learners around the same frozen weights, whose LoRAs have the same shapes; rules and rates may differ.

    Args:
        learners: K memories that read the same windows.
    """

    def __init__(self, learners: Sequence[WeightMemory]) -> None:
        self.learners = list(learners)
        self.layers = lora_layers(self.learners[0].trainable)

    def forwards(self, window: Window) -> list[Forward]:
        """The forward pass of each learner over a window; what `WeightMemory.score` takes."""
        caches = []
        for one in self.learners:
            if one.rotary and one.cache:
                caches.append(one.rotary.before(one.cache, window))
        first = self.learners[0]
        with torch.set_grad_enabled(any(one.schedule.due() for one in self.learners)):
            stacked = {
                name: torch.stack([one.trainable.parameters[name] for one in self.learners])
                for name in first.trainable.parameters
            }
            modulated, windows = in_place_of(self.layers, stacked), [window] * len(self.learners)
            if caches:
                caches = behind_sinks(first.scorer, windows, caches, modulated)
            return score_rows(first.scorer, windows, modulated, caches or None, first.windows.kept)

    def backward(self) -> None:
        """The gradients that learners want of the window they scored, added to those that wait."""
        wanting = [one for one in self.learners if one.decision().learn]
        parameters = [parameter for one in wanting for parameter in one.parameters]
        losses = [one.loss(one.scored.forward.nats) for one in wanting if one.scored is not None]
        if not losses:
            return
        with torch.enable_grad():
            total = torch.stack(losses).sum()
        for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
            gradient = gradient.contiguous()  # it comes transposed, as the factors go in
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def one_pass(learners: Sequence[WeightMemory]) -> OnePass | None:
    """For learners that can share their passes; None where one alone, or one that is no plain LoRA, is among them."""
    if len(learners) < 2 or any(one.salience is not None or one.protection is not None for one in learners):
        return None
    shapes = [{name: p.shape for name, p in one.trainable.parameters.items()} for one in learners]
    if any(other != shapes[0] for other in shapes):
        return None
    try:
        scales = [[layer.scaling for layer in lora_layers(one.trainable).values()] for one in learners]
    except DriftError:
        return None
    return OnePass(learners) if all(other == scales[0] for other in scales) else None
