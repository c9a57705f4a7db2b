"""What tests of a memory in weights take apart: its state by parts, its forward passes, and its steps done by hand."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from driftlm import WeightMemory, Windows
from driftlm.streams.windows import Window, split
from tests.support.build import language_model, numbers, spelled, weight_memory
from tests.support.families import random_ids

Values = dict[str, Tensor]
RATE = 0.05
RULES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum": {"momentum": 0.8},
    "adam": {"rule": "adam", "learning_rate": 2e-3},
}
WRONG, NOT_A_NUMBER = -6.0, math.nan  # scales of the last norm: sure of the wrong tokens, no finite logit


def memory_of(window: Any = "overlapping", family: str = "llama", stride: int = 8, **learning: Any) -> WeightMemory:
    return weight_memory(family, Windows(window, 16, stride, sink=0), **{"learning_rate": RATE} | learning)


def windows_of(memory: WeightMemory, length: int, name: str = "d", seed: int = 0) -> list[Window]:
    return list(split(name, *numbers(spelled(random_ids(length, seed)[1:]).text), memory.windows))


def read(memory: WeightMemory, windows: Sequence[Window]) -> Tensor:
    """Score and learn."""
    nats = []
    for window in windows:
        nats.append(memory.score(window))
        memory.learn(window)
    return torch.cat(nats)


def group(memory: WeightMemory, name: str) -> Values:
    """The tensors of a part of the memory's state: parameters, gradients, rule, cache or guard."""
    held = memory.state().tensors.items()
    return {key.removeprefix(f"{name}/"): value for key, value in held if key.startswith(f"{name}/")}


def same(one: Values, other: Values) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def rate_of(memory: WeightMemory) -> float:
    return float(memory.state().values["learning_rate"])


def passes(memory: WeightMemory) -> list[bool]:
    """A list that grows by every forward pass: whether it built a graph."""
    seen: list[bool] = []
    body = memory.language_model.model.base_model
    body.register_forward_hook(lambda module, inputs, output: seen.append(bool(output[0].requires_grad)))
    return seen


def stepping(memory: WeightMemory, windows: Sequence[Window]) -> list[bool]:
    """After which windows the parameters are others than before."""
    moved = []
    for window in windows:
        before = group(memory, "parameters")
        read(memory, [window])
        moved.append(not same(group(memory, "parameters"), before))
    return moved


def stepped(values: Values, windows: Sequence[Window], rate: float = RATE) -> Values:
    """By hand: θ − η·(Σ over the windows of the gradient of their summed nats) / (their new tokens)."""
    model = language_model("llama").model
    learned = dict(model.named_parameters())
    for name, parameter in learned.items():
        parameter.data = values[name].clone()
    for window in windows:
        logits = model(input_ids=torch.tensor([window.inputs])).logits[0, -window.new :]
        F.cross_entropy(logits, torch.tensor(window.targets), reduction="sum").backward()
    tokens = sum(window.new for window in windows)
    return {name: p.detach() - rate * p.grad / tokens for name, p in learned.items() if p.grad is not None}


def close(one: Values, other: Values) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[key], other[key], atol=2e-7) for key in one)


def scale_last_norm(memory: WeightMemory, factor: float) -> Tensor:
    """Ruin the parameters as they stand, not the prior; hands back what the norm was."""
    norm = memory.language_model.model.model.norm.weight
    kept: Tensor = norm.data.clone()
    norm.data.mul_(factor)
    return kept


def put_last_norm(memory: WeightMemory, values: Tensor) -> None:
    memory.language_model.model.model.norm.weight.data.copy_(values)


def kinds(memory: WeightMemory) -> list[str]:
    return [event.kind for event in memory.events]
