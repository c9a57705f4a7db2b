"""Mixtures written a second time from their definition, with 60 decimal digits and every path spelled out.

Nothing here imports the package. With K experts and probabilities p[k][t] of the tokens, a stream's probability is

* Bayes: the mean over the experts of the product of an expert's probabilities;
* fixed share: the sum over all K^n sequences of experts of (the sequence's probability) x (the product of p along it),
  where the first expert is drawn evenly and, after t tokens, with probability 1 / (t + 1) a new one is drawn evenly.

The nats of a token are those of the stream up to it less those of the stream before it.
"""

from collections.abc import Sequence
from decimal import Decimal, localcontext
from itertools import pairwise, product
from math import prod

DIGITS = 60
Probabilities = Sequence[Sequence[Decimal]]  # (K, n)


def smoothed(nats: Sequence[Sequence[float]], prior: Sequence[float], epsilon: str = "0.001") -> list[list[Decimal]]:
    """Probabilities (K, n) of experts, (1 - epsilon) p + epsilon p_prior, from nats."""
    with localcontext(prec=DIGITS):
        part = Decimal(epsilon)
        return [
            [(1 - part) * probability(one) + part * probability(other) for one, other in zip(row, prior, strict=True)]
            for row in nats
        ]


def probability(nats: float) -> Decimal:
    """exp(-nats)."""
    return Decimal(0) if nats == float("inf") else (-Decimal(nats)).exp()


def bayes(p: Probabilities, tokens: int) -> Decimal:
    """Probability of the first tokens."""
    return sum((prod(row[:tokens], start=Decimal(1)) for row in p), Decimal(0)) / len(p)


def fixed_share(p: Probabilities, tokens: int) -> Decimal:
    """Probability of the first tokens, over all sequences of experts."""
    total = Decimal(0)
    for path in product(range(len(p)), repeat=tokens):
        chance = Decimal(1)
        for t, expert in enumerate(path):
            redrawn = Decimal(1) / (t + 1)  # 1 before the first token: drawn evenly
            stays = 1 - redrawn if t and path[t - 1] == expert else Decimal(0)
            chance *= (redrawn / len(p) + stays) * p[expert][t]
        total += chance
    return total


def nats(p: Probabilities, share: bool) -> list[float]:
    """Nats of every token of a stream."""
    with localcontext(prec=DIGITS):
        whole = [(fixed_share if share else bayes)(p, tokens) for tokens in range(len(p[0]) + 1)]
        return [float((before / after).ln()) for before, after in pairwise(whole)]


def weights(p: Probabilities) -> list[float]:
    """Bayes' weights behind all tokens."""
    with localcontext(prec=DIGITS):
        joint = [prod(row, start=Decimal(1)) for row in p]
        return [float(one / sum(joint, Decimal(0))) for one in joint]
