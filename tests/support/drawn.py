"""What a chart's specification holds."""

from typing import Any


def points_of(spec: dict[str, Any], layer: dict[str, Any]) -> list[dict[str, Any]]:
    """The points that a layer draws, those of the whole chart where it has none of its own."""
    points: list[dict[str, Any]] = spec["datasets"][layer.get("data", spec.get("data"))["name"]]
    return points


def values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The points of every layer."""
    return [one for layer in spec["layer"] for one in points_of(spec, layer)]
