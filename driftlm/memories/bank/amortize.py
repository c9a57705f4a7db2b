"""A text becomes T vectors in one forward pass: what an encoder is, and the default one.

Letters: R texts, L tokens, D width of the language model, W width of the encoder, T vectors.

After "Online Adaptation of Language Models with a Memory of Amortized Contexts" (arXiv 2403.04317), whose amortization
network is a second pretrained encoder-decoder (`encoder_decoder` has it). Here the language model's own hidden states
are read, so that any model works alone and few parameters learn; padding is masked everywhere, so that it never shows.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from driftlm.models import prompting
from driftlm.models.batching import read_in_batches
from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import padded


class Encoder(nn.Module, ABC):
    """Reads texts: a text has parts of tokens, and each part becomes T vectors.

    Attributes:
        longest: most tokens of a part.
        marks: tokens before and behind the text's own in every part.
    """

    longest: int
    marks: tuple[list[int], list[int]]

    @abstractmethod
    def tokens(self, text: str) -> list[int]:
        """Return plain tokens of a text."""

    @abstractmethod
    def forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Map token rows of R parts -> (R, T, D), each whatever rows stand beside it."""

    @abstractmethod
    def batches(self, counts: Sequence[int]) -> list[list[int]]:
        """Return the places of rows of so many tokens, in batches that memory holds."""

    def parts(self, text: str) -> list[list[int]]:
        """Return the tokens of a text, in parts of at most `longest`, each between its marks; nothing is cut off."""
        found, (before, behind), size = self.tokens(text), self.marks, self.room
        return [[*before, *found[start : start + size], *behind] for start in range(0, max(1, len(found)), size)]

    def ending(self, text: str) -> list[int]:
        """Return the last tokens of a text, as many as a part holds, between the marks."""
        return [*self.marks[0], *self.tokens(text)[-self.room :], *self.marks[1]]

    @property
    def room(self) -> int:
        """Return the tokens of a part besides its marks."""
        return self.longest - len(self.marks[0]) - len(self.marks[1])

    def keep(self, folder: Path) -> None:
        """Write beside saved weights what else rebuilding takes; the language model and the settings are known."""


class StatesEncoder(Encoder):
    """T learned vectors join the hidden states of the frozen language model, all attend to all; the T are read off.

    x = [W_in concat_l LN_l(h_l); v_1 ... v_T] (R, L + T, W); pre-norm transformer layers without a causal mask; then
    W_out LN(x_{L+1 ... L+T}) (R, T, D).

    Args:
        language_model: whose states are read; no part of `state_dict`.
        layers: which states, 0 being the embeddings and the last the final ones.
        vectors: T.
        inner: W.
        depth: layers.
        heads: of each layer.
        longest: most tokens of a part.

    Example:
        >>> from driftlm import load
        >>> encoder = StatesEncoder(load(), layers=(0, 2), vectors=3, inner=8, depth=1, heads=2, longest=16)
        >>> encoder(encoder.parts("It rained.")).shape
        torch.Size([1, 3, 256])
    """

    def __init__(
        self,
        language_model: LanguageModel,
        layers: Sequence[int],
        vectors: int,
        inner: int,
        depth: int,
        heads: int,
        longest: int,
    ) -> None:
        super().__init__()
        self.language_model, self.layers, self.longest = language_model, tuple(layers), longest
        self.marks = ([language_model.bos], [])
        width = int(language_model.model.config.get_text_config().hidden_size)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.layers)
        self.into = nn.Linear(width * len(self.layers), inner)
        self.learned = nn.Parameter(torch.randn(vectors, inner) * 0.02)
        self.mixing = nn.ModuleList(
            nn.TransformerEncoderLayer(
                inner, heads, 2 * inner, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm, self.out = nn.LayerNorm(inner), nn.Linear(inner, width)

    def tokens(self, text: str) -> list[int]:
        """Return a space comes first, so that a name has the same tokens there as inside a sentence."""
        return prompting.tokens(self.language_model, f" {text}")

    def batches(self, counts: Sequence[int]) -> list[list[int]]:
        """Return the places of rows in batches that the language model reads, the states of its layers kept."""
        return read_in_batches(self.language_model.model, counts, states=True)

    @torch.no_grad()
    def states(self, rows: Sequence[Sequence[int]]) -> tuple[list[Tensor], Tensor]:
        """Return the states of each layer (R, L, D), and where tokens are, (R, L) bool. Padding is on the right, where
        none sees it.
        """
        ids, mask = padded(rows)
        device = self.language_model.device
        body: Any = self.language_model.model.base_model
        hidden = body(input_ids=ids.to(device), use_cache=False, output_hidden_states=True).hidden_states
        return [hidden[layer].float() for layer in self.layers], mask.to(device)

    def forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Map token rows of R parts -> (R, T, D)."""
        states, mask = self.states(rows)
        text = self.into(torch.cat([norm(one) for norm, one in zip(self.norms, states, strict=True)], dim=-1))
        x = torch.cat([text, self.learned.expand(len(text), -1, -1).to(text.dtype)], dim=1)
        hidden = ~torch.cat([mask, mask.new_ones(len(mask), len(self.learned))], dim=1)
        for layer in self.mixing:
            x = layer(x, src_key_padding_mask=hidden)
        result: Tensor = self.out(self.norm(x[:, -len(self.learned) :]))
        return result
