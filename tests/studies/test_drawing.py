"""Charts of studies: what is drawn of points, and what is left out where there is no interval."""

import random
from typing import Any

import pytest

pytest.importorskip("altair")

from driftlm.report.charts import STATIC
from driftlm.studies.drawing import dots, front, fronts, lines
from tests.support.drawn import points_of

pytestmark = pytest.mark.long


def point(x: float, group: str = "learning", spread: float | None = 0.5, **more: Any) -> dict[str, Any]:
    value = 10.0 / x
    ends = {"low": None, "high": None} if spread is None else {"low": value - spread, "high": value + spread}
    return {"x": x, "group": group, "label": f"at {x}", "value": value, **ends, **more}


def marks(spec: dict[str, Any]) -> list[str]:
    return [layer["mark"]["type"] for layer in spec["layer"]]


@pytest.mark.parametrize("draw", [lambda points: lines(points, "x", "y", log=True), lambda points: dots(points, "y")])
def test_intervals_are_bars_where_there_are_any(draw: Any) -> None:
    with_, without = draw([point(1.0), point(2.0, spread=None)]), draw([point(1.0, spread=None)])
    bars = [layer for layer in with_["layer"] if "isValid(datum.low)" in str(layer.get("transform"))]
    assert len(bars) == 1
    ends = {channel: one["field"] for channel, one in bars[0]["encoding"].items() if channel in ("x", "x2", "y", "y2")}
    assert {"low", "high"} < set(ends.values())
    assert not [layer for layer in without["layer"] if "transform" in layer]


def test_a_line_marks_no_difference_at_its_value() -> None:
    for spec in (dots([point(1.0)], "y", at=3.0), lines([point(1.0)], "x", "y", at=3.0)):
        assert marks(spec)[0] == "rule"
        assert points_of(spec, spec["layer"][0]) == [{"at": 3.0}]
        assert "at" in {one.get("field") for one in spec["layer"][0]["encoding"].values()}
    assert marks(dots([point(1.0, spread=None)], "y", at=None)) == ["point"]


def test_small_values_are_seen_beside_large_ones() -> None:
    curve = [point(10.0), point(0.05)]  # values of 1 and 200
    (line,) = (one for one in lines(curve, "x", "y", linear=0.1)["layer"] if one["mark"]["type"] == "line")
    axis = line["encoding"]["y"]
    assert (axis["scale"]["type"], axis["scale"]["constant"]) == ("symlog", 0.1)
    assert axis["axis"]["values"] == [0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200]
    (plain,) = (one for one in lines(curve, "x", "y")["layer"] if one["mark"]["type"] == "line")
    assert "type" not in plain["encoding"]["y"]["scale"]


def test_groups_that_share_a_label_are_apart_and_others_are_not() -> None:
    shared = dots([point(1.0), point(1.0, "static")], "y")
    assert all("yOffset" in layer["encoding"] for layer in shared["layer"][1:])
    apart = dots([point(1.0), point(2.0, "static")], "y")
    assert not any("yOffset" in layer["encoding"] for layer in apart["layer"])


def test_what_does_not_learn_has_one_hue_everywhere() -> None:
    for groups in (("static", "learning"), ("learning", "static"), ("a", "b", "static C=64")):
        spec = lines([point(1.0 + i, group) for i, group in enumerate(groups)], "x", "y")
        hues = spec["layer"][-1]["encoding"]["color"]["scale"]
        named = dict(zip(hues["domain"], hues["range"], strict=True))
        assert [group for group, hue in named.items() if hue == STATIC] == [
            one for one in groups if one.startswith("static")
        ]
        assert len(set(named.values())) == len(groups)


def test_the_front_is_what_nothing_beats() -> None:
    random.seed(3)
    points = [{"x": random.randint(1, 9), "value": random.randint(1, 9)} for _ in range(40)]
    best = front(points)

    def beaten(one: dict[str, Any]) -> bool:
        return any(
            (other["x"] <= one["x"] and other["value"] < one["value"])
            or (other["x"] < one["x"] and other["value"] <= one["value"])
            for other in points
        )

    unbeaten = {(one["x"], one["value"]) for one in points if not beaten(one)}
    assert [(one["x"], one["value"]) for one in best] == sorted(unbeaten)
    drawn = fronts([point(x) | {"value": value} for x, value in ((1.0, 3.0), (2.0, 4.0), (3.0, 2.0))], "x", "y")
    stairs = next(layer for layer in drawn["layer"] if layer["mark"]["type"] == "line")
    assert [one["x"] for one in points_of(drawn, stairs)] == [1.0, 3.0]


def test_nothing_that_is_no_number_is_drawn() -> None:
    with pytest.raises(ValueError, match="JSON"):
        lines([point(1.0) | {"value": float("nan")}], "x", "y")
