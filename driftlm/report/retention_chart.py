"""The chart of a retention study, from its rows. Needs the `report` extra; import it where it is drawn."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

HTML, PNG = "retention.html", "retention.png"
TITLE = "What is kept of the first answers"
READING = [
    "F1 of the questions about the first documents, relative to what it was right after these: 1 is nothing lost.",
    "Above: the F1 itself, so that a memory which knew nothing at first is not taken for one that keeps everything.",
]
WIDTH = 640
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]


def write_chart(rows: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """Write retention.html, where the pointer shows the numbers, and retention.png; return both."""
    # Not above: a module that needs an extra is imported where it is used.
    from driftlm.report.charts import ADAPTED, GAIN, GUARD, STATIC, VEGA_LITE, theme

    hues = {"category": [STATIC, ADAPTED, GAIN, GUARD]}
    config = theme() | {"background": "white", "range": hues}
    chart = retention_chart(rows) | {"title": {"text": TITLE, "subtitle": READING}, "padding": 16}
    out.mkdir(parents=True, exist_ok=True)
    page = vl_convert.vegalite_to_html(chart, vl_version=VEGA_LITE, bundle=True, config=config)
    (out / HTML).write_text(page, encoding="utf-8")
    (out / PNG).write_bytes(vl_convert.vegalite_to_png(chart, vl_version=VEGA_LITE, scale=2, config=config))
    return [out / HTML, out / PNG]


def retention_chart(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the F1 over further documents, and what is kept of it: one line a memory."""
    panels = [panel(rows, "f1", "F1", 150), panel(rows, "f1_retention", "F1, relative to the start", 220)]
    spec: dict[str, Any] = alt.vconcat(*panels, spacing=22).to_dict()
    json.dumps(spec, allow_nan=False)
    return spec


def panel(rows: Sequence[dict[str, Any]], measure: str, title: str, height: int) -> alt.Chart:
    """Return one measure; where it is undefined, a memory has no line."""
    memories = list(dict.fromkeys(row["memory"] for row in rows))
    shown = [
        {"memory": row["memory"], "documents": row["documents"], "value": row[measure], "em": row["em"]}
        for row in rows
        if row[measure] is not None
    ]
    dashes = [DASHES[place // 4 % len(DASHES)] for place in range(len(memories))]  # four hues
    legend = alt.Legend(symbolType="stroke", labelLimit=300, columns=6)
    most = max(1.0, *(row["value"] for row in shown)) if shown else 1.0
    return (
        alt.Chart(alt.InlineData(values=shown))
        .mark_line(strokeWidth=2.5, point={"size": 40})
        .encode(
            x=alt.X("documents:Q", title="further documents", axis=alt.Axis(format=",d", tickCount=8)),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(domain=[0, most]), axis=alt.Axis(tickCount=5)),
            color=alt.Color("memory:N", scale=alt.Scale(domain=memories), legend=legend),
            strokeDash=alt.StrokeDash("memory:N", scale=alt.Scale(domain=memories, range=dashes), legend=legend),
            tooltip=[
                "memory:N",
                alt.Tooltip("documents:Q", format=","),
                alt.Tooltip("value:Q", format=".3f", title=title),
                alt.Tooltip("em:Q", format=".3f"),
            ],
        )
        .properties(width=WIDTH, height=height)
    )
