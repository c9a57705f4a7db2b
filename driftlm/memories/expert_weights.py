"""How the experts of a mixture stand while it reads: their names, weights, and which of them leads."""

from collections.abc import Sequence
from dataclasses import dataclass

TIE = 1e-6  # weights that differ by less are alike


def rate_of(expert: str) -> float:
    """Return the learning rate at the end of an expert's name.

    Example:
        >>> rate_of("sgd:0.05")
        0.05
    """
    return float(expert.rpartition(":")[2])


@dataclass(frozen=True)
class ExpertWeights:
    """Weights of a mixture's experts, in their order, behind `tokens` tokens that end in `document`."""

    tokens: int
    document: str
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Lead:
    """Which expert of a mixture weighs most, since how many tokens, and after which other one."""

    expert: int
    since: int = 0
    before: int | None = None
    changes: int = 0


def lead_after(lead: Lead | None, weights: Sequence[float], tokens: int) -> Lead | None:
    """Return the lead behind a window that begins after `tokens` tokens; an expert takes it only with a larger weight.

    Args:
        lead: before the window, None where no expert had more weight than the others.
        weights: behind it; none without a mixture.
        tokens: scored before it.

    Example:
        >>> lead_after(Lead(0), (0.2, 0.8), 512)
        Lead(expert=1, since=512, before=0, changes=1)
    """
    if not weights:
        return None
    best = max(range(len(weights)), key=weights.__getitem__)
    if lead is None:
        return Lead(best, tokens) if weights[best] > min(weights) + TIE else None
    if weights[best] <= weights[lead.expert] + TIE:
        return lead
    return Lead(best, tokens, lead.expert, lead.changes + 1)
