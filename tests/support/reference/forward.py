"""Forwards of one window with a graph, for the independent reference; one of them a Llama by hand."""

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

WindowKind = Literal["overlapping", "cached"]
Tensors = dict[str, Tensor]


def token_nats(logits: Tensor, targets: Sequence[int]) -> Tensor:
    """Nats of each target under its own row of logits, in float64."""
    return torch.stack(
        [torch.logsumexp(row, -1) - row[token] for row, token in zip(logits.double(), targets, strict=True)]
    )


class Forward(Protocol):
    """The model as it reads one document, window after window."""

    def new_document(self) -> None:
        """Forget the earlier windows."""

    def logits(self, ids: Sequence[int], position: int, new: int) -> Tensor:
        """(new, vocabulary) logits that predict ids[position : position + new]; windows come in order."""


def overlapping_inputs(ids: Sequence[int], position: int, new: int, context: int, stride: int) -> list[int]:
    """The tokens fed for the window that starts at `position`, without its sink."""
    return list(ids[max(0, position - 1 + stride - context) : position - 1 + new])


def sink_before(ids: Sequence[int], oldest: int, sink: int) -> list[int]:
    """The first tokens of a document that a window does not hold whose oldest token stands at `oldest`."""
    return list(ids[: max(0, min(sink, oldest))])


class Overlapping:
    """The model's own forward on each window."""

    def __init__(self, model: PreTrainedModel, context: int, stride: int, sink: int) -> None:
        self.model, self.context, self.stride, self.sink = model, context, stride, sink

    def new_document(self) -> None:
        """Nothing is carried over."""

    def logits(self, ids: Sequence[int], position: int, new: int) -> Tensor:
        """Logits of the new tokens."""
        inputs = overlapping_inputs(ids, position, new, self.context, self.stride)
        inputs = sink_before(ids, position - 1 + self.stride - self.context, self.sink) + inputs
        return self.model(input_ids=torch.tensor([inputs]), use_cache=False).logits[0, -new:]


def seen(queries: Tensor, keys: Tensor, oldest: int, sliding: int | None) -> Tensor:
    """Which key positions each query position may attend to, given the oldest position its window remembers."""
    mask = (keys[None, :] <= queries[:, None]) & (keys[None, :] >= oldest)
    if sliding is not None:
        mask &= keys[None, :] > queries[:, None] - sliding
    return mask


class Cached:
    """Any rotary model, its attention replaced by one that keeps every (rotated) key and value with its position.

    Nothing is ever trimmed: what a window may not see is masked, by position. The sink is read before every window
    anew, at the positions before the oldest one that it may see, and remembered for that window alone.
    """

    def __init__(self, model: PreTrainedModel, context: int, stride: int, sink: int) -> None:
        self.model, self.kept, self.sink = model, context - stride, sink
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
        oldest = first - self.kept
        lead, remembered = sink_before(ids, oldest, self.sink), self.memory
        self.memory, self.oldest = {}, oldest - len(lead)
        if lead:
            self.queries = torch.arange(oldest - len(lead), oldest)
            with torch.no_grad():
                self.model(input_ids=torch.tensor([lead]), position_ids=self.queries[None], use_cache=False)
        for layer, held in remembered.items():
            near = held[0] >= oldest
            visible = held[0][near], held[1][:, :, near], held[2][:, :, near]
            if layer in self.memory:
                pairs = zip(self.memory[layer], visible, (0, 2, 2), strict=True)
                visible = tuple(torch.cat([a, b], dim=axis) for a, b, axis in pairs)  # type: ignore[assignment]
            self.memory[layer] = visible
        self.queries = torch.arange(first, first + new)
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

    def __init__(self, model: PreTrainedModel, window: WindowKind, context: int, stride: int, sink: int) -> None:
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
        self.window, self.context, self.stride, self.sink = window, context, stride, sink
        # Per layer: (position, keys of all key heads, values of all key heads), a row for every token read.
        self.memory: list[list[tuple[int, Tensor, Tensor]]] = [[] for _ in range(self.layers)]

    def new_document(self) -> None:
        """Drop every key and value."""
        self.memory = [[] for _ in range(self.layers)]

    def logits(self, ids: Sequence[int], position: int, new: int) -> Tensor:
        """Logits of the new tokens."""
        if self.window == "overlapping":
            inputs = overlapping_inputs(ids, position, new, self.context, self.stride)
            inputs = sink_before(ids, position - 1 + self.stride - self.context, self.sink) + inputs
            self.new_document()
            return self.forward(inputs, first=0, oldest=0)[-new:]
        first = position - 1
        oldest = first - (self.context - self.stride)
        lead, remembered = sink_before(ids, oldest, self.sink), self.memory
        self.new_document()
        if lead:
            with torch.no_grad():
                self.forward(lead, oldest - len(lead), oldest=oldest - len(lead))
        for layer, held in enumerate(remembered):
            self.memory[layer] += [entry for entry in held if entry[0] >= oldest]
        return self.forward(list(ids[first : first + new]), first, oldest=oldest - len(lead))

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


def make_forward(
    model: PreTrainedModel, window: WindowKind, context: int, stride: int, sink: int, by_hand: bool
) -> Forward:
    """The forward of a window kind; `by_hand` asks for the written-out Llama."""
    if by_hand:
        return LlamaByHand(model, window, context, stride, sink)
    return (Overlapping if window == "overlapping" else Cached)(model, context, stride, sink)
