"""Low-rank changes of a model's linear maps, other ones for every row of a batch; the model itself stays frozen.

Rows share every forward and backward pass over the frozen weights. No operation mixes two of them, so that a row is
what it would be alone, whatever happens in the others.

Letters: R rows, N tokens, r rank, P learned numbers of a row; I inputs and O outputs of a linear map.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from transformers import DynamicCache

from driftlm.core.errors import DriftError
from driftlm.models.trainable import Trainable


@dataclass(frozen=True)
class LowRank:
    """By the name of a linear map, what is added to it: y <- y + (x down) up.

    Attributes:
        factors: down (R, I, r) and up (R, r, O).
    """

    factors: dict[str, tuple[Tensor, Tensor]]

    def rows(self, chosen: Sequence[int]) -> "LowRank":
        """Return that of the chosen rows."""
        return LowRank({name: (down[list(chosen)], up[list(chosen)]) for name, (down, up) in self.factors.items()})

    def to(self, dtype: torch.dtype) -> "LowRank":
        """Return the same in another floating-point type."""
        return LowRank({name: (down.to(dtype), up.to(dtype)) for name, (down, up) in self.factors.items()})

    @contextmanager
    def on(self, model: Any) -> Iterator[DynamicCache]:
        """Yield the model with the changes added, until the context ends, and an empty cache."""
        hooks = []
        try:
            for name, (down, up) in self.factors.items():
                hooks.append(model.get_submodule(name).register_forward_hook(partial(added, name, down, up)))
            yield DynamicCache()
        finally:
            for hook in hooks:
                hook.remove()


def added(name: str, down: Tensor, up: Tensor, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Return a forward hook: each row's own low-rank change beside the output of a linear map, (R, N, O)."""
    (x,) = inputs
    if x.ndim != 3 or len(x) != len(down):
        raise DriftError(
            f"the linear map {name} sees {tuple(x.shape)} for {len(down)} rows, not a row of tokens for each; "
            f"name others with target_modules, such as those of the attention."
        )
    return torch.baddbmm(output, x @ down, up)


class RowLora:
    """R LoRAs of one shape on one frozen model, each row of a batch with its own.

    While they are `on`, the adapter whose copies they are is silent, and it stays as it is: it holds the prior.

    Args:
        trainable: a LoRA as `driftlm.models.trainable.choose` makes one, or one that was loaded.
        rows: R.

    Attributes:
        values: (R, P), all of a row's numbers, parameter after parameter in the order of `trainable`.
        parameters: the same by name, views with a graph.

    Raises:
        DriftError: for anything else than a plain LoRA.
    """

    def __init__(self, trainable: Trainable, rows: int) -> None:
        self.trainable = trainable
        self.layers = lora_layers(trainable)
        prior = torch.cat([parameter.data.flatten() for parameter in trainable.parameters.values()])
        self.hold(prior.expand(rows, -1).clone())

    def hold(self, values: Tensor) -> None:
        """Let `values` (R, P) be the rows, whatever their number was before."""
        self.values = values
        self.parameters: dict[str, Parameter] = {}
        start = 0
        for name, parameter in self.trainable.parameters.items():
            place = slice(start, start + parameter.numel())
            start = place.stop
            self.parameters[name] = Parameter(values[:, place].view(len(values), *parameter.shape))

    def gradients(self, loss: Tensor) -> Tensor:
        """Return (R, P), of a sum of what rows lost: each row's own, of no meaning for a row that is not in the sum."""
        found = torch.autograd.grad(loss, list(self.parameters.values()))
        return torch.cat([one.flatten(1) for one in found], dim=1)

    def in_force(self) -> "InPlaceOfAdapter":
        """Return what a forward pass over R rows runs under, with a graph back to `parameters`."""
        return in_place_of(self.layers, self.parameters)


@dataclass(frozen=True)
class InPlaceOfAdapter:
    """Low-rank changes of the maps inside an adapter's layers, which themselves add nothing meanwhile.

    Attributes:
        low_rank: the changes.
        layers: the adapter's, each around a linear map.
    """

    low_rank: LowRank
    layers: tuple[Any, ...]

    def rows(self, chosen: Sequence[int]) -> "InPlaceOfAdapter":
        """Return that of the chosen rows."""
        return InPlaceOfAdapter(self.low_rank.rows(chosen), self.layers)

    def to(self, dtype: torch.dtype) -> "InPlaceOfAdapter":
        """Return the same in another floating-point type."""
        return InPlaceOfAdapter(self.low_rank.to(dtype), self.layers)

    @contextmanager
    def on(self, model: Any) -> Iterator[DynamicCache]:
        """Yield the model so changed, until the context ends, and an empty cache."""
        own = [vars(layer).get("forward") for layer in self.layers]
        try:
            for layer in self.layers:
                layer.forward = layer.base_layer.__call__
            with self.low_rank.on(model) as cache:
                yield cache
        finally:
            for layer, forward in zip(self.layers, own, strict=True):
                vars(layer).pop("forward", None)
                if forward is not None:
                    layer.forward = forward


def in_place_of(layers: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> InPlaceOfAdapter:
    """Return a LoRA for each of R rows on the maps inside the layers of one; parameters by name, (R, ...) each."""
    factors = {}
    for name, layer in layers.items():
        (adapter,) = layer.lora_A
        down, up = (parameters[f"{name}.lora_{letter}.{adapter}.weight"].mT for letter in "AB")
        scale = layer.scaling[adapter]
        factors[f"{name}.base_layer"] = down, up if scale == 1 else scale * up
    return InPlaceOfAdapter(LowRank(factors), tuple(layers.values()))


def lora_layers(trainable: Trainable) -> dict[str, Any]:
    """Return the layers of a plain LoRA by name; all that learns is in them.

    Raises:
        DriftError: for parameters that belong to no plain LoRA.
    """
    model = None if trainable.adapter is None else trainable.adapter.get_base_model()
    layers = {name: one for name, one in (model.named_modules() if model else ()) if hasattr(one, "lora_A")}
    own = {
        f"{name}.{path}" for name, layer in layers.items() for path, p in layer.named_parameters() if p.requires_grad
    }
    if not layers or own != {*trainable.parameters} or not all(plain(layer) for layer in layers.values()):
        raise DriftError(
            "documents read side by side (`Stream.batch`) change a plain LoRA each; give `Learning.learn` lora, or "
            "`Stream.batch` 1."
        )
    return layers


def plain(layer: Any) -> bool:
    """Tell whether a layer adds s (x A^T) B^T to a map and nothing else."""
    if list(layer.lora_A) != list(layer.lora_B) or len(layer.lora_A) != 1:
        return False
    (name,) = layer.lora_A
    return (
        name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and isinstance(layer.lora_A[name], nn.Linear)
        and layer.lora_B[name].bias is None
    )
