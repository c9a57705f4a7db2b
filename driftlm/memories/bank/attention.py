"""Softmax attention over a bank's vectors with a number added per entry: at once, and over parts of the bank.

Letters: R questions in G groups that share a bank (G is 1 or R), N entries of T vectors, H heads, E head width,
L = R / G * T query vectors of a group.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from driftlm.core.errors import DriftError

SCORE_WEIGHT = 2.0  # what a document's score counts for in the attention logits of its vectors


def bias_of(scores: Tensor | None, mask: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
    """Return 2 score, and -inf where masked: (R, N), or None where there is neither."""
    for name, given in (("scores", scores), ("mask", mask)):
        if given is not None and given.shape != shape:
            raise DriftError(f"The {name} have shape {tuple(given.shape)}, but questions and entries are {shape}.")
    bias = None if scores is None else SCORE_WEIGHT * scores
    if mask is not None:
        if not mask.any(dim=1).all():
            raise DriftError("A question may see no entry of the bank: leave it out and use the plain language model.")
        bias = torch.zeros(shape, device=mask.device) if bias is None else bias
        bias = bias.masked_fill(~mask, -math.inf)
    return bias


def attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return softmax(q k^T + bias) v and the softmax: (G, H, L, E), (G, H, L, N * T).

    Args:
        queries: (G, H, L, E).
        keys: (G, H, N * T, E).
        values: (G, H, N * T, E).
        bias: (R, N), the same for all vectors of an entry.
    """
    logits = queries @ keys.transpose(-1, -2)
    if bias is not None:
        add_bias(logits, bias)
    weights = logits.softmax(dim=-1)
    return weights @ values, weights


def add_bias(logits: Tensor, bias: Tensor) -> None:
    """Add (R, N) to (G, H, L, N * T), in place: these are the largest tensors there are."""
    groups, heads = logits.shape[:2]
    questions, entries = len(bias) // groups, bias.shape[1]
    laid_out = logits.view(groups, heads, questions, -1, entries, logits.shape[-1] // entries)
    laid_out += bias.view(groups, 1, questions, 1, entries, 1)


def shares_of(weights: Tensor, questions: int, entries: int) -> Tensor:
    """Mean over heads and query vectors, sum over the vectors of an entry: (G, H, L, N * T) -> (R, N)."""
    mean = weights.unflatten(2, (questions // len(weights), -1)).mean(dim=(1, 3))  # (G, R / G, N * T)
    return mean.reshape(questions, entries, -1).sum(dim=-1)


def mean_of(shares: list[Tensor], question: Tensor) -> Tensor:
    """Mean over blocks; (R, 0) where none were asked for."""
    return torch.stack(shares).mean(dim=0) if shares else question.new_empty(len(question), 0)


class RunningAttention:
    """Compute `attend` and `shares_of` without a gradient, over parts of the bank that come one after another.

    sum_i exp(z_i) v_i / sum_i exp(z_i), where the sums are held relative to the largest z so far and faded when it
    grows. Milakov and Gimelshein, "Online normalizer calculation for softmax" (arXiv 1805.02867). Shares keep one
    number per head, query vector and entry until they are asked for.

    >>> running = RunningAttention(torch.ones(1, 1, 1, 2), vectors=1, entries=2)
    >>> for part in torch.tensor([[[1.0, 0.0]], [[2.0, -1.0]]]):
    ...     running.add(part[None], part[None], torch.tensor([[math.log(3.0)]]))
    >>> running.mean, running.shares()
    (tensor([[[[ 1.5000, -0.5000]]]]), tensor([[0.5000, 0.5000]]))
    """

    def __init__(self, queries: Tensor, vectors: int, entries: int) -> None:
        """Begin for queries (G, H, L, X), X being E, or D where keys are absorbed into them; entries N, 0 without
        shares.
        """
        self.queries = queries
        self.vectors = vectors
        self.peak = queries.new_full((*queries.shape[:3], 1), -math.inf)
        self.total = torch.zeros_like(self.peak)
        self.summed = torch.zeros_like(queries)
        # Two tensors: many small ones, each left behind between large ones that go, would keep their memory from reuse.
        self.sums = queries.new_empty(*queries.shape[:3], entries)
        self.peaks = queries.new_empty(*queries.shape[:3], 1)  # of each part so far, with room for more
        self.parts: list[slice] = []

    def add(self, keys: Tensor, values: Tensor, bias: Tensor | None) -> None:
        """Take in a part: keys and values (B, C * T, X) for C of the entries, bias (R, C).

        B is G x H, or G where the heads of a group share them.
        """
        shape = self.queries.shape
        logits = (self.queries.reshape(len(keys), -1, shape[3]) @ keys.transpose(1, 2)).view(*shape[:3], -1)
        if bias is not None:
            add_bias(logits, bias)
        peak = torch.maximum(self.peak, logits.amax(dim=-1, keepdim=True))
        # Where all so far is masked the peak is -inf, and -inf - -inf would be NaN.
        finite = peak.masked_fill(peak == -math.inf, 0)
        fade = (self.peak - finite).exp_()
        weights = logits.sub_(finite).exp_()
        self.total = self.total * fade + weights.sum(dim=-1, keepdim=True)
        self.summed = self.summed.mul_(fade) + (weights.view(len(keys), -1, keys.shape[1]) @ values).view(shape)
        self.peak = peak
        if self.sums.shape[-1]:
            start = self.parts[-1].stop if self.parts else 0
            part = slice(start, start + weights.shape[-1] // self.vectors)
            self.sums[..., part] = weights.unflatten(-1, (-1, self.vectors)).sum(dim=-1)
            if len(self.parts) == self.peaks.shape[-1]:
                self.peaks = F.pad(self.peaks, (0, len(self.parts)))
            self.peaks[..., len(self.parts)] = finite[..., 0]
            self.parts.append(part)

    @property
    def mean(self) -> Tensor:
        """Return what was attended to, (G, H, L, X)."""
        return self.summed / self.total

    def shares(self) -> Tensor:
        """Return the shares (R, N); once, for what was kept for them is used up."""
        log_total = self.peak + self.total.log()
        for number, part in enumerate(self.parts):
            self.sums[..., part] *= (self.peaks[..., number : number + 1] - log_total).exp_()
        questions = self.peak.shape[0] * self.peak.shape[2] // self.vectors
        return shares_of(self.sums, questions, self.sums.shape[-1])
