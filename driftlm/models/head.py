"""Hidden states to nats by a head of any size: never more logits at once than a chunk, no softmax twice.

Letters: S new tokens, D width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

KEPT_LOGITS = 1 << 25  # S x V in a chunk (128 MiB); the softmax of one alone is kept for the backward pass


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

    With `graph` a backward pass may follow. Without `alike` tokens will weigh differently there, and gradients of
    weight and bias are left to it. `spare` may hold a tensor like weight, whose storage a gradient made ahead takes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        graph: bool,
        alike: bool,
        spare: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        chunks = Chunks(hidden, weight, bias, targets)
        wanted = ctx.needs_input_grad[:3] if graph else (False, False, False)
        ctx.ahead = None
        if chunks.several and any(wanted) and (alike or not any(wanted[1:])):
            ctx.ahead = Gradients(hidden, weight, wanted, spare)
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
            return *ahead.found, None, None, None, None
        hidden, weight, bias, targets, exponentials, total = ctx.saved_tensors
        gradients = Gradients(hidden, weight, ctx.needs_input_grad[:3], [])
        chunks = Chunks(hidden, weight, bias, targets)
        if exponentials is not None:
            gradients.add(slice(None), chunks.errors(slice(None), exponentials, total, nats_gradient))
        else:
            for part, logits in chunks:
                exponentials, _, total = exponentials_in_place(logits)
                gradients.add(part, chunks.errors(part, exponentials, total, nats_gradient[part]))
        return *gradients.found, None, None, None, None


@contextmanager
def one_gradient(model: Any) -> Iterator[None]:
    """Let a large matrix that is both embeddings and head have one gradient between them inside the block.

    Otherwise that of the embeddings would be a second matrix of that size, zero but for a window's tokens.
    """
    modules = embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    weight = head.weight
    both = embeddings.weight is weight and isinstance(embeddings, torch.nn.Embedding)
    if not (both and weight.requires_grad and torch.is_grad_enabled() and weight.numel() > KEPT_LOGITS):
        yield
        return
    sparse, embeddings.sparse = embeddings.sparse, True
    try:
        for module, alias in zip(modules, Tied.apply(weight), strict=True):
            module._parameters["weight"] = alias
        yield
    finally:
        embeddings.sparse = sparse
        for module in modules:
            module._parameters["weight"] = weight


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
    """Rows of a head in chunks of at most `KEPT_LOGITS` logits, each in the storage of the one before."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> None:
        self.hidden, self.weight, self.bias, self.targets = hidden, weight, bias, targets
        self.rows = max(1, KEPT_LOGITS // len(weight))
        self.several = len(hidden) > self.rows
        self.product = hidden.new_empty(self.rows, len(weight)) if self.several else None  # in hidden's type

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows and their logits, (rows, V) float32."""
        if self.product is None:
            yield slice(None), F.linear(self.hidden, self.weight, self.bias).float()
            return
        is_float = self.product.dtype == torch.float32
        logits = self.product if is_float else torch.empty_like(self.product, dtype=torch.float32)
        for start in range(0, len(self.hidden), self.rows):
            rows = self.hidden[start : start + self.rows]
            product, transposed = self.product[: len(rows)], self.weight.T
            if self.bias is None:
                torch.mm(rows, transposed, out=product)
            else:
                torch.addmm(self.bias, rows, transposed, out=product)
            yield slice(start, start + self.rows), product if is_float else logits[: len(rows)].copy_(product)

    def errors(self, part: slice, exponentials: Tensor, total: Tensor, scale: Tensor) -> Tensor:
        """Return the gradient of sum_s scale_s nats_s with respect to the logits of a part, in hidden's type.

        It takes the storage of the exponentials (rows, V), whose sums are `total` (rows).
        """
        errors, targets = exponentials.mul_((scale / total)[:, None]), self.targets[part]
        errors[torch.arange(len(errors), device=errors.device), targets] -= scale
        if self.product is None or errors.dtype == self.product.dtype:
            return errors.to(self.hidden.dtype)
        return self.product[: len(errors)].copy_(errors)


class Gradients:
    """Gradients of a loss with respect to hidden, weight and bias, in this order in `found`, from errors by rows."""

    def __init__(self, hidden: Tensor, weight: Tensor, wanted: Sequence[bool], spare: list[Tensor]) -> None:
        self.hidden, self.weight, self.wanted, self.spare = hidden, weight, wanted, spare
        self.found: list[Tensor | None] = [torch.empty_like(hidden) if wanted[0] else None, None, None]

    def add(self, part: slice, errors: Tensor) -> None:
        """Take the errors (rows, V) of some rows into account."""
        (hidden, weight, bias), inputs = self.found, self.hidden[part]
        if hidden is not None:
            torch.mm(errors, self.weight, out=hidden[part])
        if self.wanted[1] and weight is None:
            place = self.spare.pop() if self.spare else torch.empty_like(self.weight)
            self.found[1] = torch.mm(errors.T, inputs, out=place)
        elif weight is not None:
            torch.addmm(weight, errors.T, inputs, out=weight)
        if self.wanted[2]:
            self.found[2] = errors.sum(0) if bias is None else bias.add_(errors.sum(0))

    def scale(self, weights: Tensor) -> bool:
        """Multiply by what each row weighs (S,); tell whether that could be done, or wants the errors once more."""
        alike = bool((weights == weights[0]).all())
        if not alike and any(one is not None for one in self.found[1:]):
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
