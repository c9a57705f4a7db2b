"""Dynamic evaluation written a second time, slowly and straight from its definition, to compare the package with.

Nothing here imports the package. Terms, for a document `ids = [BOS, x1 ... xn]`, a context C and a stride S:

* window w scores the tokens at positions p ... min(p + S, n + 1) - 1 with p = 1 + w * S; every token once;
* overlapping: one plain forward on ids[max(0, p - 1 + S - C) : p - 1 + new], positions counted from 0 in the window;
* cached: the inputs are the tokens at positions p - 1 ... p - 2 + new; a token attends to itself and to earlier tokens
  back to position (p - 1) - (C - S). Keys and values of earlier windows are those made when these windows were read;
  no gradient reaches them. Positions are counted from the start of the document;
* the loss of a window is the mean of the negative log-likelihood (nats) over its new tokens.

Meant for at most a few thousand tokens, batch 1, CPU, float32.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

WindowKind = Literal["overlapping", "cached"]
Tensors = dict[str, Tensor]


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


def token_nats(logits: Tensor, targets: Sequence[int]) -> Tensor:
    """Nats of each target under its own row of logits, in float64."""
    return torch.stack(
        [torch.logsumexp(row, -1) - row[token] for row, token in zip(logits.double(), targets, strict=True)]
    )


# --------------------------------------------------------------------------------------------------------------------
# Nothing learned: one formula a token, and one forward a document


@torch.no_grad()
def static_overlapping(model: PreTrainedModel, ids: Sequence[int], context: int, stride: int) -> list[float]:
    """Nats per token of overlapping windows, each token from a forward of its own."""
    nats = []
    for target in range(1, len(ids)):
        position = 1 + (target - 1) // stride * stride
        left = max(0, position - 1 + stride - context)
        logits = model(input_ids=torch.tensor([ids[left:target]]), use_cache=False).logits[0, -1:]
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
# Forwards of one window, with a graph


class Forward(Protocol):
    """The model as it reads one document, window after window."""

    def new_document(self) -> None:
        """Forget the earlier windows."""

    def logits(self, ids: Sequence[int], position: int, new: int) -> Tensor:
        """(new, vocabulary) logits that predict ids[position : position + new]; windows come in order."""


def overlapping_inputs(ids: Sequence[int], position: int, new: int, context: int, stride: int) -> list[int]:
    """The tokens fed for the window that starts at `position`."""
    return list(ids[max(0, position - 1 + stride - context) : position - 1 + new])


class Overlapping:
    """The model's own forward on each window."""

    def __init__(self, model: PreTrainedModel, context: int, stride: int) -> None:
        self.model, self.context, self.stride = model, context, stride

    def new_document(self) -> None:
        """Nothing is carried over."""

    def logits(self, ids: Sequence[int], position: int, new: int) -> Tensor:
        """Logits of the new tokens."""
        inputs = overlapping_inputs(ids, position, new, self.context, self.stride)
        return self.model(input_ids=torch.tensor([inputs]), use_cache=False).logits[0, -new:]


def seen(queries: Tensor, keys: Tensor, oldest: int, sliding: int | None) -> Tensor:
    """Which key positions each query position may attend to, given the oldest position its window remembers."""
    mask = (keys[None, :] <= queries[:, None]) & (keys[None, :] >= oldest)
    if sliding is not None:
        mask &= keys[None, :] > queries[:, None] - sliding
    return mask


class Cached:
    """Any rotary model, its attention replaced by one that keeps every (rotated) key and value with its position.

    Nothing is ever trimmed: what a window may not see is masked, by position.
    """

    def __init__(self, model: PreTrainedModel, context: int, stride: int) -> None:
        self.model, self.kept = model, context - stride
        self.queries, self.oldest = torch.zeros(0, dtype=torch.long), 0
        self.memory: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        assert getattr(model.config, "attn_logit_softcapping", None) is None, "softcapped attention is not written here"
        for module in model.modules():
            if hasattr(module, "layer_idx") and hasattr(module, "scaling"):
                setattr(module, "reference_forward", [self])  # noqa: B010  # a type checker takes it for a submodule
            config: Any = getattr(module, "config", None)
            if config is not None:
                config._attn_implementation = "windowed_reference"

    def new_document(self) -> None:
        """Drop every key and value."""
        self.memory = {}

    def logits(self, ids: Sequence[int], position: int, new: int) -> Tensor:
        """Logits of the new tokens; their keys and values are remembered."""
        first = position - 1
        self.queries, self.oldest = torch.arange(first, first + new), first - self.kept
        inputs = torch.tensor([list(ids[first : first + new])])
        return self.model(input_ids=inputs, position_ids=self.queries[None], use_cache=False).logits[0]

    def attend(self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention of one layer: (1, heads, new, size) queries over all remembered and new keys."""
        layer: int = module.layer_idx  # type: ignore[assignment]
        positions = self.queries
        if layer in self.memory:
            old_positions, old_keys, old_values = self.memory[layer]
            positions = torch.cat([old_positions, positions])
            key = torch.cat([old_keys, key], dim=2)
            value = torch.cat([old_values, value], dim=2)
        self.memory[layer] = (positions, key.detach().clone(), value.detach().clone())
        config: Any = module.config
        layer_types = getattr(config, "layer_types", None)
        sliding = config.sliding_window if layer_types and layer_types[layer] == "sliding_attention" else None
        mask = seen(self.queries, positions, self.oldest, sliding)
        group = query.shape[1] // key.shape[1]
        heads = []
        for head in range(query.shape[1]):
            scores = query[0, head] @ key[0, head // group].T * scaling
            weights = torch.softmax(scores.masked_fill(~mask, -math.inf), dim=-1)
            heads.append(weights @ value[0, head // group])
        return torch.stack(heads, dim=1)[None]  # (1, new, heads, size), as transformers wants it


def _windowed_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    assert mask is None, "transformers must not have made a mask for an attention it does not know"
    holder: Any = module.reference_forward
    return holder[0].attend(module, query, key, value, scaling), None


ALL_ATTENTION_FUNCTIONS.register("windowed_reference", _windowed_attention)


class LlamaByHand:
    """A Llama written out in plain tensor operations; it takes the model's parameters and configuration, no code."""

    def __init__(self, model: PreTrainedModel, window: WindowKind, context: int, stride: int) -> None:
        assert isinstance(model, LlamaForCausalLM), f"{type(model).__name__} is not written out by hand, only Llama is"
        config: Any = model.config
        assert config.hidden_act == "silu" and config.rope_parameters["rope_type"] == "default"
        assert not config.attention_bias and not config.mlp_bias
        self.parameters = dict(model.named_parameters())
        self.layers: int = config.num_hidden_layers
        self.heads: int = config.num_attention_heads
        self.key_heads: int = config.num_key_value_heads
        self.size: int = config.head_dim
        self.norm_epsilon: float = config.rms_norm_eps
        self.rope_base = float(config.rope_parameters["rope_theta"])
        self.window, self.context, self.stride = window, context, stride
        # Per layer: (position, keys of all key heads, values of all key heads), a row for every token read.
        self.memory: list[list[tuple[int, Tensor, Tensor]]] = [[] for _ in range(self.layers)]

    def new_document(self) -> None:
        """Drop every key and value."""
        self.memory = [[] for _ in range(self.layers)]

    def logits(self, ids: Sequence[int], position: int, new: int) -> Tensor:
        """Logits of the new tokens."""
        if self.window == "overlapping":
            inputs = overlapping_inputs(ids, position, new, self.context, self.stride)
            self.new_document()
            return self.forward(inputs, first=0, oldest=0)[-new:]
        first = position - 1
        return self.forward(list(ids[first : first + new]), first, oldest=first - (self.context - self.stride))

    def forward(self, inputs: list[int], first: int, oldest: int) -> Tensor:
        """Logits after each input; inputs stand at positions first, first + 1, ... and see nothing before `oldest`."""
        get = self.parameters.__getitem__
        embedding = get("model.embed_tokens.weight")
        x = embedding[torch.tensor(inputs)]
        for layer in range(self.layers):
            name = f"model.layers.{layer}."
            normed = self.norm(x, get(name + "input_layernorm.weight"))
            x = x + self.attention(normed, layer, first, oldest) @ get(name + "self_attn.o_proj.weight").T
            normed = self.norm(x, get(name + "post_attention_layernorm.weight"))
            gate = normed @ get(name + "mlp.gate_proj.weight").T
            up = normed @ get(name + "mlp.up_proj.weight").T
            x = x + (gate * torch.sigmoid(gate) * up) @ get(name + "mlp.down_proj.weight").T
        tied = "lm_head.weight" not in self.parameters
        return self.norm(x, get("model.norm.weight")) @ (embedding if tied else get("lm_head.weight")).T

    def attention(self, x: Tensor, layer: int, first: int, oldest: int) -> Tensor:
        """Rotary grouped-query attention of one layer, before its output matrix."""
        name = f"model.layers.{layer}.self_attn."
        queries = (x @ self.parameters[name + "q_proj.weight"].T).view(len(x), self.heads, self.size)
        keys = (x @ self.parameters[name + "k_proj.weight"].T).view(len(x), self.key_heads, self.size)
        values = (x @ self.parameters[name + "v_proj.weight"].T).view(len(x), self.key_heads, self.size)
        now = [
            (first + row, self.rotate(keys[row], first + row), values[row]) for row in range(len(x))
        ]  # this window's, with their graph
        reachable = [entry for entry in self.memory[layer] + now if entry[0] >= oldest]
        outputs = []
        for row in range(len(x)):
            visible = [entry for entry in reachable if entry[0] <= first + row]
            query = self.rotate(queries[row], first + row)
            all_keys, all_values = torch.stack([e[1] for e in visible]), torch.stack([e[2] for e in visible])
            for head in range(self.heads):
                key_head = head * self.key_heads // self.heads
                weights = torch.softmax(all_keys[:, key_head] @ query[head] / math.sqrt(self.size), dim=0)
                outputs.append(weights @ all_values[:, key_head])
        self.memory[layer] += [(position, key.detach(), value.detach()) for position, key, value in now]
        return torch.cat(outputs).view(len(x), self.heads * self.size)

    def rotate(self, vectors: Tensor, position: int) -> Tensor:
        """Turn the pairs (j, j + size/2) of each head by position * base^(-2j / size)."""
        half = self.size // 2
        angles = position * self.rope_base ** (-2.0 * torch.arange(half, dtype=torch.float64) / self.size)
        cosine, sine = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
        left, right = vectors[..., :half], vectors[..., half:]
        return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Root-mean-square normalisation."""
        return weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.norm_epsilon)


def make_forward(model: PreTrainedModel, window: WindowKind, context: int, stride: int, by_hand: bool) -> Forward:
    """The forward of a window kind; `by_hand` asks for the written-out Llama."""
    if by_hand:
        return LlamaByHand(model, window, context, stride)
    return Overlapping(model, context, stride) if window == "overlapping" else Cached(model, context, stride)


# --------------------------------------------------------------------------------------------------------------------
# Update rules: `step` changes the parameters in place


class Rule(Protocol):
    """One way to step against a gradient."""

    def step(self, parameters: Tensors, gradients: Tensors) -> None:
        """Change the parameters in place."""


class Sgd:
    """b <- momentum * b + g; theta <- theta - lr * b."""

    def __init__(self, lr: float, momentum: float = 0.0) -> None:
        self.lr, self.momentum = lr, momentum
        self.buffers: Tensors = {}

    @torch.no_grad()
    def step(self, parameters: Tensors, gradients: Tensors) -> None:
        """Change the parameters in place."""
        for name, parameter in parameters.items():
            before = self.buffers.get(name, torch.zeros_like(parameter))
            self.buffers[name] = self.momentum * before + gradients[name]
            parameter.copy_(parameter - self.lr * self.buffers[name])


class Adam:
    """Adam with bias correction, betas 0.9 and 0.999, no weight decay."""

    def __init__(self, lr: float, epsilon: float = 1e-8) -> None:
        self.lr, self.epsilon, self.steps = lr, epsilon, 0
        self.first: Tensors = {}
        self.second: Tensors = {}

    @torch.no_grad()
    def step(self, parameters: Tensors, gradients: Tensors) -> None:
        """Change the parameters in place."""
        self.steps += 1
        for name, parameter in parameters.items():
            gradient, zeros = gradients[name], torch.zeros_like(parameter)
            self.first[name] = 0.9 * self.first.get(name, zeros) + 0.1 * gradient
            self.second[name] = 0.999 * self.second.get(name, zeros) + 0.001 * gradient * gradient
            mean = self.first[name] / (1 - 0.9**self.steps)
            square = self.second[name] / (1 - 0.999**self.steps)
            parameter.copy_(parameter - self.lr * mean / (torch.sqrt(square) + self.epsilon))


class Rms:
    """theta <- theta + decay * min(R, 1/decay) * (theta0 - theta) - lr * g / (RMS + epsilon).

    R = RMS / (unweighted mean, over the tensors of `statistics`, of each tensor's mean RMS).
    """

    def __init__(self, lr: float, decay: float, epsilon: float, statistics: Tensors, prior: Tensors) -> None:
        self.lr, self.decay, self.epsilon = lr, decay, epsilon
        self.statistics = statistics
        self.prior = {name: tensor.detach().clone() for name, tensor in prior.items()}
        means = [float(tensor.double().mean()) for tensor in statistics.values()]
        self.scale = sum(means) / len(means)

    @torch.no_grad()
    def step(self, parameters: Tensors, gradients: Tensors) -> None:
        """Change the parameters in place."""
        for name, parameter in parameters.items():
            rms = self.statistics[name]
            ratio = rms / self.scale
            bound = 1 / self.decay if self.decay > 0 else math.inf
            pull = self.decay * torch.minimum(ratio, torch.full_like(ratio, bound)) * (self.prior[name] - parameter)
            parameter.copy_(parameter + pull - self.lr * gradients[name] / (rms + self.epsilon))


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
    forward = make_forward(model, window, context, stride, by_hand)

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
) -> Tensors:
    """RMS = sqrt(mean over windows of g^2), g the gradient of one window's mean loss; nothing is learned meanwhile."""
    model = copy.deepcopy(model).eval()
    parameters = trainable(model, learn)
    forward = make_forward(model, window, context, stride, by_hand)
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
