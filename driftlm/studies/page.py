"""One page of all studies in a folder: claims, verdicts, charts, figures, and where the numbers come from."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.report import write
from driftlm.report.page import HINT, Figure, document, drawn, number, tabled
from driftlm.report.write import drawing_module, written_whole
from driftlm.runs.folder import read_config
from driftlm.studies.study import STUDIES, Chart, study_of

PAGE = "studies.html"
MARKS = {"supported": "", "not supported": " loss", "undecided": " open"}
# A wide column of numbers may be longer than the page: those of a table of figures stay readable in rows.
STYLE = """
.claim { font-size: 1.05rem; margin: .25rem 0 .75rem; }
.headline.open { border-color: var(--soft); }
article { border-top: 1px solid var(--line); margin-top: 3rem; }
article h2 { font-size: 1.3rem; margin-top: 1.25rem; }
article figure h2, article h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
"""


def results(out: Path) -> list[dict[str, Any]]:
    """Return the results that `driftlm study` wrote into a folder, in the order of the studies.

    Raises:
        DriftError: where one is damaged.
    """
    found = []
    for path in (out / f"{name}.json" for name in STUDIES):
        if path.exists():
            try:
                result = json.loads(path.read_bytes())
                found.append({name: result[name] for name in NEEDED} | result)
            except (ValueError, KeyError, TypeError) as error:
                raise DriftError(
                    f"{path} holds no result of a study; write it again with `driftlm study {path.stem} --resume`."
                ) from error
    return found


NEEDED = ("study", "claim", "source", "verdict", "sentence", "figures", "rows", "scale", "command", "date")


def write_again(folder: Path) -> Path:
    """Write the page of the studies in a folder, or else the report of a run; returns it.

    Raises:
        DriftError: where the folder holds neither, or the `report` extra is missing.
    """
    if results(folder):
        return write_page(folder)[0]
    read_config(folder)
    return write.write_report(folder)[0]


def write_page(out: Path) -> list[Path]:
    """Write OUT/studies.html and a PNG for every chart of the studies whose results OUT holds.

    Returns:
        What was written, the page first.

    Raises:
        DriftError: where there is no result, or the `report` extra is missing.
    """
    charts = drawing_module()
    found = results(out)
    if not found:
        raise DriftError(f"{out} holds no result of a study; give the folder that `driftlm study` wrote into.")
    sections, figures, images = [], [], []
    for result in found:
        own = []
        drawable = result["figures"]  # a study that was stopped too early to conclude anything has none
        for chart in study_of(result["study"]).charts(result["rows"]) if drawable else ():
            stem = f"{result['study']}-{chart.name}"
            title = shorten(f"{chart.heading} — {result['study']}", 88)
            images.append(
                written_whole(out / f"{stem}.png", charts.png(at_width(chart, 760), title, wrap(chart.caption, 124)))
            )
            own.append(Figure(stem, chart.heading, chart.caption, at_width(chart, "container")))
        sections.append(section(result, own))
        figures += own
    themes = {"light": charts.theme(), "dark": charts.theme(dark=True)}
    body = [f"<style>{STYLE}</style><h1>Claims about learning while reading, run again</h1>", summary(found)]
    html = document("Studies", [*body, HINT, *sections], figures, themes, charts.bundle)
    return [written_whole(out / PAGE, html.encode("utf-8", "replace")), *images]


def at_width(chart: Chart, width: int | str) -> dict[str, Any]:
    """Return a chart's Vega-Lite at a width, where it is one view and not several beside each other."""
    single = {"mark", "layer"} & set(chart.spec)
    return chart.spec | {"width": width} if single else chart.spec


def summary(found: list[dict[str, Any]]) -> str:
    """Return the verdicts in a table."""
    rows = [[one["study"], one["claim"], one["verdict"]] for one in found]
    return tabled(["study", "claim", "verdict"], rows, 3, wide=1)


def section(result: Mapping[str, Any], figures: list[Figure]) -> str:
    """Return a study's part of the page."""
    name = result["study"]
    rows = [[key, value] for key, value in flattened(result["figures"])]
    parts = [
        f"<h2>{escape(name)}</h2>",
        f'<p class="claim">{escape(result["claim"])}</p><p class="note">{escape(result["source"])}</p>',
        f'<p class="headline{MARKS[result["verdict"]]}">{escape(result["sentence"])}</p>',
        *map(drawn, figures),
        f"<h3>Figures</h3>{tabled(['figure', 'value'], rows, 1)}",
        f"<h3>Where they come from</h3>{tabled(['', ''], origins(result), 2, wide=1)}",
        f"<pre>{escape(result['command'])}</pre>",
    ]
    return f'<article id="{escape(name)}">{chr(10).join(parts)}</article>'


def origins(result: Mapping[str, Any]) -> list[list[str]]:
    """Return readings, seeds, machine, versions and date of a result."""
    seconds = sum(row.get("seconds") or 0 for row in result["rows"])
    facts = {
        "readings": f"{len(result['rows']):,}, {seconds:,.0f} s of reading",
        "missing readings": result.get("missing"),
        "models": ", ".join(name or "bundled" for name in result.get("models", ())),
        "scale": listed(result["scale"]),
        "seeds": ", ".join(map(str, result.get("seeds", ()))),
        "engine": result.get("engine"),
        "machine": listed(result.get("machine") or {}),
        "versions": listed(result.get("versions") or {}),
        "commit": result.get("commit"),
        "date": result["date"],
    }
    return [[key, str(value)] for key, value in facts.items() if value]


def listed(facts: Mapping[str, Any]) -> str:
    """Return the names and values in a line.

    >>> listed({"tokens": 20000, "texts": []})
    'tokens 20000, texts –'
    """
    return ", ".join(f"{name} {value if value or value == 0 else '–'}" for name, value in facts.items())


def flattened(figures: Any, name: str = "") -> list[tuple[str, str]]:
    """Return figures as rows of a table: a mean with its interval is one, and what is nested has a name of several
    parts.

    >>> flattened({"gain": {"a": 0.5, "all": {"mean": 0.25, "low": 0.1, "high": 0.4, "texts": 3}}, "best": "C=512"})
    [('gain a', '0.5'), ('gain all', '0.25 (0.1 to 0.4), 3 texts'), ('best', 'C=512')]
    """
    if isinstance(figures, Mapping) and {"mean", "low", "high", "texts"} == set(figures):
        interval = "" if figures["low"] is None else f" ({figure(figures['low'])} to {figure(figures['high'])})"
        return [(name, f"{figure(figures['mean'])}{interval}, {figures['texts']} texts")]
    if isinstance(figures, Mapping):
        return [row for key, value in figures.items() for row in flattened(value, f"{name} {key}".strip())]
    if isinstance(figures, list | tuple):
        if all(not isinstance(one, Mapping | list | tuple) for one in figures):
            return [(name, ", ".join(map(figure, figures)))]
        return []  # points of a chart, which shows them
    return [(name, figure(figures))]


def figure(value: Any) -> str:
    """Return a number in four digits, or words."""
    return number(value, ".4g" if isinstance(value, float) else ",") if isinstance(value, int | float) else str(value)
