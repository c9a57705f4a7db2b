"""A text becomes T vectors in one forward pass: the frozen language model reads, a small network gathers.

Letters: R texts, L tokens, D width of the language model, W width of the encoder, T vectors.

After "Online Adaptation of Language Models with a Memory of Amortized Contexts" (arXiv 2403.04317), whose amortization
network is a second pretrained encoder-decoder. Here the language model's own hidden states are read, so that any model
works alone and few parameters learn; padding is masked everywhere, so that it never shows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import padded, tokens


class Encoder(nn.Module):
    """T learned vectors join the states of a text, all attend to all, and the T are read off at the end.

    x = [W_in concat_l LN_l(h_l); v_1 ... v_T] (R, L + T, W); pre-norm transformer layers without a causal mask; then
    W_out LN(x_{L+1 ... L+T}) (R, T, D).

    Example:
        >>> encoder = Encoder(width=16, layers=(1, 2), vectors=3, inner=8, depth=1, heads=2)
        >>> states, mask = torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool)
        >>> encoder(states, mask).shape
        torch.Size([2, 3, 16])
    """

    def __init__(self, width: int, layers: Sequence[int], vectors: int, inner: int, depth: int, heads: int) -> None:
        super().__init__()
        self.layers = tuple(layers)
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

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Hidden states of the chosen layers side by side, (R, L, layers x D), and where tokens are -> (R, T, D)."""
        each = states.unflatten(-1, (len(self.layers), -1)).unbind(2)
        text = self.into(torch.cat([norm(one) for norm, one in zip(self.norms, each, strict=True)], dim=-1))
        x = torch.cat([text, self.learned.expand(len(text), -1, -1).to(text.dtype)], dim=1)
        hidden = ~torch.cat([mask, mask.new_ones(len(mask), len(self.learned))], dim=1)
        for layer in self.mixing:
            x = layer(x, src_key_padding_mask=hidden)
        result: Tensor = self.out(self.norm(x[:, -len(self.learned) :]))
        return result


class Reader:
    """Hidden states of the frozen language model.

    Args:
        language_model: whose states are read.
        layers: which, 0 being the embeddings and the last the final states.
        longest: most tokens of a part.
    """

    def __init__(self, language_model: LanguageModel, layers: Sequence[int], longest: int) -> None:
        self.language_model, self.layers, self.longest = language_model, tuple(layers), longest

    def parts(self, text: str) -> list[list[int]]:
        """Tokens of a text, in parts of at most `longest`, each behind the token that begins a document.

        A space comes first, so that a name has the same tokens there as inside a sentence. Nothing is cut off.
        """
        found = tokens(self.language_model, f" {text}")
        size = self.longest - 1
        cut = [found[start : start + size] for start in range(0, len(found), size)] or [[]]
        return [[self.language_model.bos, *part] for part in cut]

    @torch.no_grad()
    def states(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """(R, L, layers x D) and where tokens are, (R, L) bool. Padding is on the right, where no token sees it."""
        ids, mask = padded(rows)
        device = self.language_model.device
        body: Any = self.language_model.model.base_model
        hidden = body(input_ids=ids.to(device), use_cache=False, output_hidden_states=True).hidden_states
        return torch.cat([hidden[layer].float() for layer in self.layers], dim=-1), mask.to(device)
