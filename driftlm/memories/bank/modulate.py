"""From a modulation to keys and values before the prompt of the frozen language model.

Letters: R questions, T vectors, D width, P = T prefix positions, L layers, H key-value heads, E head width.

P-tuning v2 (Liu et al. 2022, arXiv 2110.07602): learned keys and values in every layer, nothing else of the model
changes. Here each of the T vectors makes one prefix position; the bank's paper (arXiv 2403.04317) spreads its vectors
over two positions with one feed-forward for every key and value of every layer, which is most of its parameters. Keys
are made as the layer sees them, after any rotation; the prompt's own positions begin behind the prefix. `low_rank` has
the other way to modulate a model.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from driftlm.models.modulated import Modulated

Rows = Sequence[Sequence[int]]  # of token ids


class Prefix(list[tuple[Tensor, Tensor]]):
    """Keys and values of every layer, each (R, H, P, E)."""

    def rows(self, chosen: Sequence[int]) -> "Prefix":
        """Return that of the chosen rows."""
        places = torch.tensor(chosen, device=self[0][0].device)
        return Prefix((keys[places], values[places]) for keys, values in self)

    def to(self, dtype: torch.dtype) -> "Prefix":
        """Return the same in another floating-point type."""
        return Prefix((keys.to(dtype), values.to(dtype)) for keys, values in self)

    def on(self, model: Any) -> AbstractContextManager[DynamicCache]:
        """Return a fresh cache that holds the prefix; the model itself stays as it is."""
        return nullcontext(DynamicCache(list(self)))


class Modulation(nn.Module, ABC):
    """Refine every vector by x <- LN(x + FF(LN(x))); subclasses make of them what modulates the model.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def refined(self, modulation: Tensor) -> Tensor:
        """Map (R, T, D) -> (R, T, D)."""
        refined: Tensor = self.last(modulation + self.feed_forward(self.norm(modulation)))
        return refined

    @abstractmethod
    def forward(self, modulation: Tensor) -> Modulated:
        """Map (R, T, D) -> what modulates the model for R questions."""


class PrefixModulation(Modulation):
    """One linear map from a vector to the keys and values of all layers, with a bias per position.

    Grouped queries are supported: keys have `num_key_value_heads` heads of `head_dim`.

    Args:
        config: of the language model.
        vectors: T.
    """

    def __init__(self, config: Any, vectors: int) -> None:
        width = config.hidden_size
        super().__init__(width)
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head = getattr(config, "head_dim", None) or width // config.num_attention_heads
        self.shape = (config.num_hidden_layers, 2, heads, head)
        numbers = config.num_hidden_layers * 2 * heads * head
        self.out = nn.Linear(width, numbers, bias=False)
        self.place = nn.Parameter(torch.randn(vectors, numbers) * 0.02)

    def forward(self, modulation: Tensor) -> Prefix:
        """Map (R, T, D) -> per layer keys and values, each (R, H, P, E)."""
        made = (self.out(self.refined(modulation)) + self.place).unflatten(-1, self.shape)  # (R, P, L, 2, H, E)
        return Prefix((k.transpose(1, 2), v.transpose(1, 2)) for k, v in (layer.unbind(2) for layer in made.unbind(2)))
