"""The paper's hierarchical aggregation: groups of M at a time, then groups of their aggregates.

Letters: R questions, N bank entries, T vectors each, D width, Q key width, M entries of a group, n entries left.

"Online Adaptation of Language Models with a Memory of Amortized Contexts" (arXiv 2403.04317), with which memory is
that of M entries and the R x n aggregates. It is an approximation: `Aggregator.aggregate_chunked` needs as little
memory and is exact. It is here to measure what the approximation costs, and to be trained for: networks that never met
an aggregate in a document's place have no reason to read it well.
"""

import math

import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.bank.aggregate import Aggregator

Trace = list[list[list[int]]]


def hierarchical(
    aggregator: Aggregator, question: Tensor, vectors: Tensor, keys: Tensor, timestamps: Tensor, group: int
) -> tuple[Tensor, Trace]:
    """Replace every M in order by their aggregate for the question while more than M remain; then aggregate the rest.

    n <- ceil(n / M), which is less than n for M >= 2, so that it ends; a last group of one is aggregated like any
    other. Where N <= M it is the exact aggregate.

    We depart from the paper, which scores no documents: documents are scored on the whole bank at first, so that any
    may supersede any, and an aggregate's score is the logsumexp of its members'. Where the aggregator scores no
    documents neither are aggregates scored, which is the paper's.

    >>> from driftlm.memories.bank.aggregate import AggregatorSettings
    >>> aggregator = Aggregator(AggregatorSettings(width=8, vectors=2, heads=2, head_width=4))
    >>> vectors = torch.randn(5, 2, 8)
    >>> keys = aggregator.document_key(vectors)
    >>> modulation, trace = hierarchical(aggregator, torch.randn(1, 2, 8), vectors, keys, torch.arange(5.0), group=2)
    >>> trace
    [[[0, 1], [2, 3], [4]], [[0, 1, 2, 3], [4]], [[0, 1, 2, 3, 4]]]

    Args:
        aggregator: of the paper or ours.
        question: (R, T, D).
        vectors: (N, T, D).
        keys: (N, Q), of `Aggregator.document_key`.
        timestamps: (N,), NaN where unknown.
        group: M.

    Returns:
        The modulation, (R, T, D), and at every level the documents behind each group.
    """
    scores = None
    if aggregator.settings.document_score:
        scores = aggregator.document_scores(aggregator.query_key(question), keys, timestamps)
    modulation, _, trace = in_groups(aggregator, question, vectors, group, scores)
    return modulation, trace


def in_groups(
    aggregator: Aggregator,
    question: Tensor,
    vectors: Tensor,
    group: int,
    scores: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Trace]:
    """Aggregate as `hierarchical` does with scores made before and entries that a question may not see; the training
    form.

    A group of which a question sees nothing is, for that question, an aggregate that it does not see.

    Args:
        aggregator: of the paper or ours.
        question: (R, T, D).
        vectors: (N, T, D).
        group: M.
        scores: (R, N), of `document_scores`; may be -inf where masked.
        mask: (R, N) bool, the entries each question may see, at least one.

    Returns:
        The modulation, (R, T, D); shares, (R, N), of the attention that reaches each entry, the product of those on
        its way; and at every level the documents behind each group.
    """
    if group < 2:
        raise DriftError(f"Groups of {group} never make a bank smaller: give at least 2.")
    seen = torch.ones(len(question), len(vectors), dtype=torch.bool, device=vectors.device) if mask is None else mask
    behind = [[document] for document in range(len(vectors))]
    shares, inside = question.new_ones(seen.shape), torch.arange(len(vectors), device=vectors.device)
    bank, trace = vectors, Trace()  # (N, T, D) at first; then each question has its own, (R, n, T, D)
    while True:
        left = len(behind)
        parts = [slice(start, start + group) for start in range(0, max(left, 1), group)]
        # Where a question sees nothing of a group any numbers will do, as long as they and their gradients are finite.
        nothing = [~seen[:, part].any(dim=1, keepdim=True) & (left > group) for part in parts]
        scored = [None if scores is None else scores[:, p].masked_fill(no, 0.0) for p, no in zip(parts, nothing)]
        aggregates, weights = zip(
            *(
                aggregator(question, bank[..., part, :, :].to(question.dtype), score, seen[:, part] | no)
                for part, score, no in zip(parts, scored, nothing)
            )
        )
        shares = shares * torch.cat(weights, dim=1)[:, inside]
        behind = [[document for documents in behind[part] for document in documents] for part in parts]
        trace.append(behind)
        if len(parts) == 1:
            return aggregates[0], shares, trace
        bank, inside = torch.stack(aggregates, dim=1), inside // group
        seen = torch.cat([~no for no in nothing], dim=1)
        if scores is not None:
            above = torch.stack([score.logsumexp(dim=1) for score in scored if score is not None], dim=1)
            scores = above.masked_fill(~seen, -math.inf)
