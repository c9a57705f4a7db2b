"""The paper's hierarchical aggregation: groups of M at a time, then groups of their aggregates.

Letters: R questions, N bank entries, T vectors each, D width, Q key width, M entries of a group, n entries left.

"Online Adaptation of Language Models with a Memory of Amortized Contexts" (arXiv 2403.04317), with which memory is
that of M entries and the R x n aggregates. It is an approximation: `Aggregator.aggregate_chunked` needs as little
memory and is exact. It is here to measure what the approximation costs.
"""

import torch
from torch import Tensor

from driftlm.bank.aggregate import Aggregator
from driftlm.errors import DriftError

Trace = list[list[list[int]]]


def hierarchical(
    aggregator: Aggregator, question: Tensor, vectors: Tensor, keys: Tensor, moments: Tensor, group: int
) -> tuple[Tensor, Trace]:
    """While more than M remain, replace every M in order by their aggregate for the question; then aggregate the rest.

    n <- ceil(n / M), which is less than n for M >= 2, so that it ends; a last group of one is aggregated like any
    other. Where N <= M it is the exact aggregate.

    We depart from the paper, which scores no documents: documents are scored on the whole bank at first, so that any
    may supersede any, and an aggregate's score is the logsumexp of its members'. Where the aggregator scores no
    documents neither are aggregates scored, which is the paper's.

    >>> from driftlm.bank.aggregate import AggregatorSettings
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
        moments: (N,), NaN where unknown.
        group: M.

    Returns:
        The modulation, (R, T, D), and at every level the documents behind each group.
    """
    if group < 2:
        raise DriftError(f"Groups of {group} never make a bank smaller: give at least 2.")
    scores = None
    if aggregator.settings.document_score:
        scores = aggregator.document_scores(aggregator.query_key(question), keys, moments)
    behind = [[document] for document in range(len(vectors))]
    bank, trace = vectors, Trace()  # (N, T, D) at first; then each question has its own, (R, n, T, D)
    while True:
        left = len(behind)
        parts = [slice(start, start + group) for start in range(0, max(left, 1), group)]
        aggregates = [
            aggregator(
                question,
                bank[..., part, :, :].to(question.dtype),
                None if scores is None else scores[:, part],
                want_shares=False,
            )[0]
            for part in parts
        ]
        behind = [[document for inside in behind[part] for document in inside] for part in parts]
        trace.append(behind)
        if len(parts) == 1:
            return aggregates[0], trace
        bank = torch.stack(aggregates, dim=1)
        if scores is not None:
            scores = torch.stack([scores[:, part].logsumexp(dim=1) for part in parts], dim=1)
