"""Means over texts against hand computation, and verdicts at their borders."""

from typing import Any

import pytest

from driftlm.core.errors import DriftError
from driftlm.studies.intervals import Difference, over_texts


def test_the_mean_is_over_texts_and_of_none_is_refused() -> None:
    found = over_texts({"x": -0.25, "y": 0.1, "z": -0.5})
    assert found.mean == pytest.approx(-0.65 / 3) and found.texts == 3
    assert -0.51 < found.low < found.mean < found.high < 0.11
    with pytest.raises(DriftError, match="no text"):
        over_texts({})


@pytest.mark.parametrize(
    ("low", "high", "texts", "side", "margin", "verdict"),
    [
        (-0.3, -0.1, 3, "below", 0.0, "supported"),
        (-0.3, -0.1, 3, "above", 0.0, "not supported"),
        (0.1, 0.3, 3, "below", 0.0, "not supported"),
        (0.1, 0.3, 3, "above", 0.0, "supported"),
        (-0.1, 0.1, 9, "below", 0.0, "undecided"),
        (-0.3, -0.1, 2, "below", 0.0, "undecided"),
        (0.001, 0.004, 5, "below", 0.005, "supported"),
        (0.001, 0.006, 5, "below", 0.005, "undecided"),
    ],
)
def test_verdicts(low: float, high: float, texts: int, side: Any, margin: float, verdict: str) -> None:
    assert Difference((low + high) / 2, low, high, texts, {}).verdict(side, margin) == verdict


def test_the_interval_is_of_texts() -> None:
    """Resampled means of three texts that all agree do not differ; one of them apart makes it wide."""
    assert over_texts({"x": 0.5, "y": 0.5, "z": 0.5}).verdict("above") == "supported"
    found = over_texts({"x": -0.5, "y": 0.5, "z": 0.5})
    assert found.low == pytest.approx(-0.5) and found.high == 0.5  # all three drawn alike: 1 of 27
