"""Tokens to nats: the only place a loss is computed.

Letters: S new tokens, D width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from driftlm.models.cache import KeyValues
from driftlm.models.head import KEPT_LOGITS, HeadNats, every_finite, one_gradient
from driftlm.models.loading import LanguageModel
from driftlm.models.modulated import Before, modulating
from driftlm.streams.windows import Window

NOTHING = Before()


@dataclass
class Forward:
    """One forward pass over a window.

    Attributes:
        nats: (S,) float32, negative log-likelihood of each new token; holds the graph where one was asked for.
        finite: (S,) bool, whether every logit that predicted the token is finite. Says nothing about the token.
        cache: keys and values of everything attended to, where a cache was given.
    """

    nats: Tensor
    finite: Tensor
    cache: KeyValues | None = None


class Scorer:
    """Runs a model over windows and turns its logits into nats.

    The head is applied to the new positions alone, and its loss is taken in chunks of rows, so that the logits of a
    large vocabulary are never all in memory when only their loss is needed. A model that changes its logits after
    the head (soft-capping, scaling) is noticed by comparing both ways once, and keeps its own way.

    Args:
        language_model: whose windows are scored.
        alike: whether the loss of a window weighs its tokens alike, as its mean does; see `HeadNats`.
    """

    def __init__(self, language_model: LanguageModel, alike: bool = True) -> None:
        self.language_model, self.model, self.alike = language_model, language_model.model, alike
        self.spare: list[Tensor] = []
        self.device = language_model.device
        self.head = self.model.get_output_embeddings()
        self.body = self.model.base_model if self.model.base_model is not self.model else None
        self.plain_head = self.head_is_last(language_model.bos)

    @torch.no_grad()
    def head_is_last(self, token: int) -> bool:
        """Tell whether logits are exactly `head(last hidden state)`."""
        if self.body is None or type(self.head) is not torch.nn.Linear:
            return False
        ids = torch.full((1, 3), token, device=self.device)
        hidden = self.body(input_ids=ids, use_cache=False)[0]
        return bool(torch.equal(self.head(hidden), self.model(input_ids=ids, use_cache=False).logits))

    def forward(self, window: Window, cache: KeyValues | None = None, before: Before = NOTHING) -> Forward:
        """Score the new tokens of a window.

        Args:
            window: C tokens at most.
            cache: keys and values to attend to; the window's last S inputs are fed then, otherwise all inputs.
            before: what stands before all of it but the sink, and is no part of the cache that is returned. With a
                cache, its origin makes the room.

        The sink is read before it: with a cache, at the positions just before what else is read or cached, without a
        gradient, unless the cache begins with it.
        """
        new = window.new
        targets = torch.tensor(window.targets, device=self.device)
        arguments: dict[str, Any] = {"use_cache": False}
        with modulating(self.language_model, before.modulated) as attended, one_gradient(self.model):
            if cache is None:
                lead = (*window.sink[: window.start], *before.tokens)
                fed, first = (*lead, *window.inputs), attended.get_seq_length()
            else:
                fed, first = window.inputs[-new:], window.position - 1 - cache.origin
                sink = () if cache.sink else window.sink[: window.position - 1 - cache.length]
                lead = (*sink, *before.tokens)
                self.read(lead, first - cache.length - len(lead), attended)
            skip = attended.get_seq_length()
            if cache is not None or before.modulated is not None:
                for layer, (keys, values) in enumerate(cache.layers if cache else ()):
                    attended.update(keys, values, layer)
                positions = torch.arange(first, first + len(fed), device=self.device)[None]
                arguments = {"use_cache": True, "past_key_values": attended, "position_ids": positions}
            ids = torch.tensor([fed], device=self.device)
            if self.plain_head:
                assert self.body is not None
                hidden = self.body(input_ids=ids, **arguments)[0][0, -new:]  # (S, D)
                nats, finite = self.nats_of(hidden, targets)
            else:
                logits = self.model(input_ids=ids, **arguments, logits_to_keep=new).logits[0, -new:].float()  # (S, V)
                nats, finite = F.cross_entropy(logits, targets, reduction="none"), every_finite(logits.detach())
        return Forward(nats, finite, None if cache is None else cache.extended(attended, skip + cache.sink))

    def take_gradient(self, parameter: Tensor) -> None:
        """Use the storage of the head's gradient, which nobody needs any more, for the next one made in chunks.

        Of a large one that is memory which the system would have to give, and clear, anew for every window.
        """
        gradient = parameter.grad
        if parameter is self.head.weight and gradient is not None:
            self.spare = [gradient] if gradient.numel() > KEPT_LOGITS and gradient.is_contiguous() else []

    def nats_of(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Map hidden (S, D), targets (S) -> nats (S), finite (S) by a head that is last."""
        graph, spare = torch.is_grad_enabled(), self.spare
        nats, finite = HeadNats.apply(hidden, self.head.weight, self.head.bias, targets, graph, self.alike, spare)
        return nats, finite

    @torch.no_grad()
    def read(self, tokens: Sequence[int], first: int, cache: DynamicCache) -> None:
        """Extend a cache by tokens that stand at positions `first` and on."""
        if tokens:
            ids = torch.tensor([tokens], device=self.device)
            positions = torch.arange(first, first + len(tokens), device=self.device)[None]
            self.model.base_model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
