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
from driftlm.models.loading import LanguageModel
from driftlm.models.modulated import Before, modulating
from driftlm.streams.windows import Window

NOTHING = Before()
KEPT_LOGITS = 1 << 24  # S x V up to which the softmax is kept for the backward pass; beyond it is made again in chunks


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
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self.language_model, self.model = language_model, language_model.model
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
        with modulating(self.language_model, before.modulated) as attended:
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
                weight, bias = self.head.weight, self.head.bias
                nats, finite = HeadNats.apply(hidden, weight, bias, targets, torch.is_grad_enabled())
            else:
                logits = self.model(input_ids=ids, **arguments, logits_to_keep=new).logits[0, -new:].float()  # (S, V)
                nats, finite = F.cross_entropy(logits, targets, reduction="none"), every_finite(logits.detach())
        return Forward(nats, finite, None if cache is None else cache.extended(attended, skip + cache.sink))

    @torch.no_grad()
    def read(self, tokens: Sequence[int], first: int, cache: DynamicCache) -> None:
        """Extend a cache by tokens that stand at positions `first` and on."""
        if tokens:
            ids = torch.tensor([tokens], device=self.device)
            positions = torch.arange(first, first + len(tokens), device=self.device)[None]
            self.model.base_model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)


def every_finite(logits: Tensor) -> Tensor:
    """Map (S, V) -> (S,) bool: where the spread is finite, so is every logit, and the nats of every token.

    A spread of zero counts as not finite: a root-mean-square norm whose squares overflow hides infinity behind zeros,
    and a model that died of it would go on for ever, scoring every token with ln V.
    """
    spread = logits.amax(dim=-1) - logits.amin(dim=-1)
    return (spread > 0) & spread.isfinite()


class HeadNats(torch.autograd.Function):
    """Map hidden (S, D), weight (V, D), bias (V) or None, targets (S) -> nats (S), finite (S).

    nats_s = log sum_v exp z_sv - z_s,target with z = hidden weight^T + bias, in float32.
    The gradient of nats_s with respect to z_s is softmax(z_s) - onehot(target_s). The exponentials of the forward pass
    are kept for it while S x V is small; otherwise each chunk of rows is computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, graph: bool
    ) -> tuple[Tensor, Tensor]:
        rows = max(1, KEPT_LOGITS // weight.shape[0])
        kept: tuple[Tensor | None, Tensor | None] = (None, None)
        nats, finite = [], []
        for start in range(0, hidden.shape[0], rows):
            logits = F.linear(hidden[start : start + rows], weight, bias).float()
            finite.append(every_finite(logits))
            target_logits = logits.gather(1, targets[start : start + rows, None])[:, 0]
            exponentials, peak, total = exponentials_in_place(logits)
            nats.append(total.log() + peak - target_logits)
            if graph and hidden.shape[0] <= rows:
                kept = exponentials, total
        ctx.save_for_backward(hidden, weight, bias, targets, *kept)
        ctx.rows = rows
        ctx.mark_non_differentiable(finite_rows := torch.cat(finite))
        return torch.cat(nats), finite_rows

    @staticmethod
    def backward(ctx: Any, nats_gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, exponentials, total = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        hidden_gradient = torch.empty_like(hidden) if wants_hidden else None
        weight_gradient: Tensor | None = None
        bias_gradient = torch.zeros_like(bias) if wants_bias else None
        for start in range(0, hidden.shape[0], ctx.rows):
            part = slice(start, start + ctx.rows)
            if ctx.saved_tensors[4] is None:
                logits = F.linear(hidden[part], weight, bias).float()
                exponentials, _, total = exponentials_in_place(logits)
            error = exponentials.mul_((nats_gradient[part] / total)[:, None])
            error[torch.arange(error.shape[0], device=error.device), targets[part]] -= nats_gradient[part]
            error = error.to(hidden.dtype)
            if hidden_gradient is not None:
                torch.mm(error, weight, out=hidden_gradient[part])
            if wants_weight:
                chunk_gradient = error.T @ hidden[part]
                weight_gradient = chunk_gradient if weight_gradient is None else weight_gradient.add_(chunk_gradient)
            if bias_gradient is not None:
                bias_gradient += error.sum(0)
        return hidden_gradient, weight_gradient, bias_gradient, None, None


def exponentials_in_place(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Map logits (S, V) -> exp(logits - peak) in their own storage, peak (S), sum of the exponentials (S)."""
    peak = logits.amax(dim=-1)
    exponentials = logits.sub_(peak[:, None]).exp_()
    return exponentials, peak, exponentials.sum(dim=-1)
