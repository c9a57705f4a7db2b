"""The chart of a meta-training: it shows what the log says, and nothing that the log lacks."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from driftlm.report import training_chart
from driftlm.report.training_chart import HTML, PNG, write_chart

pytestmark = pytest.mark.long

LOG = Path(__file__).resolve().parents[2] / "recipes" / "bank_log.jsonl"


def line(step: int, **more: Any) -> dict[str, Any]:
    plain = {"nats": 2.0 / step, "contrast": 0.0, "readout": 3.0, "exact": 0.5, "share": 0.25, "bank": 1}
    return {"step": step, "seconds": 1.0, "accuracy": 0.1} | plain | more


def values(spec: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The rows of every layer of every panel."""
    found = [layer.get("data", panel.get("data")) for panel in spec["vconcat"] for layer in panel["layer"]]
    return [data["values"] if "values" in data else spec["datasets"][data["name"]] for data in found]


def titles(spec: dict[str, Any]) -> list[str]:
    return [panel["layer"][-1]["encoding"]["y"]["title"] for panel in spec["vconcat"]]


def test_a_log_of_before_kinds_were_counted_is_drawn() -> None:
    lines = [json.loads(text) for text in LOG.read_text().splitlines()]
    spec = training_chart.training_chart(lines)
    assert titles(spec) == ["nats", "share", "held-out exact", "bank"]
    growth, losses, _, shares, _, held_out, bank = values(spec)
    assert len(growth) == sum(after["bank"] > before["bank"] for before, after in pairwise(lines)) > 4
    assert {row["what"] for row in losses} == {"answer", "contrast", "readout"}
    assert [row["value"] for row in losses if row["what"] == "answer"] == [one["nats"] for one in lines]
    assert [row["value"] for row in shares if row["what"] == "exact answers"] == [one["exact"] for one in lines]
    checks = [(one["step"], row["em"]) for one in lines for row in one.get("banks", ()) if row["documents"] == 64]
    assert [(row["step"], row["em"]) for row in held_out if row["bank"] == "64 documents"] == checks != []
    assert [row["bank"] for row in bank] == [one["bank"] for one in lines]


def test_kinds_and_distillation_are_drawn_where_they_are_there() -> None:
    kinds = [{"river": 0.0, "ruler": 0.5}, {"ruler": 0.75, "river": 0.25}]
    lines = [line(5 * n, distill=0.1 * n, kinds=kinds[n - 1], readout=float("nan")) for n in (1, 2)]
    spec = training_chart.training_chart(lines)
    assert titles(spec) == ["nats", "share", "bank", "exact by kind"]
    losses, *_, cells = values(spec)
    assert [row["value"] for row in losses if row["what"] == "distill"] == [0.1, 0.2]
    assert {row["what"] for row in losses} == {"answer", "distill"}  # 0 has no place on a logarithmic axis, NaN on none
    found = [(row["kind"], row["start"], row["step"], row["exact"]) for row in cells]
    assert found == [("river", 0, 5, 0.0), ("ruler", 0, 5, 0.5), ("ruler", 5, 10, 0.75), ("river", 5, 10, 0.25)]


def test_a_page_and_a_picture_are_written(tmp_path: Path) -> None:
    write_chart([line(1)], tmp_path)
    assert (tmp_path / PNG).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / HTML).read_text(encoding="utf-8")
    assert training_chart.TITLE in page and "https://cdn" not in page


def test_without_lines_nothing_is_written(tmp_path: Path) -> None:
    write_chart([], tmp_path)
    assert list(tmp_path.iterdir()) == []
