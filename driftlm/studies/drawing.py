"""Charts of studies, as Vega-Lite: means with their intervals. Needs the `report` extra; import it where one is drawn.

Points are JSON objects; `low` and `high` are the ends of an interval, or None, and then no bar is drawn.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke", "triangle-right"]
ROW = 24  # pixels a line of `dots`
WIDTH = 640  # pixels of a chart, about
LETTER = 5.5  # pixels of a letter of a label, about; half a line
Point = dict[str, Any]
Specification = dict[str, Any]  # Vega-Lite JSON
Axis = Literal["x", "y"]


def dots(points: Sequence[Point], title: str, *, at: float | None = 0.0) -> Specification:
    """Return one line a label: the value as a dot, its interval as a bar; groups that share a label lie below each
    other.

    Args:
        points: of keys label, group, value, low, high.
        title: of the values' axis.
        at: where a line marks no difference; None for no line.
    """
    groups, labels = _groups(points), list(dict.fromkeys(point["label"] for point in points))
    y = alt.Y("label:N", title=None, sort=labels, axis=alt.Axis(labelLimit=260))
    base = alt.Chart(alt.InlineData(values=list(points))).encode(y=y, color=_hue(groups))
    shared = len({(point["label"], point["group"]) for point in points}) > len(labels)
    if shared:
        base = base.encode(yOffset=alt.YOffset("group:N", sort=groups))
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6, grid=True))
    marks = base.mark_point(filled=True, size=70, opacity=1).encode(x=x, shape=_shape(groups), tooltip=_tooltip(title))
    rows = max(3, len(labels)) * max(ROW, 13 * len(groups) * shared)
    return specification([*_mark_at(at, "x"), *_bars(base, points, "x"), marks], rows)


def lines(
    points: Sequence[Point],
    across: str,
    title: str,
    *,
    log: bool = False,
    at: float | None = None,
    linear: float = math.inf,
    height: int = 260,
) -> Specification:
    """Return a line a group through its values over `x`, with their intervals as bars.

    Args:
        points: of keys x, group, value, low, high.
        across: title of the axis of `x`.
        title: of the values' axis.
        log: steps of `x` are factors.
        at: where a line marks no difference; None for no line.
        linear: values from 0 far beyond this are drawn by their logarithm.
        height: in pixels.
    """
    groups = _groups(points)
    x = alt.X("x:Q", title=across, scale=_scale(log, [point["x"] for point in points]), axis=_axis(points, log))
    scale, axis = alt.Scale(zero=False), alt.Axis(tickCount=6)
    if linear < math.inf:
        most = max(point["value"] if point["high"] is None else point["high"] for point in points)
        ticks = [0.0, *(tick for tick in decades(linear) if tick <= most)]
        scale, axis = alt.Scale(type="symlog", constant=linear), alt.Axis(values=ticks, labelExpr="datum.value")
    y = alt.Y("value:Q", title=title, scale=scale, axis=axis)
    base = alt.Chart(alt.InlineData(values=list(points))).encode(x=x, color=_hue(groups))
    line = base.mark_line(strokeWidth=2.5).encode(y=y)
    dot = base.mark_point(filled=True, size=60, opacity=1)
    dot = dot.encode(y=y, shape=_shape(groups), tooltip=[alt.Tooltip("x:Q", title=across), *_tooltip(title)])
    return specification([*_mark_at(at, "y"), *_bars(base, points, "y"), line, dot], height)


def decades(start: float) -> list[float]:
    """Return the ticks of 1, 2 and 5 from a power of ten on, over six decades.

    Example:
        >>> decades(0.1)[:5]
        [0.1, 0.2, 0.5, 1.0, 2.0]
    """
    return [float(f"{start * step * 10**decade:.3g}") for decade in range(6) for step in (1, 2, 5)]


def fronts(points: Sequence[Point], across: str, title: str, *, height: int = 340) -> Specification:
    """Return what is reached at which cost: a dot a point, on a logarithmic axis of cost, and each group's Pareto
    front.

    Args:
        points: of keys x (the cost), group, value (lower is better), low, high, label.
        across: title of the axis of cost.
        title: of the values' axis.
        height: in pixels.
    """
    groups = _groups(points)
    x = alt.X("x:Q", title=across, scale=_scale(True, [p["x"] for p in points]), axis=alt.Axis(format="~s"))
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))
    best = [one for group in groups for one in front([p for p in points if p["group"] == group])]
    base = alt.Chart(alt.InlineData(values=list(points))).encode(x=x, color=_hue(groups))
    stairs = alt.Chart(alt.InlineData(values=best)).mark_line(interpolate="step-after", strokeWidth=2)
    dot = base.mark_point(filled=True, size=60, opacity=1)
    shown = ["label:N", alt.Tooltip("x:Q", title=across, format=".4s"), *_tooltip(title)]
    names = [
        alt.Chart(alt.InlineData(values=there))
        .mark_text(align="left", dx=7, dy=dy, fontSize=10)
        .encode(x=x, y=y, text="label:N")
        for dy, there in legible(best, points, height).items()
        if there
    ]
    layers = [
        *_bars(base, points, "y", opacity=0.25),
        stairs.encode(x=x, y=y, color=_hue(groups)),
        dot.encode(y=y, shape=_shape(groups), tooltip=shown),
        *names,
    ]
    return specification(layers, height)


def legible(named: Sequence[Point], points: Sequence[Point], height: int) -> dict[int, list[Point]]:
    """Return the points by how far below them their label is drawn, pixels; one whose label would lie on another has
    none.

    Example:
        >>> three = [{"x": x, "value": 1.0, "low": 0.0, "high": 2.0, "label": "a"} for x in (100.0, 100.1, 200.0)]
        >>> [[point["x"] for point in there] for there in legible(three[:2], three, 300).values()]
        [[100.0], [100.1]]
    """
    ends = [end for point in points for end in (point["value"], point["low"], point["high"]) if end is not None]
    across = WIDTH / (math.log(max(p["x"] for p in points) / min(p["x"] for p in points)) or 1.0)
    down = height / (max(ends) - min(ends) or 1.0)
    found: dict[int, list[Point]] = {-8: [], 10: []}
    boxes: list[tuple[float, float, float]] = []  # left, right, middle
    for point in {(one["x"], one["value"], one["label"]): one for one in named}.values():
        for dy, there in found.items():
            left, middle = across * math.log(point["x"]), dy - down * point["value"]
            right = left + LETTER * len(point["label"])
            if all(right < one or left > other or abs(middle - line) > LETTER * 2 for one, other, line in boxes):
                boxes.append((left, right, middle))
                there.append(point)
                break
    return found


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats at its cost or less, by rising cost.

    Example:
        >>> [p["x"] for p in front([{"x": 3, "value": 2}, {"x": 1, "value": 3}, {"x": 2, "value": 4}])]
        [1, 3]
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (one["x"], one["value"])):
        if not best or point["value"] < best[-1]["value"]:
            best.append(point)
    return best


def specification(layers: Sequence[alt.Chart], height: int) -> Specification:
    """Return the layers as Vega-Lite that altair has checked against the schema; raises ValueError rather than hold a
    NaN.
    """
    spec: Specification = alt.layer(*layers).properties(height=height).to_dict()
    json.dumps(spec, allow_nan=False)
    return spec


def _groups(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point["group"] for point in points))


def _hue(groups: Sequence[str]) -> alt.Color:
    # Not above: a module that needs an extra is imported where it is used.
    from driftlm.report.charts import ADAPTED, GAIN, GUARD, STATIC

    in_turn = [ADAPTED, GAIN, GUARD, "#1f78b4", "#a6761d", "#8c8c8c"]
    learning = [group for group in groups if not group.startswith("static")]
    hues = {group: in_turn[i % len(in_turn)] for i, group in enumerate(learning)}
    scale = alt.Scale(domain=list(groups), range=[hues.get(group, STATIC) for group in groups])
    return alt.Color("group:N", scale=scale, legend=_legend(groups))


def _shape(groups: Sequence[str]) -> alt.Shape:
    scale = alt.Scale(domain=list(groups), range=[SHAPES[i % len(SHAPES)] for i in range(len(groups))])
    return alt.Shape("group:N", scale=scale, legend=_legend(groups))


def _legend(groups: Sequence[str]) -> alt.Legend | None:
    return alt.Legend(symbolSize=80, labelLimit=260, columns=5) if len(groups) > 1 else None


def _tooltip(title: str) -> list[Any]:
    value = alt.Tooltip("value:Q", title=title, format=".4f")
    return ["group:N", value, alt.Tooltip("low:Q", format=".4f"), alt.Tooltip("high:Q", format=".4f")]


def _bars(base: alt.Chart, points: Sequence[Point], axis: Axis, opacity: float = 0.75) -> list[alt.Chart]:
    """Return the intervals; none where no point has one, as Vega-Lite would scale an empty layer from nothing."""
    if not any(point["low"] is not None for point in points):
        return []
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, opacity=opacity)
    return [bars.encode(x="low:Q", x2="high:Q") if axis == "x" else bars.encode(y="low:Q", y2="high:Q")]


def _mark_at(at: float | None, axis: Axis) -> list[alt.Chart]:
    if at is None:
        return []
    rule = alt.Chart(alt.InlineData(values=[{"at": at}])).mark_rule(strokeWidth=1.5)
    return [rule.encode(**{axis: "at:Q"})]


def _scale(log: bool, values: Sequence[float]) -> alt.Scale:
    if not log:
        return alt.Scale(zero=False)
    return alt.Scale(type="log", domain=[min(values) / 1.15, max(values) * 1.15], nice=False)


def _axis(points: Sequence[Point], log: bool) -> alt.Axis:
    values = sorted({point["x"] for point in points})
    form = "~e" if values[-1] < 1 else ".3~s" if values[-1] >= 10_000 else "~g"
    if log and len(values) <= 12 and values[0] >= 1:
        return alt.Axis(values=values, format=form)
    return alt.Axis(tickCount=6, format=form)
