"""Matrix products of a window: which a model makes, forward and backward, and of what sizes.

Known from one forward pass over a few tokens: which linear maps are applied, and where a gradient is asked for. What
products cost is said of them by `flops` and `traffic`.

Letters: T tokens fed, K positions attended to (the T and those in the cache), S new tokens; M, I, O sizes of matrices.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from driftlm.core.errors import DriftError
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.models.lora import fast_forward
from driftlm.models.trainable import number_of_layers

TOKENS = 3  # of the forward pass that shows which map is applied to what


@dataclass(frozen=True)
class Shape:
    """What a window costs by: T tokens fed, K positions attended to, S new tokens."""

    fed: int
    attended: int
    new: int


@dataclass(frozen=True)
class Cost:
    """What a pass costs, so that a window's shape gives the rest.

    Attributes:
        fed: a token fed.
        pair: a pair of a token fed and a position attended to.
        new: a new token.
        once: whatever the window.
        attended: a position attended to.
    """

    fed: int = 0
    pair: int = 0
    new: int = 0
    once: int = 0
    attended: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.fed + other.fed,
            self.pair + other.pair,
            self.new + other.new,
            self.once + other.once,
            self.attended + other.attended,
        )

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.fed * times, self.pair * times, self.new * times, self.once * times, self.attended * times)

    def of(self, shape: Shape, times: int = 1) -> int:
        """Return the cost of a window, whose pass is made in so many parts that what is there once is there for each.

        Example:
            >>> Cost(fed=10, pair=2, new=5).of(Shape(fed=4, attended=8, new=4))
            124
            >>> Cost(new=5, once=7).of(Shape(fed=4, attended=8, new=4), times=2)
            34
        """
        tokens = self.fed * shape.fed + self.attended * shape.attended + self.new * shape.new
        return tokens + self.pair * shape.fed * shape.attended + self.once * times


@dataclass(frozen=True)
class Product:
    """Products of an M x I by an I x O matrix in each of some heads, and those of the same three sizes, in any order.

    Attributes:
        rows: M: the tokens `fed`, the `new` ones, which are the head's, or a number.
        inner: I.
        outer: O; 0 for the positions attended to.
        forward: how many the forward pass makes.
        backward: how many the backward pass makes.
        heads: how many times over each is made.
        added: numbers that each forward one is added to: a bias, or an output.
    """

    rows: Literal["fed", "new"] | int
    inner: int
    outer: int
    forward: int
    backward: int
    heads: int = 1
    added: Cost = Cost()

    def over_rows(self, each: int) -> Cost:
        """Return what every row costs."""
        return Cost(once=each * self.rows) if isinstance(self.rows, int) else Cost(**{self.rows: each})


@dataclass(frozen=True)
class Applied:
    """A linear map as the forward pass applies it.

    Attributes:
        name: its path in the model.
        module: a linear map, or one with a LoRA around it.
        asks: whether its input asks for a gradient, because something below it learns.
        gives: whether its output does.
    """

    name: str
    module: Any
    asks: bool
    gives: bool


def products_of(memory: WeightMemory) -> Iterator[Product]:
    """Yield all products of a window's passes."""
    model = memory.language_model.model
    applied, head = applied_maps(memory), model.get_output_embeddings()
    for one in applied:
        yield from map_products(one, "new" if one.module is head else "fed")
    yield from attentions(model, applied)


def applied_maps(memory: WeightMemory) -> list[Applied]:
    """Return the linear maps that a forward pass applies, in its order, seen in one over a few tokens."""
    model, handles = memory.language_model.model, []
    found: list[Applied] = []

    def seen(name: str) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if not inputs or inputs[0].shape[:-1].numel() != TOKENS:
                refuse(model, f"{name} is not applied to every token")
            found.append(Applied(name, module, inputs[0].requires_grad, output.requires_grad))

        return hook

    for name, module in maps_within(model, model):
        handles.append(module.register_forward_hook(seen(name)))
    try:
        with torch.enable_grad():
            ids = torch.full((1, TOKENS), memory.language_model.bos, device=memory.language_model.device)
            model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found


def maps_within(model: Any, module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield linear maps by name; one with a LoRA around it is one map."""
    if isinstance(module, nn.Linear | Conv1D) or hasattr(module, "lora_A"):
        yield path, module
        return
    if not isinstance(module, nn.Embedding) and any(p.ndim > 1 for p in module.parameters(recurse=False)):
        refuse(model, f"{path} ({type(module).__name__}) is no linear map")
    for name, child in module.named_children():
        yield from maps_within(model, child, f"{path}.{name}" if path else name)


def size_of(module: Any) -> tuple[int, int]:
    """Return the inputs and outputs of a map, or of the one that a LoRA is around."""
    base = getattr(module, "base_layer", module)
    return (base.nx, base.nf) if isinstance(base, Conv1D) else (base.in_features, base.out_features)


def map_products(applied: Applied, rows: Literal["fed", "new"]) -> Iterator[Product]:
    """Yield the products of a map and of its LoRA."""
    module, (inputs, outputs) = applied.module, size_of(applied.module)
    base = getattr(module, "base_layer", module)
    bias = Cost(once=0 if base.bias is None else outputs)
    yield Product(rows, inputs, outputs, 1, base.weight.requires_grad + applied.asks, added=bias)
    in_place = getattr(module.forward, "__func__", None) is fast_forward
    for name, low in getattr(module, "lora_A", {}).items():
        rank = low.out_features
        yield Product(rows, inputs, rank, 1, 1 + applied.asks)
        up = Product(rows, rank, outputs, 1, 2)
        yield replace(up, added=up.over_rows(outputs)) if in_place else up
        if name in module.lora_variant:  # DoRA: for the norm, peft sends an identity through the LoRA
            yield Product(inputs, inputs, rank, 1, 0)
            yield Product(inputs, rank, outputs, 1, 0)


def attentions(model: Any, applied: list[Applied]) -> Iterator[Product]:
    """Yield the products of every attention: of queries with keys, and of the weights that it gives with values.

    The gradient of the weights that attention gives is wanted where that of the queries or keys is.
    """
    config, layers = model.config.get_text_config(), number_of_layers(model)
    heads = getattr(config, "num_attention_heads", 0)
    named = {name: module for name, module in model.named_modules() if type(module).__name__.endswith("Attention")}
    found = 0
    for name, module in named.items():
        mine = [one for one in applied if one.name.startswith(f"{name}.")]
        if not mine or any(other.startswith(f"{name}.") for other in named):
            continue  # of a part that reads no text, or around another
        found += 1
        single = getattr(module, "head_dim", None) or getattr(config, "head_dim", None)
        width = heads * single if single else config.hidden_size
        last = mine[-1]  # it takes what attention gives
        if size_of(last.module)[0] != width:
            refuse(model, f"{last.name} does not take the {width} outputs of the heads of {name}")
        gives = {one.name.rsplit(".", 1)[-1]: one.gives for one in mine}
        apart = [gives[f"{letter}_proj"] for letter in "qkv" if f"{letter}_proj" in gives]
        queries, keys, values = apart if len(apart) == 3 else [last.asks] * 3
        backward = (queries or keys) + queries + keys + values
        yield Product("fed", width // heads, 0, 2, backward, heads)
    if found != layers:
        refuse(model, f"it has {found} attentions in {layers} layers")


def refuse(model: Any, why: str) -> None:
    """Say what of a model cannot be counted."""
    raise DriftError(
        f"the operations of {model.config.model_type} are unknown, because {why}; count some windows with "
        f"driftlm.cost.summary.counted_flops."
    )
