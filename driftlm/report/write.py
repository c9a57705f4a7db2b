"""A run folder to one self-contained HTML page and PNG charts; also for a run that is not finished."""

import importlib
import json
import os
from functools import partial
from pathlib import Path
from textwrap import shorten, wrap
from types import ModuleType
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.memories.expert_weights import rate_of
from driftlm.memories.weights.learning import Learning
from driftlm.report.page import Figure, page, title, won
from driftlm.report.tally import Tally, read_tally, too_short


def write_report(run: Path) -> list[Path]:
    """Write report.html and the PNG charts into a run folder; returns what was written.

    Gains need a static model: without one (`--compare none`) gain.png and position.png are not made. A run with a
    mixture has experts.png as well.

    Raises:
        DriftError: no run folder, a damaged one, or the `report` extra is missing.
    """
    charts = drawing_module()
    config, summary = _json(run / "config.json"), _json(run / "summary.json", missing={})
    tally = read_tally(run / "windows.jsonl")
    name = title(config, tally)
    drawings = []  # file name, heading, how to read it, and the chart at a width
    if tally.total.windows:
        drawings.append(
            ("bits_per_byte", "Bits per byte", _read_bits(tally, charts), partial(charts.bits_chart, tally))
        )
        if tally.compared:
            place = partial(charts.position_chart, tally.positions.bins())
            gain = f"{_READ_GAIN} {too_short(tally.total.windows)}".rstrip()
            drawings.append(("gain", "Cumulative gain", gain, partial(charts.gain_chart, tally)))
            drawings.append(("position", "Gain by position in the document", _READ_POSITION, place))
    if tally.expert_weights():
        names = _experts(config, tally)
        order = sorted(range(len(names)), key=lambda place: rate_of(names[place]))
        drawn = partial(charts.weights_chart, tally, names, order)
        drawings.append(("experts", "Weights of the experts", won(tally, names, bool(summary.get("finished"))), drawn))
    figures, written = [], []
    for stem, heading, caption, chart in drawings:
        image = charts.png(chart(760), shorten(f"{heading} — {name}", 88), wrap(caption, 124))
        written.append(written_whole(run / f"{stem}.png", image))
        figures.append(Figure(stem, heading, caption, chart("container")))
    themes = {"light": charts.theme(), "dark": charts.theme(dark=True)}
    html = page(name, config, summary, tally, figures, themes, charts.bundle)
    return [written_whole(run / "report.html", html.encode("utf-8", "replace")), *written]


def drawing_module() -> ModuleType:
    """Return the charts, whose libraries are the extra `report`."""
    try:
        return importlib.import_module("driftlm.report.charts")
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("altair", "vl_convert"):
            raise
        raise DriftError(
            f'A report is drawn with {error.name}, which is not installed; run: pip install "driftlm[report]"'
        ) from error


def _experts(config: dict[str, Any], tally: Tally) -> list[str]:
    """Return the names of a mixture's experts, in the order of their weights."""
    experts = (config.get("learning") or {}).get("experts") or ""
    names = [one.name() for one in Learning(rule="mixture", experts=experts).strategies()]
    if len(names) != len(tally.expert_weights()[-1].weights):
        raise DriftError("config.json names other experts than windows.jsonl weighs; give an unchanged run folder.")
    return names


def _json(path: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        if missing is not None:
            return missing
        raise DriftError(
            f"{path} does not exist; give the folder of a driftlm run, which holds config.json and windows.jsonl."
        ) from error
    except (OSError, ValueError) as error:
        raise DriftError(f"{path} cannot be read ({error}); give an unchanged run folder.") from error
    if not isinstance(found, dict):
        raise DriftError(f"{path} holds no JSON object; give an unchanged run folder.")
    return found


def written_whole(path: Path, data: bytes) -> Path:
    """Write all of it or nothing: a page that is being looked at is never half a page."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DriftError(f"{path} cannot be written ({error.strerror}); free or choose another folder.") from error
    return path


def _read_bits(tally: Tally, charts: ModuleType) -> str:
    """Say how to read the first chart."""
    compared, beyond = tally.compared, charts.bits_domain(tally)[2]
    return (
        f"Thick: everything up to that point. Thin: only the last {tally.local:,} windows. Lower is better"
        + ("; orange below grey-blue means that learning from the stream helps." if compared else ".")
        + (" Dotted: a document begins." if charts.marks_beginnings(tally) else "")
        + (" Triangles: the guard stepped in." if tally.events else "")
        + (" Values beyond the axis are cut off." if beyond else "")
    )


_READ_GAIN = (
    "Nats saved against the static model, summed from the start. Rising: the learning model predicts better just "
    "there; flat: no better; falling: worse."
)
_READ_POSITION = (
    "How soon it adapts: nats saved per token, by where in its document a window starts (≤ the position named). "
    "n: documents; thin lines: 95 % intervals from resampling documents, where n ≥ 5."
)
