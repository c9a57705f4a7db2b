"""The chart of a meta-training, from the lines of its log. Needs the `report` extra; import it where it is drawn."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

HTML, PNG = "training.html", "training.png"
TITLE = "Meta-training of a bank"
READING = [
    "Losses, shares and kinds: means of the steps since the point before. Held out: questions about what was never",
    "trained on, each answered from the whole bank. Dotted: the bank doubles, so that a question sees more of it.",
]
LOSSES, SHARES = ("nats", "contrast", "readout", "distill"), ("exact", "share")
WORDS = {"nats": "answer", "exact": "exact answers", "share": "attention on the right document"}
WIDTH = 640
LEGEND = alt.Legend(symbolType="stroke", labelLimit=300)

Lines = Sequence[dict[str, Any]]
Panel = alt.LayerChart | alt.FacetChart


def write_chart(lines: Lines, out: Path) -> None:
    """Write training.html, where the pointer shows the numbers, and training.png."""
    # Not above: a module that needs an extra is imported where it is used.
    from driftlm.report.charts import ADAPTED, GAIN, GUARD, STATIC, VEGA_LITE, theme

    if not lines:
        return
    hues = {"category": [STATIC, ADAPTED, GAIN, GUARD], "heatmap": ["#eef2f6", STATIC]}
    config = theme() | {"background": "white", "range": hues, "line": {"color": STATIC}}
    chart = training_chart(lines) | {"title": {"text": TITLE, "subtitle": READING}, "padding": 16}
    page = vl_convert.vegalite_to_html(chart, vl_version=VEGA_LITE, bundle=True, config=config)
    (out / HTML).write_text(page, encoding="utf-8")
    (out / PNG).write_bytes(vl_convert.vegalite_to_png(chart, vl_version=VEGA_LITE, scale=2, config=config))


def training_chart(lines: Lines) -> dict[str, Any]:
    """Return losses, shares, held-out answers by size of the bank, the bank and kinds of questions, all over steps."""
    panels = [curves(lines, LOSSES, "nats", "log"), curves(lines, SHARES, "share", "linear")]
    panels += [held_out(lines)] if any(line.get("banks") for line in lines) else []
    panels += [bank(lines)]
    panels += [kinds(lines)] if any(line.get("kinds") for line in lines) else []
    chart = alt.vconcat(*panels, spacing=22).resolve_scale(color="independent", strokeDash="independent")
    spec: dict[str, Any] = chart.to_dict()
    json.dumps(spec, allow_nan=False)
    return spec


def steps(lines: Lines, *, last: bool = False) -> alt.X:
    """Return the axis that all share; only the last one has its title."""
    most = max(line["step"] for line in lines)
    axis = alt.Axis(format=",d", tickCount=8)
    return alt.X(
        "step:Q", title="step" if last else None, axis=axis, scale=alt.Scale(domain=[0, max(1, most)], nice=False)
    )


def growth(lines: Lines) -> list[alt.Chart]:
    """Return a dotted line where the bank doubled."""
    rows = [{"step": after["step"]} for before, after in pairwise(lines) if after["bank"] > before["bank"]]
    chart = alt.Chart(alt.InlineData(values=rows)).mark_rule(opacity=0.45, strokeDash=[2, 3])
    return [chart.encode(x=steps(lines))] if rows else []


def curves(lines: Lines, names: Sequence[str], unit: str, scale: str) -> Panel:
    """Return one line for each of `names`; what is not finite, or 0 on a logarithmic axis, is left out."""
    rows = [
        {"step": line["step"], "what": WORDS.get(name, name), "value": line[name]}
        for name in names
        for line in lines
        if math.isfinite(line.get(name, math.nan)) and (line[name] > 0 or scale == "linear")
    ]
    shown = list(dict.fromkeys(row["what"] for row in rows))
    limits = alt.Scale(type="log", nice=False, padding=8) if scale == "log" else alt.Scale(domain=[0, 1])
    line = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(strokeWidth=2.5, point={"size": 24, "opacity": 0.01})
        .encode(
            x=steps(lines),
            y=alt.Y("value:Q", title=unit, scale=limits, axis=alt.Axis(tickCount=5)),
            color=alt.Color("what:N", scale=alt.Scale(domain=shown), legend=LEGEND),
            tooltip=[alt.Tooltip("step:Q", format=","), "what:N", alt.Tooltip("value:Q", format=".4f")],
        )
    )
    return alt.layer(*growth(lines), line).properties(width=WIDTH, height=200 if scale == "log" else 130)


def held_out(lines: Lines) -> Panel:
    """Draw the strict exact match of questions that were never trained on, one line for every size of the bank."""
    rows = [
        {"step": line["step"], "bank": f"{row['documents']:,} documents", "em": row["em"]}
        for line in lines
        for row in line.get("banks", ())
    ]
    sizes = list(dict.fromkeys(row["bank"] for row in rows))
    line = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(strokeWidth=2.5, point={"size": 40})
        .encode(
            x=steps(lines),
            y=alt.Y("em:Q", title="held-out exact", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5)),
            color=alt.Color("bank:N", scale=alt.Scale(domain=sizes), legend=LEGEND),
            tooltip=[alt.Tooltip("step:Q", format=","), "bank:N", "em:Q"],
        )
    )
    return alt.layer(*growth(lines), line).properties(width=WIDTH, height=130)


def bank(lines: Lines) -> Panel:
    """Return how many documents a question may see."""
    rows = [{"step": line["step"], "bank": line["bank"]} for line in lines]
    line = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(strokeWidth=2.5, interpolate="step-before")
        .encode(
            x=steps(lines, last=not any(line.get("kinds") for line in lines)),
            y=alt.Y(
                "bank:Q", title="bank", scale=alt.Scale(type="log", base=2), axis=alt.Axis(tickCount=4, format=",d")
            ),
            tooltip=[alt.Tooltip("step:Q", format=","), alt.Tooltip("bank:Q", format=",")],
        )
    )
    return alt.layer(line).properties(width=WIDTH, height=70)


def kinds(lines: Lines) -> Panel:
    """Return exact answers by kind of question, a row each: a part that is stuck stays pale."""
    starts = [0, *(line["step"] for line in lines)]
    rows = [
        {"start": start, "step": line["step"], "kind": kind, "exact": share}
        for start, line in zip(starts, lines, strict=False)
        for kind, share in line.get("kinds", {}).items()
    ]
    cells = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_rect()
        .encode(
            x=steps(lines, last=True),
            x2="start:Q",
            y=alt.Y("kind:N", title="exact by kind"),
            color=alt.Color("exact:Q", scale=alt.Scale(domain=[0, 1])),
            tooltip=[alt.Tooltip("step:Q", format=","), "kind:N", alt.Tooltip("exact:Q", format=".2f")],
        )
    )
    return alt.layer(cells).properties(width=WIDTH, height=alt.Step(16))
