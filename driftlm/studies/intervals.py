"""Statistics that verdicts stand on: means over texts of paired differences, with intervals over texts."""

import math
from dataclasses import dataclass
from typing import Literal

from driftlm.core.errors import DriftError
from driftlm.evaluation.answering import bootstrap_interval
from driftlm.studies.study import Verdict

FEWEST = 3  # texts, below which nothing is decided


@dataclass(frozen=True)
class Difference:
    """The mean over texts of one number each, such as the fraction by which two settings differ on it.

    Attributes:
        mean: of the texts.
        low: end of the 95 % interval.
        high: its other end.
        texts: how many.
        each: by text.
    """

    mean: float
    low: float
    high: float
    texts: int
    each: dict[str, float]

    def verdict(self, side: Literal["below", "above"], margin: float = 0.0) -> Verdict:
        """Tell whether the whole interval is on a side of `margin`, a fraction; undecided under 3 texts.

        >>> [Difference(-0.05, -0.08, high, 5, {}).verdict("below") for high in (-0.02, 0.01)]
        ['supported', 'undecided']
        """
        if self.texts < FEWEST:
            return "undecided"
        if self.high < margin:
            return "supported" if side == "below" else "not supported"
        if self.low > margin:
            return "supported" if side == "above" else "not supported"
        return "undecided"

    def percent(self) -> str:
        """Return the interval in percent, for a sentence.

        >>> Difference(-0.0512, -0.08, -0.02, 5, {}).percent()
        '−5.1 % (95 % interval −8.0 to −2.0 %, 5 texts)'
        """
        mean, low, high = (f"{100 * one:+.1f}".replace("-", "−") for one in (self.mean, self.low, self.high))
        if self.texts < FEWEST:
            return f"{mean} % ({self.texts} text{'s' * (self.texts > 1)}, too few for an interval)"
        return f"{mean} % (95 % interval {low} to {high} %, {self.texts} texts)"


def over_texts(each: dict[str, float]) -> Difference:
    """Return the mean of one number a text, with its interval, which says how far it holds for other texts, not other
    seeds.

    Args:
        each: by text, the mean of its seeds.

    Raises:
        DriftError: where there is none.

    Example:
        >>> over_texts({"x": 0.1, "y": 0.1, "z": 0.1}).verdict("above")
        'supported'

    Source: percentile bootstrap, Efron and Tibshirani 1993, section 13.3; of paired differences, section 16.4.
    """
    if not each:
        raise DriftError("a mean over no text was asked for; run the study again, whole.")
    values = list(each.values())
    low, high = bootstrap_interval(values)
    return Difference(math.fsum(values) / len(values), low, high, len(values), each)
