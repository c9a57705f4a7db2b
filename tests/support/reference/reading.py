"""Dynamic evaluation written a second time, slowly and straight from its definition, to compare the package with.

Nothing here imports the package. Terms, for a document `ids = [BOS, x1 ... xn]`, a context C and a stride S:

* window w scores the tokens at positions p ... min(p + S, n + 1) - 1 with p = 1 + w * S; every token once;
* overlapping: one plain forward on ids[max(0, p - 1 + S - C) : p - 1 + new], positions counted from 0 in the window;
* cached: the inputs are the tokens at positions p - 1 ... p - 2 + new; a token attends to itself and to earlier tokens
  back to position (p - 1) - (C - S). Keys and values of earlier windows are those made when these windows were read;
  no gradient reaches them. Positions are counted from the start of the document;
* a sink of n: the first n tokens of the document stand at the left of every window that does not hold them; in cached
  windows they are read anew before each, by the weights as they are and without a gradient, at the positions just
  before the oldest that the window may see;
* the loss of a window is the mean of the negative log-likelihood (nats) over its new tokens.

Meant for at most a few thousand tokens, batch 1, CPU, float32.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.support.reference.forward import (
    Cached,
    LlamaByHand,
    Overlapping,
    Tensors,
    WindowKind,
    make_forward,
    overlapping_inputs,
    token_nats,
)
from tests.support.reference.rules import Adam, Rms, Rule, Sgd

__all__ = [
    "Adam",
    "Cached",
    "LlamaByHand",
    "Overlapping",
    "Rms",
    "Sgd",
    "Tensors",
    "WindowKind",
    "band_mask",
    "grid",
    "overlapping_inputs",
    "read",
    "static_cached_banded",
    "static_overlapping",
    "statistics",
    "token_nats",
]


@dataclass
class Reading:
    """What came out of reading a stream."""

    nats: list[float] = field(default_factory=list)  # one number a token, documents one after the other
    documents: list[list[float]] = field(default_factory=list)  # the same numbers, document by document
    windows: list[tuple[int, int, int]] = field(default_factory=list)  # (document, position p, number of new tokens)
    updated: list[int] = field(default_factory=list)  # stream-wide indices of the windows after which a step was taken
    parameters: Tensors = field(default_factory=dict)  # after the last document, before the reset that may follow it

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


# --------------------------------------------------------------------------------------------------------------------
# The grid


def grid(tokens: int, stride: int) -> Iterator[tuple[int, int]]:
    """(position of the first new token, number of new tokens) of each window of a document of `tokens` after BOS."""
    position = 1
    while position <= tokens:
        yield position, min(stride, tokens + 1 - position)
        position += stride


# --------------------------------------------------------------------------------------------------------------------
# Nothing learned: one formula a token, and one forward a document


@torch.no_grad()
def static_overlapping(
    model: PreTrainedModel, ids: Sequence[int], context: int, stride: int, sink: int = 0
) -> list[float]:
    """Nats per token of overlapping windows, each token from a forward of its own."""
    nats = []
    for target in range(1, len(ids)):
        position = 1 + (target - 1) // stride * stride
        left = max(0, position - 1 + stride - context)
        inputs = [*ids[: min(sink, left)], *ids[left:target]]
        logits = model(input_ids=torch.tensor([inputs]), use_cache=False).logits[0, -1:]
        nats.append(float(token_nats(logits, [ids[target]])))
    return nats


def band_mask(length: int, context: int, stride: int, sliding: int | None = None) -> Tensor:
    """The (length, length) boolean mask of cached windows, True where the row's token sees the column's."""
    mask = torch.zeros(length, length, dtype=torch.bool)
    for row in range(length):
        first_input = row // stride * stride
        oldest = max(0, first_input - (context - stride))
        for column in range(oldest, row + 1):
            mask[row, column] = sliding is None or column > row - sliding
    return mask


@torch.no_grad()
def static_cached_banded(model: PreTrainedModel, ids: Sequence[int], context: int, stride: int) -> list[float]:
    """Nats per token of cached windows from one forward over the document under the block-banded mask."""
    length = len(ids) - 1
    if length == 0:
        return []
    lowest = torch.finfo(torch.float32).min

    def additive(sliding: int | None) -> Tensor:
        return torch.zeros(1, 1, length, length).masked_fill(~band_mask(length, context, stride, sliding), lowest)

    config = model.config
    mask: Any = additive(None)
    if getattr(config, "layer_types", None) is not None:
        mask = {"full_attention": mask}
        if "sliding_attention" in config.layer_types:
            mask["sliding_attention"] = additive(config.sliding_window)
    logits = model(input_ids=torch.tensor([list(ids[:-1])]), attention_mask=mask, use_cache=False).logits[0]
    return [float(value) for value in token_nats(logits, ids[1:])]


# --------------------------------------------------------------------------------------------------------------------
# The loop


def gradient(loss: Tensor, parameters: Mapping[str, Tensor]) -> Tensors:
    """Gradient of the loss for each parameter by name, zero where the loss does not depend on it."""
    values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if value is None else value
        for (name, parameter), value in zip(parameters.items(), values, strict=True)
    }


def as_documents(ids: Sequence[int] | Sequence[Sequence[int]]) -> list[list[int]]:
    """One document or several, as several."""
    if ids and not isinstance(ids[0], int):
        return [list(document) for document in ids]  # type: ignore[arg-type]
    return [list(ids)]  # type: ignore[arg-type]


def trainable(model: PreTrainedModel, learn: Sequence[str] | Literal["all"] | None) -> Tensors:
    """The parameters to change, by name; every other one is frozen."""
    named = dict(model.named_parameters())
    names = list(named) if learn == "all" else list(learn or [])
    for name, parameter in named.items():
        parameter.requires_grad_(name in names)
    return {name: named[name] for name in names}


def read(
    model: PreTrainedModel,
    ids: Sequence[int] | Sequence[Sequence[int]],
    *,
    context: int,
    stride: int,
    window: WindowKind = "overlapping",
    sink: int = 0,
    learn: Sequence[str] | Literal["all"] | None = None,
    rule: Literal["sgd", "adam", "rms"] = "sgd",
    lr: float = 0.0,
    every: int = 1,
    cadence: Literal["skip", "accumulate"] = "skip",
    momentum: float = 0.0,
    decay: float = 0.0,
    epsilon: float | None = None,
    statistics: Tensors | None = None,
    reset: Literal["never", "document"] = "never",
    by_hand: bool = False,
) -> Reading:
    """Score, then learn, window after window, on a deep copy of the model.

    `ids` is one document `[BOS, x1 ... xn]` or a list of them. `epsilon` is 1e-8 for Adam; RMS needs it and
    `statistics`. A step is taken after the windows k, 2k, ... of the stream (k = `every`; a reset starts the count
    again): from that window alone (skip), or from the token-weighted mean of the gradients since the last step
    (accumulate), whose leftovers are stepped at the end of each document. The count runs on past such a step.
    """
    assert 1 <= stride <= context and every >= 1
    assert decay == 0 or rule == "rms", "only the RMS rule decays to the prior"
    assert momentum == 0 or rule == "sgd", "only SGD has momentum"
    model = copy.deepcopy(model).eval()
    parameters = trainable(model, learn)
    prior = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    forward = make_forward(model, window, context, stride, sink, by_hand)

    def new_rule() -> Rule:
        if rule == "sgd":
            return Sgd(lr, momentum)
        if rule == "adam":
            return Adam(lr, 1e-8 if epsilon is None else epsilon)
        assert statistics is not None and epsilon is not None, "the RMS rule needs statistics and epsilon"
        return Rms(lr, decay, epsilon, statistics, prior)

    stepper = new_rule()
    reading = Reading()
    count = 0
    for number, document in enumerate(as_documents(ids)):
        if number > 0 and reset == "document":
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(prior[name])
            stepper, count = new_rule(), 0
        forward.new_document()
        reading.documents.append([])
        pending: list[tuple[int, Tensors]] = []  # (new tokens, gradient) of the windows since the last step
        for position, new in grid(len(document) - 1, stride):
            count += 1
            reading.windows.append((number, position, new))
            with torch.set_grad_enabled(bool(parameters)):
                nats = token_nats(forward.logits(document, position, new), document[position : position + new])
            reading.documents[-1] += nats.tolist()
            due = count % every == 0
            if parameters and (due or cadence == "accumulate"):
                pending.append((new, gradient(nats.mean(), parameters)))
            last = position + new == len(document)
            if pending and (due or last):
                tokens = sum(weight for weight, _ in pending)
                mean = {name: sum(w * g[name] for w, g in pending) / tokens for name in parameters}
                stepper.step(parameters, mean)  # type: ignore[arg-type]
                reading.updated.append(len(reading.windows) - 1)
                pending = []
        reading.nats += reading.documents[-1]
    reading.parameters = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return reading


def statistics(
    model: PreTrainedModel,
    ids: Sequence[int] | Sequence[Sequence[int]],
    window: WindowKind,
    context: int,
    stride: int,
    learn: Sequence[str] | Literal["all"] = "all",
    by_hand: bool = False,
    sink: int = 0,
) -> Tensors:
    """RMS = sqrt(mean over windows of g^2), g the gradient of one window's mean loss; nothing is learned meanwhile."""
    model = copy.deepcopy(model).eval()
    parameters = trainable(model, learn)
    forward = make_forward(model, window, context, stride, sink, by_hand)
    squares = {name: torch.zeros_like(parameter, dtype=torch.float64) for name, parameter in parameters.items()}
    windows = 0
    for document in as_documents(ids):
        forward.new_document()
        for position, new in grid(len(document) - 1, stride):
            nats = token_nats(forward.logits(document, position, new), document[position : position + new])
            for name, value in gradient(nats.mean(), parameters).items():
                squares[name] += value.double() ** 2
            windows += 1
    assert windows > 0, "no window to take a gradient of"
    return {name: torch.sqrt(total / windows).to(parameters[name].dtype) for name, total in squares.items()}
