"""A bank of fewer entries: drawn at random, or averaged at random or by likeness.

Letters: N bank entries, T vectors each, D width, Q key width.

The three ways of bounding the bank in "Online Adaptation of Language Models with a Memory of Amortized Contexts"
(arXiv 2403.04317): random pruning, random averaging, nearest-neighbour averaging. What neighbours are we decide by
document keys, which the paper has not: they are fewer numbers than the vectors, and trained to tell documents apart.
"""

from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from driftlm.core.errors import DriftError

SIMILARITIES = 1 << 23  # held at once while looking for nearest neighbours


class Reduced(NamedTuple):
    """A bank and what its entries came from.

    Attributes:
        vectors: (N, T, D).
        keys: (N, Q), of length 1.
        timestamps: (N,); NaN where unknown.
        members: of each entry, which entries of the first bank it is the mean of.
    """

    vectors: Tensor
    keys: Tensor
    timestamps: Tensor
    members: list[list[int]]

    @classmethod
    def of(cls, vectors: Tensor, keys: Tensor, timestamps: Tensor) -> Self:
        """Return a bank before any reduction; `Reduced.of(vectors, keys, timestamps).members == [[0], [1], ...]`."""
        return cls(vectors, keys, timestamps, [[entry] for entry in range(len(vectors))])


def pruned(bank: Reduced, to: int, seed: int) -> Reduced:
    """Draw `to` entries at random, in the order they had.

    >>> bank = Reduced.of(torch.randn(4, 1, 2), torch.randn(4, 3), torch.arange(4.0))
    >>> [len(part) for part in pruned(bank, 2, seed=0)]
    [2, 2, 2, 2]
    """
    check(bank, to)
    kept = np.sort(np.random.default_rng(seed).permutation(len(bank.members))[:to])
    rows = torch.from_numpy(kept).to(bank.vectors.device)
    members = [bank.members[entry] for entry in kept.tolist()]
    return Reduced(bank.vectors[rows], bank.keys[rows], bank.timestamps[rows], members)


def averaged(bank: Reduced, to: int, seed: int) -> Reduced:
    """Make `to` groups at random, of sizes that differ by one at most, and replace each by its mean as in `merged`.

    >>> bank = Reduced.of(torch.ones(4, 1, 2), torch.ones(4, 1), torch.arange(4.0))
    >>> [len(part) for part in averaged(bank, 2, seed=0).members]
    [2, 2]
    """
    check(bank, to)
    groups = np.empty(len(bank.members), dtype=np.int64)
    groups[np.random.default_rng(seed).permutation(len(groups))] = np.arange(len(groups)) % to
    return merged(bank, groups)


def nearest_averaged(bank: Reduced, to: int) -> Reduced:
    """Merge entries with their nearest neighbour by key cosine, the likest pairs first, until `to` are left.

    In rounds: the nearest neighbour of every entry is found, then pairs are merged from the likest on, leaving out
    those of which one was merged in this round, whose key has changed. So it takes a few passes of O(N^2 Q) in O(N)
    memory where merging one pair at a time would take N of O(N Q) at best; the first pair of every round is the
    likest there is.

    >>> bank = Reduced.of(torch.tensor([[[1.0]], [[2.0]], [[6.0]]]), torch.eye(2)[[0, 0, 1]], torch.arange(3.0))
    >>> nearest_averaged(bank, 2).vectors.flatten(), nearest_averaged(bank, 2).members
    (tensor([1.5000, 6.0000]), [[0, 1], [2]])
    """
    check(bank, to)
    if not bank.keys.shape[1]:
        raise DriftError("The bank's documents have no keys to be likened by: average at random instead.")
    groups = np.arange(len(bank.members))
    sums = bank.keys * sizes(bank)[:, None]
    while len(sums) > to:
        likeness, neighbour = nearest(F.normalize(sums, dim=-1))
        renamed = paired(likeness.tolist(), neighbour.tolist(), len(sums) - to)
        groups = renamed[groups]
        into = torch.from_numpy(renamed).to(sums.device)
        sums = sums.new_zeros(int(renamed.max()) + 1, sums.shape[1]).index_add(0, into, sums)
    return merged(bank, groups)


def nearest(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Find cosine and index of every entry's nearest other, by blocks of rows: (N, Q), N >= 2 -> (N,), (N,)."""
    count = len(keys)
    rows = max(1, SIMILARITIES // count)
    likeness, neighbour = [], []
    for start in range(0, count, rows):
        block = keys[start : start + rows] @ keys.T
        own = torch.arange(len(block), device=keys.device)
        block[own, own + start] = -torch.inf
        best = block.max(dim=1)
        likeness.append(best.values)
        neighbour.append(best.indices)
    return torch.cat(likeness), torch.cat(neighbour)


def paired(likeness: list[float], neighbour: list[int], merges: int) -> np.ndarray:
    """Return the new index of every entry after at most `merges` mergers of disjoint pairs, the likest first; order is
    kept.
    """
    first = list(range(len(likeness)))
    taken = [False] * len(first)
    for entry in sorted(first.copy(), key=lambda one: -likeness[one]):
        other = neighbour[entry]
        if merges and not taken[entry] and not taken[other]:
            taken[entry] = taken[other] = True
            first[max(entry, other)] = min(entry, other)
            merges -= 1
    return np.unique(first, return_inverse=True)[1]


def merged(bank: Reduced, groups: np.ndarray) -> Reduced:
    """Return one entry for every group, in the order of their first: mean vectors, mean key made length 1, newest
    timestamp.

    Means are over first entries, so that reducing twice weighs them alike. Of known and unknown timestamps the newest
    known counts.
    """
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[inverse]
    count, into = len(first), torch.from_numpy(rank).to(bank.vectors.device)
    members: list[list[int]] = [[] for _ in range(count)]
    for group, inside in zip(rank.tolist(), bank.members):
        members[group].extend(inside)
    weights = sizes(bank)
    total = weights.new_zeros(count).index_add(0, into, weights)
    share = weights / total[into]
    vectors = torch.zeros(count, *bank.vectors.shape[1:], device=into.device)
    for start in range(0, len(rank), 1024):  # a half-precision or mapped bank is made float32 a part at a time
        part = slice(start, start + 1024)
        vectors.index_add_(0, into[part], bank.vectors[part].float() * share[part, None, None])
    keys = bank.keys.new_zeros(count, bank.keys.shape[1]).index_add(0, into, bank.keys * share[:, None].to(bank.keys))
    known = bank.timestamps.masked_fill(bank.timestamps.isnan(), -torch.inf)
    timestamps = known.new_full((count,), -torch.inf).scatter_reduce(0, into, known, "amax")
    timestamps = timestamps.masked_fill(timestamps == -torch.inf, torch.nan)
    return Reduced(vectors.to(bank.vectors.dtype), F.normalize(keys, dim=-1), timestamps, [sorted(m) for m in members])


def sizes(bank: Reduced) -> Tensor:
    """Return how many first entries each is the mean of, (N,) float32."""
    return torch.tensor([float(len(inside)) for inside in bank.members], device=bank.vectors.device)


def check(bank: Reduced, to: int) -> None:
    """Refuse a size that no reduction has."""
    if not 1 <= to <= len(bank.members):
        raise DriftError(f"A bank of {len(bank.members)} entries cannot be reduced to {to}: give 1 to that many.")
