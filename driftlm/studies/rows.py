"""What conclusions and charts take from rows: values by text, means over texts, sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.studies.intervals import FEWEST, Difference, over_texts
from driftlm.studies.study import Conclusion, Row, Verdict

Each = dict[str, float]  # by text
Point = dict[str, Any]  # of `driftlm.studies.drawing`


def by_text(rows: Sequence[Row], setting: str, value: str = "bits_per_byte") -> Each:
    """Return a value of a setting for each text, the mean of its seeds; empty where nothing was measured.

    Example:
        >>> rows = [{"setting": "a", "text": "x", "gain": gain} for gain in (1.0, 2.0)]
        >>> by_text(rows, "a", "gain")
        {'x': 1.5}
    """
    held: dict[str, list[float]] = {}
    for row in rows:
        if row["setting"] == setting and row.get(value) is not None:
            held.setdefault(row["text"], []).append(row[value])
    return {text: mean(values) for text, values in held.items()}


def mean(values: Sequence[float]) -> float:
    """Return the mean of some numbers."""
    return math.fsum(values) / len(values)


def mean_of(rows: Sequence[Row], setting: str, value: str) -> float:
    """Return a value's mean over the texts of a setting.

    Raises:
        DriftError: where the setting was not measured.
    """
    return mean(list(measured(rows, setting, value).values()))


def measured(rows: Sequence[Row], setting: str, value: str = "bits_per_byte") -> Each:
    """Refuse an empty `by_text`; return it.

    Raises:
        DriftError: where it is.
    """
    each = by_text(rows, setting, value)
    if not each:
        raise DriftError(f"no row holds {value} of the setting {setting!r}; run the study again, whole.")
    return each


def relative(before: Each, after: Each) -> Each:
    """Return (after − before) / before, for the texts of both.

    Example:
        >>> relative({"x": 2.0, "y": 1.0}, {"x": 1.0})
        {'x': -0.5}
    """
    return {text: after[text] / before[text] - 1 for text in before if text in after}


def settings_of(rows: Sequence[Row]) -> list[str]:
    """Return the settings in the order of the rows, each once."""
    return list(dict.fromkeys(row["setting"] for row in rows))


def combined(*verdicts: Verdict) -> Verdict:
    """Return the verdict of a claim with several parts: one part against it is enough.

    Example:
        >>> combined("supported", "undecided"), combined("undecided", "not supported")
        ('undecided', 'not supported')
    """
    if "not supported" in verdicts:
        return "not supported"
    return "supported" if all(one == "supported" for one in verdicts) else "undecided"


def concluded(verdict: Verdict, because: str, figures: Mapping[str, Any]) -> Conclusion:
    """Return a conclusion whose sentence begins with the verdict."""
    return Conclusion(verdict, f"{verdict.capitalize()}: {because}", dict(figures))


def figure(difference: Difference) -> dict[str, Any]:
    """Return a mean with its interval as JSON; without an interval under 3 texts."""
    low, high = _interval(difference)
    return {"mean": difference.mean, "low": low, "high": high, "texts": difference.texts}


def point(label: Any, group: str, each: Each, *, times: float = 1.0, **more: Any) -> Point:
    """Return a point of a chart: the mean over texts of a value, in units of 1 / `times`."""
    difference = over_texts(each)
    low, high = _interval(difference)
    ends = {"low": None if low is None else times * low, "high": None if high is None else times * high}
    return {"label": label, "group": group, "value": times * difference.mean, **ends, **more}


def plain(label: Any, group: str, value: float, **more: Any) -> Point:
    """Return a point without an interval."""
    return {"label": label, "group": group, "value": value, "low": None, "high": None, **more}


def _interval(difference: Difference) -> tuple[float | None, float | None]:
    return (difference.low, difference.high) if difference.texts >= FEWEST else (None, None)
