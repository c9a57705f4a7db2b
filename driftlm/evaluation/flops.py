"""Floating-point operations of reading, by formula: what a window costs is read off its shape.

A linear map of I inputs and O outputs takes 2 I O operations a token forward, 2 I O for the gradient of its weight
where that learns, and 2 I O for that of its input where something below it learns. Attention whose heads are W wide
together takes 4 W forward for each pair of a token fed and a position attended to, and up to 8 W backward. Pairs that
a mask (a sliding window is one) hides are multiplied like the others. Elementwise work is left out, but for the rule's
step; so are the guard's own looks at the prior, and the static model that a run is compared with.

Letters: T tokens fed, K positions attended to (the T and those in the cache), S new tokens, R rank.
Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", sec. 2.1; here with attention in full and the
backward pass through the trainable part alone.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from driftlm.errors import DriftError
from driftlm.models.scoring import KEPT_LOGITS
from driftlm.models.trainable import number_of_layers
from driftlm.streams.windows import Windows
from driftlm.weights.dynamic import WeightMemory
from driftlm.weights.learning import Learning
from driftlm.weights.mixture import MixtureMemory

TOKENS = 3  # of the forward pass that shows which map is applied to what
# Operations a parameter: Adam's are lerp 3, v 1 + 3, square root, two divisions, epsilon, division and sum.
STEPS = {"sgd": 2, "adam": 13, "rms": 3}


@dataclass(frozen=True)
class Shape:
    """What a window costs by: T tokens fed, K positions attended to, S new tokens."""

    fed: int
    attended: int
    new: int


def full_shape(windows: Windows) -> Shape:
    """Of a window in the middle of a long document: all its new tokens are there, and all its context.

    Example:
        >>> full_shape(Windows("cached", context=512, stride=128))
        Shape(fed=128, attended=512, new=128)
    """
    fed = windows.stride if windows.window == "cached" else windows.context
    return Shape(fed, windows.context, windows.stride)


@dataclass(frozen=True)
class Products:
    """Operations of a pass that hold for every window: a token fed, a pair (T x K), a new token, and a pass."""

    fed: int = 0
    pair: int = 0
    new: int = 0
    once: int = 0

    def __add__(self, other: "Products") -> "Products":
        return Products(self.fed + other.fed, self.pair + other.pair, self.new + other.new, self.once + other.once)

    def of(self, shape: Shape) -> int:
        """Operations of a window.

        Example:
            >>> Products(fed=10, pair=2, new=5).of(Shape(fed=4, attended=8, new=4))
            124
        """
        return self.fed * shape.fed + self.pair * shape.fed * shape.attended + self.new * shape.new + self.once


@dataclass(frozen=True)
class Formula:
    """What a memory's windows and steps cost.

    Attributes:
        forward: of every window.
        backward: of a window that is learned from.
        step: elementwise operations of an update.
        kept: new tokens up to which the head's products are kept for the backward pass; of more, it makes them again.
        head: operations of the head a new token.
    """

    forward: Products
    backward: Products
    step: int
    kept: int
    head: int

    def score(self, shape: Shape) -> int:
        """Matrix products and attention of a window's forward pass."""
        return self.forward.of(shape)

    def learn(self, shape: Shape) -> int:
        """Those of its backward pass, where it is learned from."""
        return self.backward.of(shape) + (self.head * shape.new if shape.new > self.kept else 0)


@dataclass(frozen=True)
class Flops:
    """Operations of a run.

    Attributes:
        products: matrix products and attention.
        steps: elementwise, of the rule's updates.
    """

    products: int
    steps: int

    @property
    def total(self) -> int:
        """Both."""
        return self.products + self.steps


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


def formula_of(memory: WeightMemory) -> Formula:
    """Walk a memory's model once.

    Raises:
        DriftError: for a model or a setting whose operations are unknown.

    Example:
        >>> from driftlm import Learning
        >>> formula = formula_of(WeightMemory(learning=Learning(learn="none")))
        >>> formula.score(Shape(512, 512, 512)) // 512  # a token
        13500416
    """
    model, learning = memory.language_model.model, memory.learning
    if learning.salience == "camels":
        raise DriftError("--salience camels reads with a network of its own, whose operations are not counted here.")
    head = model.get_output_embeddings()
    applied = applied_maps(memory)
    forward, backward = Products(), Products()
    for one in applied:
        there, back, once = map_products(one)
        if one.module is head:
            forward, backward = forward + Products(new=there), backward + Products(new=back)
        else:
            forward, backward = forward + Products(fed=there, once=once), backward + Products(fed=back)
    for there, back in attentions(model, applied):
        forward, backward = forward + Products(pair=there), backward + Products(pair=back)
    learned = sum(parameter.numel() for parameter in memory.parameters)
    kept = max(1, KEPT_LOGITS // head.weight.shape[0]) if memory.scorer.plain_head else 1 << 62
    return Formula(forward, backward, learned * step_of(learning) if learned else 0, kept, 2 * head.weight.numel())


def step_of(learning: Learning) -> int:
    """Elementwise operations of an update, for each parameter.

    Example:
        >>> step_of(Learning(rule="sgd", momentum=0.9))
        4
    """
    if learning.rule not in STEPS:
        raise DriftError(f"--rule {learning.rule} is another package's, whose operations are not counted here.")
    momentum = 2 if learning.rule == "sgd" and learning.momentum else 0
    pull = 3 if learning.rule == "rms" and learning.decay else 0
    mean = 1 if learning.cadence == "accumulate" and learning.every > 1 else 0
    return STEPS[learning.rule] + momentum + pull + mean


# ---- the model's maps and attentions --------------------------------------------------------------------------------


def applied_maps(memory: WeightMemory) -> list[Applied]:
    """The linear maps that a forward pass applies, in its order, seen in one over a few tokens."""
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
    """Linear maps by name; one with a LoRA around it is one map."""
    if isinstance(module, nn.Linear | Conv1D) or hasattr(module, "lora_A"):
        yield path, module
        return
    if not isinstance(module, nn.Embedding) and any(p.ndim > 1 for p in module.parameters(recurse=False)):
        refuse(model, f"{path} ({type(module).__name__}) is no linear map")
    for name, child in module.named_children():
        yield from maps_within(model, child, f"{path}.{name}" if path else name)


def size_of(module: Any) -> tuple[int, int]:
    """Inputs and outputs of a map, or of the one that a LoRA is around."""
    base = getattr(module, "base_layer", module)
    return (base.nx, base.nf) if isinstance(base, Conv1D) else (base.in_features, base.out_features)


def map_products(applied: Applied) -> tuple[int, int, int]:
    """Operations of a map a token, forward and backward, and those of a forward pass whatever its tokens."""
    module, (inputs, outputs) = applied.module, size_of(applied.module)
    there = 2 * inputs * outputs
    back = there * (getattr(module, "base_layer", module).weight.requires_grad + applied.asks)
    once = 0
    for name, low in getattr(module, "lora_A", {}).items():
        rank = low.out_features
        there += 2 * rank * (inputs + outputs)
        back += 2 * rank * ((1 + applied.asks) * inputs + 2 * outputs)
        if name in module.lora_variant:  # DoRA: for the norm, peft sends an identity through the LoRA
            once += 2 * rank * inputs * (inputs + outputs)
    return there, back, once


def attentions(model: Any, applied: list[Applied]) -> Iterator[tuple[int, int]]:
    """Operations of every attention for a pair of tokens, forward and backward.

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
        yield 4 * width, 2 * width * ((queries or keys) + queries + keys + values)
    if found != layers:
        refuse(model, f"it has {found} attentions in {layers} layers")


def refuse(model: Any, why: str) -> None:
    """Say what of a model cannot be counted."""
    raise DriftError(
        f"the operations of {model.config.model_type} are unknown, because {why}; count some windows with "
        f"driftlm.evaluation.cost.counted_flops."
    )


# ---- a run ----------------------------------------------------------------------------------------------------------


def flops_of(memory: WeightMemory | MixtureMemory, log: Path) -> Flops:
    """What a run took, from the windows in its log; not the static model it was compared with.

    Learned from is a window behind which the updates rose; with `accumulate`, one where the guard did not step in.
    Experts of a mixture are alike but for rule and rate, and one that went back counts as if it had kept its cache.

    Args:
        memory: as it stands behind the last window.
        log: windows.jsonl of the run, complete.

    Raises:
        DriftError: for a model or a setting whose operations are unknown.
    """
    readers = [memory.frozen, *memory.active] if isinstance(memory, MixtureMemory) else [memory]
    formulas = [formula_of(one) for one in readers]
    products = sum(
        count * (sum(formula.score(shape) for formula in formulas) + learned * formulas[-1].learn(shape))
        for (shape, learned), count in Counter(shapes_read(readers, memory.counts.updates, log)).items()
    )
    steps = sum(formula.step * one.counts.updates for formula, one in zip(formulas, readers, strict=True))
    return Flops(products, steps)


def shapes_read(readers: Sequence[WeightMemory], updates: int, log: Path) -> Iterator[tuple[Shape, int]]:
    """The shape of every window of a log, and how many of the readers learned from it.

    Args:
        readers: of the same windows.
        updates: of all of them, behind the last window.
        log: windows.jsonl.
    """
    grid, learning = readers[-1].windows, readers[-1].learning
    learners = sum(bool(one.parameters) for one in readers)
    held, waiting, done = 0, None, 0  # positions in the cache; the window whose updates the next line tells
    with log.open("rb") as file:
        for line in map(json.loads, file):
            if waiting is not None:
                yield waiting[0], line["updates"] - done if learning.cadence == "skip" else waiting[1]
            new, before, done = line["tokens"], line["position"] - 1, line["updates"]
            guarded = {event["message"].partition(": ")[0] for event in line["events"]}  # an expert's name
            if grid.window == "cached":
                held = held if line["index"] else 0
                shape = Shape(new, held + new, new)
                went_back = len(readers) == 1 and any(event["kind"] == "rollback" for event in line["events"])
                held = 0 if went_back else min(held + new, grid.context - grid.stride)
            else:
                fed = before + new - max(0, before + grid.stride - grid.context)
                shape = Shape(fed, fed, new)
            waiting = shape, max(0, learners - len(guarded))
    if waiting is not None:
        yield waiting[0], updates - done if learning.cadence == "skip" else waiting[1]


def summarized(memory: WeightMemory | MixtureMemory, log: Path, tokens: int) -> dict[str, Any]:
    """What a summary says of a run's operations: in all, those of the rule's steps among them, and in all a token.

    Where they are unknown they are None, and `flops_unknown` says why.
    """
    try:
        flops = flops_of(memory, log)
    except DriftError as error:
        return dict.fromkeys(("flops", "flops_steps", "flops_per_token")) | {"flops_unknown": str(error)}
    return {"flops": flops.total, "flops_steps": flops.steps, "flops_per_token": flops.total / tokens}
