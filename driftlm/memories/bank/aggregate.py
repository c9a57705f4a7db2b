"""From a question and a bank to one modulation: cross-attention over every vector of every entry.

Letters: R questions, N bank entries (one per document part), T vectors each, D language-model width, H heads,
E head width, Q key width.

After "Online Adaptation of Language Models with a Memory of Amortized Contexts" (arXiv 2403.04317) and its code:
four pre-norm blocks x <- x + CrossAttn(LN(x), LN(bank)), x <- x + FF(LN(x)), no self-attention, no final norm. We
depart from it in two ways: a score per document is added to the attention, so that one document of many can win, and
newer documents lower the scores of the older ones they compete with. `AggregatorSettings(document_score=False)` is the
paper's network.

The same function is computed in three forms: `Aggregator.forward` (training), `Aggregator.aggregate_cached` (keys and
values kept) and `Aggregator.aggregate_chunked` (nothing kept, the bank may be a mapped file).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftlm.core.errors import DriftError
from driftlm.memories.bank.attention import RunningAttention, attend, bias_of, mean_of, shares_of

TEMPERATURE, HOTTEST = 10.0, 100.0  # of the cosine of question and document: at first, and at most
STRENGTH = 10.0  # of supersession, at first
SHARPNESS = (
    8.0  # of who supersedes: thousands of documents that are a little alike are not to count as one that matches
)
CHUNK = 1 << 20  # numbers of one chunk, upcast vectors and logits, where the caller names no size
CACHED_CHUNK = 1 << 18  # logits at a time over kept keys and values: what a core's own cache holds


@dataclass(frozen=True)
class AggregatorSettings:
    """The shape of an `Aggregator`; `AggregatorSettings(width=16, vectors=4).inner_hidden == 16`.

    Attributes:
        width: D, of a vector.
        vectors: T, of a question and of every entry.
        blocks: of cross-attention and feed-forward.
        heads: H.
        head_width: E; H x E need not be D.
        hidden: of the feed-forward; 0 means D.
        key_width: Q, of what questions and documents are compared by.
        document_score: whether documents are scored as a whole; without, every score is 0 and keys have no columns.
    """

    width: int
    vectors: int
    blocks: int = 4
    heads: int = 4
    head_width: int = 64
    hidden: int = 0
    key_width: int = 64
    document_score: bool = True

    def __post_init__(self) -> None:
        for name in ("width", "vectors", "blocks", "heads", "head_width", "key_width"):
            if getattr(self, name) < 1:
                raise DriftError(f"The aggregator's {name} is {getattr(self, name)}, but must be at least 1.")
        if self.hidden < 0:
            raise DriftError(f"The aggregator's hidden is {self.hidden}, but must be at least 0 (0: the width).")

    @property
    def inner_hidden(self) -> int:
        """Return the width of the feed-forward's hidden layer."""
        return self.hidden or self.width


@dataclass(frozen=True)
class Projected:
    """A bank's keys and values, kept for `Aggregator.aggregate_cached`.

    Attributes:
        keys: of every block, (H, N * T, E), contiguous.
        values: likewise.
    """

    keys: list[Tensor]
    values: list[Tensor]


class Block(nn.Module):
    """Apply x <- x + out(attention of LN(x) over LN_c(bank)); x <- x + FF(LN(x))."""

    def __init__(self, settings: AggregatorSettings) -> None:
        super().__init__()
        width, inner = settings.width, settings.heads * settings.head_width
        self.heads = settings.heads
        self.norm, self.bank_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_query = nn.Linear(width, inner, bias=False)
        self.to_key = nn.Linear(width, inner, bias=False)
        self.to_value = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, settings.inner_hidden), nn.GELU(), nn.Linear(settings.inner_hidden, width)
        )

    def split(self, rows: Tensor) -> Tensor:
        """Map (G, L, H * E) -> (G, H, L, E)."""
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def queries(self, question: Tensor, groups: int) -> Tensor:
        """Map (R, T, D) -> (G, H, R / G * T, E), already divided by sqrt(E)."""
        queries = self.split(self.to_query(self.norm(question)).reshape(groups, -1, self.to_query.out_features))
        return queries * queries.shape[-1] ** -0.5

    def keys_values(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Map (G, N, T, D) -> two of (G, H, N * T, E)."""
        normed = self.bank_norm(vectors).flatten(1, 2)
        return self.split(self.to_key(normed)), self.split(self.to_value(normed))

    def absorbed_queries(self, question: Tensor, groups: int) -> Tensor:
        """Return queries of the normalised bank itself, (R, T, D) -> (G, H, R / G * T, D).

        q (W_k (gain x + bias)) = (W_k^T q gain) x + a constant of the query, which the softmax takes out.
        """
        weight = self.to_key.weight.unflatten(0, (self.heads, -1))  # (H, E, D)
        return self.queries(question, groups) @ weight * self.bank_norm.weight

    def absorbed_values(self, mean: Tensor) -> Tensor:
        """Return the value of a weighted mean of the normalised bank, (G, H, R / G * T, D) -> (.., E); exact, being
        affine.
        """
        weight = self.to_value.weight.unflatten(0, (self.heads, -1))
        return (mean * self.bank_norm.weight + self.bank_norm.bias) @ weight.transpose(1, 2)

    def residual(self, question: Tensor, attended: Tensor) -> Tensor:
        """Apply what follows attention: (R, T, D), (G, H, R / G * T, E) -> (R, T, D)."""
        merged = attended.transpose(1, 2).flatten(2).reshape(*question.shape[:2], -1)
        question = question + self.out(merged)
        return question + self.feed_forward(self.forward_norm(question))


class Aggregator(nn.Module):
    """Answers a question from a bank.

    >>> aggregator = Aggregator(AggregatorSettings(width=8, vectors=2, heads=2, head_width=4))
    >>> question, vectors, timestamps = torch.randn(1, 2, 8), torch.randn(5, 2, 8), torch.arange(5.0)
    >>> keys = aggregator.document_key(vectors)
    >>> scores = aggregator.document_scores(aggregator.query_key(question), keys, timestamps)
    >>> modulation, shares = aggregator(question, vectors, scores)
    >>> tuple(modulation.shape), tuple(shares.shape), round(shares.sum().item(), 4)
    ((1, 2, 8), (1, 5), 1.0)
    """

    def __init__(self, settings: AggregatorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.blocks))
        if settings.document_score:
            flat = settings.vectors * settings.width
            self.query_norm, self.document_norm = nn.LayerNorm(settings.width), nn.LayerNorm(settings.width)
            self.to_query_key = nn.Linear(flat, settings.key_width, bias=False)
            self.to_document_key = nn.Linear(flat, settings.key_width, bias=False)
            self.log_temperature = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))
            self.raw_strength = nn.Parameter(torch.tensor(math.log(math.expm1(STRENGTH))))

    def query_key(self, question: Tensor) -> Tensor:
        """Return what a question is compared by: LN over D, then linear over T * D, then length 1; (R, T, D) -> (R, Q).

        Q is 0 where documents are not scored.
        """
        if not self.settings.document_score:
            return question.new_empty(len(question), 0)
        return F.normalize(self.to_query_key(self.query_norm(question).flatten(1)), dim=-1)

    def document_key(self, vectors: Tensor) -> Tensor:
        """Return what a document is compared by, kept in the bank beside its vectors; (N, T, D) -> (N, Q), as
        `query_key`.
        """
        if not self.settings.document_score:
            return vectors.new_empty(len(vectors), 0)
        return F.normalize(self.to_document_key(self.document_norm(vectors).flatten(1)), dim=-1)

    def document_scores(self, query: Tensor, keys: Tensor, timestamps: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score how well each document fits each question, the superseded less: (R, Q), (N, Q), (N,) -> (R, N).

        s = temperature * query keys^T, p = softmax_N(8 s), score_k = s_k - strength * sum_j p_j [t_j > t_k].
        A document is superseded by as much as strictly newer ones match the question; those of unknown time neither
        supersede nor are superseded. The paper scores no documents.

        Args:
            query: of `query_key`.
            keys: of `document_key`.
            timestamps: float64; NaN where the time is unknown.
            mask: (R, N) bool, the entries each question may see; the others score -inf and supersede nothing.
        """
        if not self.settings.document_score:
            scores = query.new_zeros(len(query), len(keys))
            return scores if mask is None else scores.masked_fill(~mask, -math.inf)
        scores = self.log_temperature.clamp(max=math.log(HOTTEST)).exp() * (query @ keys.T)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        newer = newer_mass((SHARPNESS * scores).softmax(dim=-1), timestamps)
        return scores - F.softplus(self.raw_strength) * newer

    def forward(
        self,
        question: Tensor,
        vectors: Tensor,
        scores: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        want_shares: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Run the training form: (R, T, D) and a bank -> modulation (R, T, D), shares (R, N).

        Each block's logits for the T vectors of entry n are q k^T / sqrt(E) + 2 score_n. Shares, of the attention on
        each entry, are the mean over blocks, heads and query vectors; they hold no graph.

        Args:
            question: (R, T, D).
            vectors: (N, T, D), the same bank for every question, or (R, N, T, D), one for each.
            scores: (R, N), of `document_scores`; may be -inf where masked.
            mask: (R, N) bool, the entries each question may see, at least one.
            want_shares: without, shares are empty, (R, 0).
        """
        vectors, bias = self.checked(question, vectors, scores, mask)
        shares: list[Tensor] = []
        for block in self.blocks:
            assert isinstance(block, Block)
            keys, values = block.keys_values(vectors)
            attended, weights = attend(block.queries(question, len(vectors)), keys, values, bias)
            if want_shares:
                shares.append(shares_of(weights.detach(), len(question), vectors.shape[1]))
            question = block.residual(question, attended)
        return question, mean_of(shares, question)

    @torch.no_grad()
    def project(self, vectors: Tensor) -> Projected:
        """Return a bank's keys and values for `aggregate_cached`: (N, T, D), blocks x 2 x N * T * H * E numbers."""
        bank, _ = self.checked(vectors[:1], vectors, None, None)
        kept = Projected([], [])
        for block in self.blocks:
            assert isinstance(block, Block)
            keys, values = block.keys_values(bank)
            kept.keys.append(keys[0].contiguous())
            kept.values.append(values[0].contiguous())
        return kept

    @torch.no_grad()
    def aggregate_cached(
        self, question: Tensor, projected: Projected, scores: Tensor | None = None, *, want_shares: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Aggregate as `forward` does from kept keys and values: they are read once, and nothing of the bank is
        computed again.
        """
        entries = projected.keys[0].shape[1] // self.settings.vectors
        bias = bias_of(scores, None, (len(question), entries))
        chunk = max(1, CACHED_CHUNK // (len(question) * self.settings.heads * self.settings.vectors**2))
        shares: list[Tensor] = []
        for block, keys, values in zip(self.blocks, projected.keys, projected.values, strict=True):
            assert isinstance(block, Block)
            running = RunningAttention(block.queries(question, 1), self.settings.vectors, entries if want_shares else 0)
            for part, rows in self.parts(entries, chunk):
                running.add(keys[:, rows], values[:, rows], None if bias is None else bias[:, part])
            if want_shares:
                shares.append(running.shares())
            question = block.residual(question, running.mean)
        return question, mean_of(shares, question)

    def parts(self, entries: int, chunk: int) -> Iterator[tuple[slice, slice]]:
        """Yield the slices of `chunk` entries and of their vectors."""
        for start in range(0, entries, chunk):
            stop = min(entries, start + chunk)
            yield slice(start, stop), slice(start * self.settings.vectors, stop * self.settings.vectors)

    @torch.no_grad()
    def aggregate_chunked(
        self,
        question: Tensor,
        vectors: Tensor,
        scores: Tensor | None = None,
        chunk: int | None = None,
        *,
        want_shares: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Aggregate as `forward` does with nothing kept: a running softmax over chunks of the bank, exact for any size
        of them.

        Keys and values are never made: what makes them is absorbed into the queries and into the mean. Memory is that
        of one chunk, and where shares are wanted R x H x T x N numbers.

        Args:
            question: (R, T, D).
            vectors: (N, T, D) or (R, N, T, D), of any floating type, also mapped; made the question's chunk by chunk.
            scores: (R, N).
            chunk: entries at a time; None takes as many as make about 2^20 numbers.
            want_shares: without, shares are empty, (R, 0).
        """
        bank, bias = self.checked(question, vectors, scores, None)
        if chunk is None:
            numbers = len(bank) * self.settings.width + len(question) * self.settings.heads * self.settings.vectors
            chunk = CHUNK // (numbers * self.settings.vectors)
        shares: list[Tensor] = []
        for block in self.blocks:
            assert isinstance(block, Block)
            queries = block.absorbed_queries(question, len(bank))
            running = RunningAttention(queries, self.settings.vectors, bank.shape[1] if want_shares else 0)
            for part, _ in self.parts(bank.shape[1], max(1, chunk)):
                entries = bank[:, part].to(question.dtype)
                normed = F.layer_norm(entries, entries.shape[-1:], eps=block.bank_norm.eps).flatten(1, 2)
                running.add(normed, normed, None if bias is None else bias[:, part])
            if want_shares:
                shares.append(running.shares())
            question = block.residual(question, block.absorbed_values(running.mean))
        return question, mean_of(shares, question)

    def aggregate(
        self,
        question: Tensor,
        vectors: Tensor,
        scores: Tensor | None = None,
        projected: Projected | None = None,
        chunk: int | None = None,
        *,
        want_shares: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Aggregate by `aggregate_cached` where keys and values were kept, otherwise by `aggregate_chunked`."""
        if projected is not None:
            return self.aggregate_cached(question, projected, scores, want_shares=want_shares)
        return self.aggregate_chunked(question, vectors, scores, chunk, want_shares=want_shares)

    def checked(
        self, question: Tensor, vectors: Tensor, scores: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the bank as (G, N, T, D) with G 1 or R, and what is added to its logits, (R, N)."""
        bank = vectors if vectors.dim() == 4 else vectors[None]
        count, shape = bank.shape[1], (self.settings.vectors, self.settings.width)
        if count == 0:
            raise DriftError("The bank is empty, so there is nothing to aggregate: use the plain language model.")
        if question.shape[1:] != shape or bank.shape[2:] != shape or bank.shape[0] not in (1, len(question)):
            raise DriftError(
                f"The aggregator is made for {shape[0]} vectors of width {shape[1]}, but was given questions of shape "
                f"{tuple(question.shape)} and a bank of shape {tuple(vectors.shape)}."
            )
        return bank, bias_of(scores, mask, (len(question), count))


def preselected(scores: Tensor, k: int) -> Tensor:
    """Find the k best entries of every question, best first: (R, N) -> (R, min(k, N)) int64.

    `vectors[indices]` is then a bank for each question, (R, k, T, D), and `scores.gather(1, indices)` its scores.

    >>> preselected(torch.tensor([[0.1, 0.3, 0.2]]), 2)
    tensor([[1, 2]])
    """
    if k < 1:
        raise DriftError(f"{k} documents were to be preselected, but at least 1 is needed.")
    return scores.topk(min(k, scores.shape[1]), dim=1).indices


def newer_mass(mass: Tensor, timestamps: Tensor) -> Tensor:
    """Return sum_j mass_j [t_j > t_k] for every k, in O(N log N): (R, N), (N,) -> (R, N).

    Entries whose timestamp is NaN give nothing and get nothing; equal timestamps do not count as newer.

    >>> newer_mass(torch.tensor([[0.5, 0.25, 0.125, 0.125]]), torch.tensor([1.0, 2.0, 2.0, math.nan]))
    tensor([[0.3750, 0.0000, 0.0000, 0.0000]])
    """
    unknown = timestamps.isnan()
    ordered, order = timestamps.masked_fill(unknown, -math.inf).sort()
    # Suffix sums in float64: a document's own mass is not to drown in those of 100,000 others.
    later = mass.double().index_select(1, order).flip(1).cumsum(1).flip(1)
    first_newer = torch.searchsorted(ordered, timestamps.masked_fill(unknown, math.inf), right=True)
    return F.pad(later, (0, 1)).index_select(1, first_newer).to(mass.dtype)
