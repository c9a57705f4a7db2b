"""Keys and values of the tokens before a window: detached, trimmed, and rotated back on very long documents.

Letters: H key-value heads, K cached positions, E head width.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from driftlm.core.errors import DriftError
from driftlm.models.loading import LanguageModel
from driftlm.streams.windows import Window

LAST_POSITION = 65_536  # float32 rotary angles lose precision beyond
LENGTH_DEPENDENT = {"dynamic", "longrope"}


@dataclass(frozen=True)
class KeyValues:
    """What a cached window attends to besides itself.

    Attributes:
        layers: per layer the keys and the values, each (1, H, K, E), without a graph.
        origin: document position that is position 0 for the model; grows when keys are rotated back.
        sink: how many of the K positions are the sink, which comes first and is not kept for the next window.
    """

    layers: tuple[tuple[Tensor, Tensor], ...] = field(default=())
    origin: int = 0
    sink: int = 0

    @property
    def length(self) -> int:
        """Return K, the number of cached positions."""
        return int(self.layers[0][0].shape[-2]) if self.layers else 0

    def extended(self, cache: DynamicCache, skip: int = 0) -> "KeyValues":
        """Return the same origin with what a forward pass left in `cache` behind `skip` positions, detached."""
        held = ((layer.keys[..., skip:, :].detach(), layer.values[..., skip:, :].detach()) for layer in cache.layers)
        return KeyValues(tuple(held), self.origin)

    def behind(self, sink: "tuple[tuple[Tensor, Tensor], ...]") -> "KeyValues":
        """Return the same with the keys and values of the sink before them."""
        both = zip(sink, self.layers, strict=True) if self.layers else ((pair, None) for pair in sink)
        layers = tuple(
            (keys, values) if own is None else (torch.cat([keys, own[0]], -2), torch.cat([values, own[1]], -2))
            for (keys, values), own in both
        )
        return KeyValues(layers, self.origin, int(sink[0][0].shape[-2]))

    def tensors(self) -> dict[str, Tensor]:
        """Return the layers by name, for a file."""
        return {
            f"{i}/{kind}": t for i, pair in enumerate(self.layers) for kind, t in zip(("k", "v"), pair, strict=True)
        }

    @staticmethod
    def of(tensors: dict[str, Tensor], origin: int) -> "KeyValues":
        """Return what `tensors` named."""
        layers = tuple((tensors[f"{i}/k"], tensors[f"{i}/v"]) for i in range(len(tensors) // 2))
        return KeyValues(layers, origin)

    def trimmed(self, keep: int) -> "KeyValues":
        """Return only the last `keep` positions, in storage of their own."""
        if keep == 0:
            return KeyValues((), self.origin)
        return KeyValues(
            tuple((k[..., -keep:, :].contiguous(), v[..., -keep:, :].contiguous()) for k, v in self.layers), self.origin
        )


class RotaryCache:
    """What cached windows need to know of a model: that its positions are rotary, and how to rotate keys back.

    Raises:
        DriftError: for absolute positions and for rope types that change with length.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self.model = language_model.model
        self.token = language_model.bos
        self.device = language_model.device
        self.offered = "cached windows cannot be used; give `Windows.window` overlapping."
        self.refuse_unless_rotary(language_model.name)
        self.checked: bool | None = None

    def refuse_unless_rotary(self, name: str) -> None:
        """Refuse by name what makes cached keys depend on where the window stands."""
        kind = self.model.config.model_type
        types = set(rope_types(getattr(self.model.config.get_text_config(), "rope_parameters", None)))
        if types & LENGTH_DEPENDENT:
            raise DriftError(
                f"{name!r} ({kind}) has rotary positions of type {', '.join(sorted(types & LENGTH_DEPENDENT))}, "
                f"which change with the length; {self.offered}"
            )
        if "chunked_attention" in (getattr(self.model.config.get_text_config(), "layer_types", None) or []):
            raise DriftError(f"{name!r} ({kind}) attends in fixed chunks of the document; {self.offered}")
        if any(path.endswith("embed_positions") for path, _ in self.model.named_buffers()):
            raise DriftError(f"{name!r} ({kind}) takes its rotary angles from a table that ends; {self.offered}")
        accepts = inspect.signature(self.model.forward).parameters
        if "position_ids" not in accepts or not self.shift_invariant():
            raise DriftError(f"{name!r} ({kind}) has absolute positions; {self.offered}")

    @torch.no_grad()
    def shift_invariant(self) -> bool:
        """Tell whether positions move nothing but angles: when all of them move by one, what is fed to the first layer
        is the same, bit by bit, and in float32 so are the logits.

        Absolute positions are added before the first layer. Other than in float32 the logits tell nothing: rounded
        angles alone move them by as much as they spread (SmolLM2-135M in bfloat16: 0.8 of it).
        """
        ids = self.probe()
        here = torch.arange(ids.shape[1], device=self.device)[None]
        fed, logits = [], []
        for shift in (0, 1):
            with fed_to_layers(self.model) as inputs:
                logits.append(self.model(input_ids=ids, position_ids=here + shift, use_cache=False).logits)
            fed.append(inputs[:1])
        if not all(torch.equal(one, other) for one, other in zip(*fed, strict=True)):
            return False
        if fed[0] and (logits[0].dtype != torch.float32 or getattr(self.model, "is_quantized", False)):
            return True
        spread = (logits[0] - logits[0].mean()).abs().max()
        return bool((logits[0] - logits[1]).abs().max() <= 1e-3 * spread + 1e-6)

    def probe(self) -> Tensor:
        """Return some tokens, all different, (1, 8)."""
        vocabulary = int(self.model.get_output_embeddings().weight.shape[0])
        return torch.arange(self.token, self.token + 8, device=self.device)[None] % vocabulary

    def before(self, cache: KeyValues, window: Window, room: int = 0) -> KeyValues:
        """Return the cache to feed with a window: rotated back where the model would see too large positions.

        All cached keys turn by a common offset, so every distance stays. Rotation by -d is exact in the angles
        because they are taken in float64. Where something stands before the text, in the first `room` positions, the
        text is kept right behind it: rotated back by what has left the cache. The sink has its place before the
        oldest key in either case.
        """
        first = window.position - 1 - cache.origin
        offset = first - cache.length - room - len(window.sink[: window.position - 1 - cache.length])
        if offset == 0 or (not room and first + window.new <= LAST_POSITION):
            return cache
        if cache.length and not self.turns:
            raise DriftError(
                f"the rotary layout of {self.model.config.model_type} is unknown, so documents beyond {LAST_POSITION} "
                f"tokens, and what stands before a text, cannot be read in cached windows; give `Windows.window` "
                f"overlapping or cut documents with `Stream.piece` BYTES."
            )
        return KeyValues(self.rotated_back(cache.layers, offset), cache.origin + offset)

    def rotated_back(self, layers: tuple[tuple[Tensor, Tensor], ...], offset: int) -> tuple[tuple[Tensor, Tensor], ...]:
        """Return keys as the model would have made them `offset` positions earlier; values stay."""
        found = [self.frequencies(index) for index in range(len(layers))]
        return tuple(
            (keys if one is None else rotated(keys, one, -offset), values)
            for one, (keys, values) in zip(found, layers, strict=True)
        )

    def frequencies(self, layer: int) -> Tensor | None:
        """Return the rotary frequencies of a layer, (R / 2,) for R rotated dimensions; None where they are hidden."""
        config = self.model.config.get_text_config()
        kinds = getattr(config, "layer_types", None)
        for module in self.model.modules():
            for name in (f"{kinds[layer]}_inv_freq" if kinds else "inv_freq", "inv_freq"):
                found = getattr(module, name, None)
                if isinstance(found, Tensor):
                    return found
        return None

    @property
    def turns(self) -> bool:
        """Whether keys can be turned: the rotary layout is the usual halves, and the frequencies are to be had."""
        if self.checked is None:
            self.checked = self.rotates()
        return self.checked

    @torch.no_grad()
    def rotates(self) -> bool:
        """Turn the model's own keys, and compare them with those it makes there."""
        ids, offset = self.probe(), 1000
        here = torch.arange(ids.shape[1], device=self.device)[None]
        caches = []
        for shift in (0, offset):
            cache = DynamicCache()
            self.model(input_ids=ids, position_ids=here + shift, past_key_values=cache, use_cache=True)
            caches.append(KeyValues().extended(cache).layers)
        if any(self.frequencies(layer) is None for layer in range(len(caches[0]))):
            return False
        pairs, tolerance = list(zip(caches[0], self.rotated_back(caches[1], offset), strict=True)), 1e-2
        if pairs[0][0][0].dtype != torch.float32:
            # Rounded, what is fed to later layers differs; the first of a kind stands for all.
            kinds = getattr(self.model.config.get_text_config(), "layer_types", None) or [""] * len(pairs)
            pairs, tolerance = [pairs[kinds.index(kind)] for kind in dict.fromkeys(kinds)], 0.05
        return all((here - turned).abs().max() <= tolerance * here.abs().max() for (here, _), (turned, _) in pairs)


@contextmanager
def fed_to_layers(model: Any) -> Iterator[list[Tensor]]:
    """Yield a list that hidden states are added to as they go into the model's layers, in order."""
    inputs: list[Tensor] = []

    def note(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        inputs.append(given[0] if given else named["hidden_states"])

    stacks = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for stack in stacks for layer in stack]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def rotated(keys: Tensor, frequencies: Tensor, offset: int) -> Tensor:
    """Turn the first R dimensions of keys (1, H, K, E) by `offset` positions; dimension i pairs with i + R / 2."""
    angles = frequencies.double() * offset
    cosine, sine = angles.cos(), angles.sin()
    half = frequencies.shape[0]
    first, second, rest = keys[..., :half].double(), keys[..., half : 2 * half].double(), keys[..., 2 * half :]
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return torch.cat([turned.to(keys.dtype), rest], dim=-1)


def rope_types(parameters: Any) -> list[str]:
    """Return all `rope_type` values in a configuration, which may nest them by layer type."""
    if not isinstance(parameters, dict):
        return []
    nested = [kind for value in parameters.values() for kind in rope_types(value)]
    return [*nested, parameters["rope_type"]] if "rope_type" in parameters else nested
