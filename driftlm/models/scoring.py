"""Tokens to nats: the only place a loss is computed.

Letters: S new tokens, D width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

    Args:
        language_model: whose windows are scored.
        alike: whether the loss of a window weighs its tokens alike, as its mean does; see `HeadNats`.
    """

    def __init__(self, language_model: LanguageModel, alike: bool = True) -> None:
        self.language_model, self.model, self.alike = language_model, language_model.model, alike
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
        with modulating(self.language_model, before.modulated) as attended, self.one_gradient():
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

    @contextmanager
    def one_gradient(self) -> Iterator[None]:
        """Let a large matrix that is both embeddings and head have one gradient between them inside the block.

        Otherwise that of the embeddings would be a second matrix of that size, zero but for a window's tokens.
        """
        embeddings, weight = self.model.get_input_embeddings(), self.head.weight
        both = self.plain_head and embeddings.weight is weight and weight.numel() > KEPT_LOGITS
        if not (both and weight.requires_grad and torch.is_grad_enabled()):
            yield
            return
        sparse, embeddings.sparse = embeddings.sparse, True
        embeddings._parameters["weight"], self.head._parameters["weight"] = Tied.apply(weight)
        try:
            yield
        finally:
            embeddings.sparse = sparse
            embeddings._parameters["weight"] = self.head._parameters["weight"] = weight

    def nats_of(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Map hidden (S, D), targets (S) -> nats (S), finite (S) by a head that is last."""
        graph = torch.is_grad_enabled()
        nats, finite = HeadNats.apply(hidden, self.head.weight, self.head.bias, targets, graph, self.alike)
        return nats, finite

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

    nats_s = log sum_v exp z_sv - z_s,target with z = hidden weight^T + bias, in float32. The gradient of nats_s with
    respect to z_s is softmax(z_s) - onehot(target_s).

    While S x V is small the exponentials of the forward pass are kept for it. Otherwise logits are made in chunks of
    rows, and while a chunk is there the gradients of the mean of all nats are made from it. The backward pass scales
    them, which is exact for hidden whatever the loss is, and for weight and bias where every token weighs the same.
    Where tokens weigh differently, or a graph is walked once more, each chunk is computed again.

    `graph`: whether a backward pass may follow. `alike`: whether tokens will weigh the same there; where they will not,
    gradients of weight and bias are left to it.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, graph: bool, alike: bool
    ) -> tuple[Tensor, Tensor]:
        chunks = Chunks(hidden, weight, bias, targets)
        wanted = ctx.needs_input_grad[:3] if graph else (False, False, False)
        ctx.ahead = None
        if chunks.several and any(wanted) and (alike or not any(wanted[1:])):
            ctx.ahead = Gradients(hidden, weight, bias, wanted)
        kept: tuple[Tensor | None, Tensor | None] = (None, None)
        nats, finite = [], []
        for part, logits in chunks:
            finite.append(every_finite(logits))
            target_logits = logits.gather(1, targets[part, None])[:, 0]
            exponentials, peak, total = exponentials_in_place(logits)
            nats.append(total.log() + peak - target_logits)
            if ctx.ahead is not None:
                ctx.ahead.add(part, chunks.errors(part, exponentials, total, torch.full_like(total, 1 / len(hidden))))
            elif graph and not chunks.several:
                kept = exponentials, total
        ctx.save_for_backward(hidden, weight, bias, targets, *kept)
        ctx.mark_non_differentiable(finite_rows := torch.cat(finite))
        return torch.cat(nats), finite_rows

    @staticmethod
    def backward(ctx: Any, nats_gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        ahead, ctx.ahead = ctx.ahead, None  # the one reference to them, so that nothing has to be copied
        if ahead is not None and ahead.scale(nats_gradient / torch.full_like(nats_gradient, 1 / len(nats_gradient))):
            return *ahead.found, None, None, None
        hidden, weight, bias, targets, exponentials, total = ctx.saved_tensors
        gradients = Gradients(hidden, weight, bias, ctx.needs_input_grad[:3])
        chunks = Chunks(hidden, weight, bias, targets)
        if exponentials is not None:
            gradients.add(slice(None), chunks.errors(slice(None), exponentials, total, nats_gradient))
        else:
            for part, logits in chunks:
                exponentials, _, total = exponentials_in_place(logits)
                gradients.add(part, chunks.errors(part, exponentials, total, nats_gradient[part]))
        return *gradients.found, None, None, None


class Tied(torch.autograd.Function):
    """Map weight (V, D) -> itself for looking up, and itself for the head, whose gradient takes the other one up."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, looked_up: Tensor | None, applied: Tensor | None) -> Tensor | None:
        if looked_up is None or applied is None:
            return applied if looked_up is None else looked_up.to_dense()
        return applied.index_add_(0, looked_up._indices()[0], looked_up._values())


class Chunks:
    """The rows of a head in chunks of at most `KEPT_LOGITS` logits, each in the storage of the one before."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> None:
        self.hidden, self.weight, self.bias, self.targets = hidden, weight, bias, targets
        self.rows = max(1, KEPT_LOGITS // len(weight))
        self.several = len(hidden) > self.rows

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows and their logits, (rows, V) float32."""
        if not self.several:
            yield slice(None), F.linear(self.hidden, self.weight, self.bias).float()
            return
        self.products = self.hidden.new_empty(self.rows, len(self.weight))
        wide = (
            self.products
            if self.products.dtype == torch.float32
            else torch.empty_like(self.products, dtype=torch.float32)
        )
        for start in range(0, len(self.hidden), self.rows):
            part = slice(start, start + self.rows)
            rows = self.hidden[part]
            product, logits = self.products[: len(rows)], wide[: len(rows)]
            if self.bias is None:
                torch.mm(rows, self.weight.T, out=product)
            else:
                torch.addmm(self.bias, rows, self.weight.T, out=product)
            yield part, logits if logits is product else logits.copy_(product)

    def errors(self, part: slice, exponentials: Tensor, total: Tensor, scale: Tensor) -> Tensor:
        """Return the gradient of sum_s scale_s nats_s with respect to the logits, in their storage and hidden's type."""
        errors, targets = exponentials.mul_((scale / total)[:, None]), self.targets[part]
        errors[torch.arange(len(errors), device=errors.device), targets] -= scale
        if self.several and self.products.dtype != errors.dtype:
            return self.products[: len(errors)].copy_(errors)
        return errors.to(self.hidden.dtype)


class Gradients:
    """Gradients with respect to hidden, weight and bias, in this order in `found`, of a loss whose errors come by rows."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Sequence[bool]) -> None:
        self.hidden, self.weight, self.wanted = hidden, weight, wanted
        self.found: list[Tensor | None] = [torch.empty_like(hidden) if wanted[0] else None, None, None]

    def add(self, part: slice, errors: Tensor) -> None:
        """Take the errors (rows, V) of some rows into account."""
        hidden, weight, bias = self.found
        inputs = self.hidden[part]
        if hidden is not None:
            torch.mm(errors, self.weight, out=hidden[part])
        if self.wanted[1]:
            self.found[1] = errors.T @ inputs if weight is None else torch.addmm(weight, errors.T, inputs, out=weight)
        if self.wanted[2]:
            self.found[2] = errors.sum(0) if bias is None else bias.add_(errors.sum(0))

    def scale(self, weights: Tensor) -> bool:
        """Multiply by what each row weighs (S,); tell whether that could be done, or wants the errors once more."""
        _, *summed = self.found
        alike = bool((weights == weights[0]).all())
        if any(one is not None for one in summed) and not alike:
            return False
        if not alike or weights[0] != 1:
            for one, factor in zip(self.found, (weights[:, None], weights[0], weights[0]), strict=True):
                if one is not None:
                    one.mul_(factor)
        return True


def exponentials_in_place(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Map logits (S, V) -> exp(logits - peak) in their own storage, peak (S), sum of the exponentials (S)."""
    peak = logits.amax(dim=-1)
    exponentials = logits.sub_(peak[:, None]).exp_()
    return exponentials, peak, exponentials.sum(dim=-1)
