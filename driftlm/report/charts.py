"""The charts of a report, as Vega-Lite. Needs the `report` extra; import it where a chart is made."""

import colorsys
import json
import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import altair as alt
import vl_convert

from driftlm.memories.expert_weights import rate_of
from driftlm.report.tally import PositionBin, Tally

STATIC = "#6b8299"  # grey-blue; both hues keep 3:1 against a white and a near-black page
ADAPTED = "#e8710a"  # orange
GAIN = "#1b9e77"  # green
GUARD = "#b5478b"  # purple
DOTTED = 30  # points up to which each is drawn as a dot: one alone would make no line
MARKED_DOCUMENTS = 40  # documents up to which their beginnings are drawn
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])  # the version altair's specs are written in

_KILO = alt.Axis(format="~s", tickCount=6, labelExpr="datum.value ? datum.label : '0'")  # d3 would write 0k

Width = int | Literal["container"]
Specification = dict[str, Any]  # Vega-Lite JSON


def theme(dark: bool = False) -> dict[str, Any]:
    """Return a Vega-Lite config for a light or a dark page; the background is the page's own."""
    text, soft, line = ("#e6e6e6", "#b4b8bf", "#3a3f47") if dark else ("#1f2328", "#59606a", "#dde1e6")
    fonts = "system-ui, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
    return {
        "font": fonts,
        "background": "transparent",
        "view": {"stroke": None},
        "axis": {
            "labelColor": soft,
            "titleColor": text,
            "gridColor": line,
            "domainColor": soft,
            "tickColor": soft,
            "labelFontSize": 12,
            "titleFontSize": 13,
            "titleFontWeight": 500,
            "titlePadding": 8,
        },
        "axisX": {"grid": False},
        "legend": {
            "orient": "top",
            "title": None,
            "labelColor": text,
            "labelFontSize": 13,
            "symbolStrokeWidth": 3,
            "symbolOpacity": 1,
            "symbolSize": 120,  # a filled symbol is as high as a letter
            "offset": 4,
        },
        "title": {
            "color": text,
            "subtitleColor": soft,
            "fontSize": 17,
            "fontWeight": 600,
            "subtitleFontSize": 12.5,
            "subtitlePadding": 6,
            "subtitleLineHeight": 17,
            "anchor": "start",
            "offset": 14,
        },
        "rule": {"color": soft},
        "text": {"color": text},
    }


def _tokens_axis(tally: Tally) -> alt.X:
    return alt.X(
        "tokens:Q",
        title="tokens read",
        axis=_KILO,
        scale=alt.Scale(domain=[0, max(1, tally.total.tokens)], nice=False),
    )


def marks_beginnings(tally: Tally) -> bool:
    """Tell whether lines mark where documents begin: as long as they are few."""
    return 2 <= tally.documents <= MARKED_DOCUMENTS


def _beginnings(tally: Tally) -> list[alt.Chart]:
    if not marks_beginnings(tally):
        return []
    rows = [{"tokens": row.start, "document": row.id} for row in tally.rows[1:]]
    chart = alt.Chart(alt.InlineData(values=rows)).mark_rule(opacity=0.45, strokeDash=[2, 3])
    return [chart.encode(x=_tokens_axis(tally))]


def _events(tally: Tally) -> list[alt.Chart]:
    """Return a triangle at the top for every event of the guard that was kept."""
    if not tally.events:
        return []
    rows = [{"tokens": e.tokens, "kind": e.kind, "message": e.message} for e in tally.events]
    chart = alt.Chart(alt.InlineData(values=rows)).mark_point(
        shape="triangle-down", filled=True, size=90, color=GUARD, opacity=1
    )
    tooltip = [alt.Tooltip("tokens:Q", format=","), alt.Tooltip("kind:N"), alt.Tooltip("message:N")]
    return [chart.encode(x=_tokens_axis(tally), y=alt.value(4), tooltip=tooltip)]


def _rows(tally: Tally, *first: dict[str, Any]) -> alt.InlineData:
    """Return the points, each with where the one before it stands."""
    points = tally.points()
    starts = [0, *(point.tokens for point in points)]
    rows = [_finite(vars(p)) | {"start": start} for p, start in zip(points, starts, strict=False)]
    return alt.InlineData(values=[*first, *rows])


def _hover(
    rows: alt.InlineData, tally: Tally, shown: dict[str, tuple[str, str]], words: Sequence[str] = ("document",)
) -> list[alt.Chart]:
    """Return invisible cells between the points, and a thin line at the point whose cell the pointer is in.

    `shown` has, for every line of the tooltip, the field and its format; `words` are fields that stand as they are.
    Numbers are put into words first: Vega-Lite would format a missing value as 0. For the same reason cells stand in
    for its `nearest`, which loses text.
    """
    cells = alt.Chart(rows)
    for name, (field, form) in shown.items():
        cells = cells.transform_calculate(**{name: f"isValid(datum.{field}) ? format(datum.{field}, {form!r}) : '–'"})
    under = alt.selection_point(on="pointerover", clear="pointerout", fields=["tokens"], empty=False)
    x, tooltip = (
        _tokens_axis(tally),
        [alt.Tooltip(f"{name}:N", title=name.replace("_", " ")) for name in (*shown, *words)],
    )
    line = cells.transform_filter(under).mark_rule(opacity=0.7).encode(x=x)
    rectangles: alt.Chart = cells.mark_rect(opacity=0).encode(x=x, x2="start:Q", tooltip=tooltip).add_params(under)
    return [line, rectangles]


def bits_domain(tally: Tally) -> tuple[float, float, bool]:
    """Return the ends of the bits-per-byte axis, and whether values lie beyond them.

    Single windows may be far off (a title page, a divergence before its rollback); they must not flatten the rest.
    """
    points = tally.points()
    lines = [v for p in points[len(points) // 50 :] for v in (p.adapted, p.static) if v is not None]
    local = sorted(v for p in points for v in (p.adapted_local, p.static_local) if v is not None)
    central = local[len(local) // 100 : len(local) - len(local) // 100]
    shown = lines + central[:1] + central[-1:]
    if not shown:
        return 0.0, 1.0, False
    low, high = min(shown), max(shown)
    pad = 0.06 * (high - low) or max(0.01, 0.02 * high)
    low, high = max(0.0, low - pad), high + pad
    everything = local + [v for p in points for v in (p.adapted, p.static) if v is not None]
    return low, high, any(not low <= v <= high for v in everything)


def bits_chart(tally: Tally, width: Width) -> Specification:
    """Draw running and local bits per byte over tokens read, static against adapted."""
    models = ["static", "adapted"] if tally.compared else ["adapted"]
    low, high, _ = bits_domain(tally)
    rows = _rows(tally)
    y = alt.Y("bits:Q", title="bits per byte", scale=alt.Scale(domain=[low, high], nice=False, zero=False))
    colours, dashes = {"static": STATIC, "adapted": ADAPTED}, {"static": [7, 3], "adapted": [1, 0]}
    legend = alt.Legend(symbolType="stroke", symbolSize=300)
    hue = alt.Color("model:N", scale=alt.Scale(domain=models, range=[colours[m] for m in models]), legend=legend)
    dash = alt.StrokeDash("model:N", scale=alt.Scale(domain=models, range=[dashes[m] for m in models]), legend=legend)
    drawn = models[::-1]  # the static model's dashes last: where both are alike, both are seen
    x = _tokens_axis(tally)
    local = (
        alt.Chart(rows)
        .mark_line(strokeWidth=1, opacity=0.55, clip=True)
        .transform_fold([f"{m}_local" for m in drawn], as_=["key", "bits"])
        .transform_calculate(model="replace(datum.key, '_local', '')")
        .encode(x=x, y=y, color=hue, detail="model:N")
    )
    running = (
        alt.Chart(rows)
        .mark_line(strokeWidth=3, clip=True, point=len(tally.points()) <= DOTTED)
        .transform_fold(drawn, as_=["model", "bits"])
        .encode(x=x, y=y, color=hue, strokeDash=dash)
    )
    shown = {"tokens_read": ("tokens", ",")}
    for model in models:
        shown |= {f"{model}_so_far": (model, ".3f"), f"{model}_nearby": (f"{model}_local", ".3f")}
    layers = [*_beginnings(tally), local, running, *_hover(rows, tally, shown), *_events(tally)]
    return _specification(layers, width, 300)


def gain_chart(tally: Tally, width: Width) -> Specification:
    """Draw the cumulative gain in nats over tokens read."""
    rows = _rows(tally, {"tokens": 0, "start": 0, "gain": 0.0, "document": ""})
    x = _tokens_axis(tally)
    y = alt.Y("gain:Q", title="gain over the static model (nats)", axis=_KILO)
    line = alt.Chart(rows).mark_area(color=GAIN, opacity=0.18, line={"color": GAIN, "strokeWidth": 3}).encode(x=x, y=y)
    zero = alt.Chart(alt.InlineData(values=[{"gain": 0}])).mark_rule(strokeWidth=1.5).encode(y="gain:Q")
    shown = {"tokens_read": ("tokens", ","), "nats_gained": ("gain", ",.1f")}
    layers = [*_beginnings(tally), line, zero, *_hover(rows, tally, shown), *_events(tally)]
    return _specification(layers, width, 240)


def position_chart(bins: list[PositionBin], width: Width) -> Specification:
    """Draw the gain per token by position inside a document, with intervals where documents suffice."""
    values = []
    for b in bins:
        label = f"≤{_short(b.last, 1024)}|n={_short(b.documents)}"
        interval = f"{b.low:.4f} to {b.high:.4f}" if b.low is not None and b.high is not None else "–"
        values.append(_finite(vars(b)) | {"label": label, "range": f"{b.first:,}–{b.last:,}", "interval": interval})
    rows = alt.InlineData(values=values)
    x = alt.X(
        "label:N",
        title="position in the document (tokens)",
        sort=None,
        axis=alt.Axis(
            labelAngle=0,
            labelOverlap="greedy",
            labelExpr="split(datum.label, '|')",
            labelLineHeight=15,
            labelFontSize=11,
        ),
    )
    y = alt.Y("gain:Q", title="gain (nats per token)", axis=alt.Axis(tickCount=6))
    tooltip = [
        alt.Tooltip("range:N", title="positions"),
        alt.Tooltip("gain:Q", title="nats gained per token", format=".4f"),
        alt.Tooltip("interval:N", title="95 % interval"),
        alt.Tooltip("documents:Q", format=","),
        alt.Tooltip("tokens:Q", format=","),
    ]
    base = alt.Chart(rows)
    bars = base.mark_bar(color=GAIN, opacity=0.75, width={"band": 0.62}).encode(x=x, y=y, tooltip=tooltip)
    known = base.transform_filter("isValid(datum.low)")
    spans = known.mark_rule(strokeWidth=2).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", tooltip=tooltip)
    zero = alt.Chart(alt.InlineData(values=[{"gain": 0}])).mark_rule(strokeWidth=1).encode(y="gain:Q")
    intervals = [spans] if any(b.low is not None for b in bins) else []
    return _specification([bars, zero, *intervals], width, 240)


def weights_chart(tally: Tally, names: Sequence[str], order: Sequence[int], width: Width) -> Specification:
    """Draw the weights of a mixture's experts over tokens read, stacked to 1.

    Args:
        tally: of a run with a mixture.
        names: of the experts, as `RULE:RATE`, in the order of their weights.
        order: their places by rate; the legend and the areas follow it.
        width: of the chart.
    """
    sorted_names = [names[place] for place in order]
    fields = [f"w{rank:02}" for rank in range(len(order))]  # an expert's name is no name of a field
    values: list[dict[str, Any]] = [{"tokens": 0, "start": 0, "document": "", **dict.fromkeys(fields, 1 / len(order))}]
    for point in tally.expert_weights():
        best = max(range(len(names)), key=point.weights.__getitem__)
        row: dict[str, Any] = {field: point.weights[place] for field, place in zip(fields, order, strict=True)}
        row |= {"tokens": point.tokens, "document": point.document, "start": values[-1]["tokens"]}
        values.append(_finite(row | {"leader": names[best], "most": point.weights[best]}))
    rows, x = alt.InlineData(values=values), _tokens_axis(tally)
    y = alt.Y("weight:Q", title="weight", stack="zero", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    colours = alt.Scale(domain=sorted_names, range=expert_colours(sorted_names))
    legend = alt.Legend(columns=6, symbolType="square", symbolStrokeWidth=0)
    areas = (
        alt.Chart(rows)
        .mark_area(opacity=0.9)
        .transform_fold(fields, as_=["field", "weight"])
        .transform_calculate(expert=f"{json.dumps(dict(zip(fields, sorted_names, strict=True)))}[datum.field]")
        .encode(x=x, y=y, color=alt.Color("expert:N", scale=colours, legend=legend), order=alt.Order("field:N"))
    )
    hover = _hover(rows, tally, {"tokens_read": ("tokens", ","), "its_weight": ("most", ".3f")}, ("leader", "document"))
    return _specification([areas, *_beginnings(tally), *hover, *_events(tally)], width, 240)


def expert_colours(names: Sequence[str]) -> list[str]:
    """Return a colour for each expert, from blue to red as they stand; one with a rate of 0 has the static model's.

    Example:
        >>> expert_colours(["adam:0", "adam:0.001", "adam:0.01"])
        ['#6b8299', '#537ac6', '#c65353']
    """
    learning = [name for name in names if rate_of(name) > 0]
    hues = {name: 0.61 * (1 - rank / max(1, len(learning) - 1)) for rank, name in enumerate(learning)}
    shades = {name: colorsys.hls_to_rgb(hue, 0.55, 0.5) for name, hue in hues.items()}
    return [
        "#" + "".join(f"{round(255 * part):02x}" for part in shades[name]) if name in shades else STATIC
        for name in names
    ]


def _short(number: int, kilo: int = 1000) -> str:
    """Return a number in few characters: 256, 9,999, 16k, 1M."""
    if number < 10 * kilo and (number < kilo or kilo == 1000):
        return f"{number:,}"
    return f"{number // kilo}k" if number < kilo**2 else f"{number // kilo**2}M"


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Return numbers for drawing: seven digits are plenty; JSON has no NaN, so what is not finite is missing."""
    return {
        key: (float(f"{value:.7g}") if math.isfinite(value) else None) if isinstance(value, float) else value
        for key, value in row.items()
    }


def _specification(layers: Sequence[alt.Chart], width: Width, height: int) -> Specification:
    """Return the layers as Vega-Lite that altair has checked against the schema; raise ValueError rather than hold a
    NaN.
    """
    spec: Specification = alt.layer(*layers).properties(width=width, height=height).to_dict()
    json.dumps(spec, allow_nan=False)
    return spec


def png(spec: Specification, title: str, subtitle: list[str]) -> bytes:
    """Return the chart as a PNG of twice the size in pixels, on white, with its title and how to read it."""
    titled = spec | {"title": {"text": title, "subtitle": subtitle}, "padding": 16}
    config = theme() | {"background": "white"}
    return vl_convert.vegalite_to_png(titled, vl_version=VEGA_LITE, scale=2, config=config)


@cache
def bundle(script: str) -> str:
    """Return `script`, which may call `vegaEmbed`, with Vega and all it needs, to stand inside a <script> element."""
    return re.sub(
        "</(?=script)", r"<\\/", vl_convert.javascript_bundle(script, vl_version=VEGA_LITE), flags=re.IGNORECASE
    )
