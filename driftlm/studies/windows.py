"""Compare overlapping with cached windows, by context and stride, in bits per byte at equal FLOPs.

Rule: for every text and for the FLOPs a token of each overlapping cell whose windows overlap (S < C), the best cached
cell at that cost or less is compared with the best overlapping one at that cost or less. The mean of these relative
differences over the costs is a text's number. Their mean over texts lies with its whole 95 % interval below 0
(supported) or above it (not supported). Where S = C nothing overlaps and nothing is kept, so that the two are one.
The rate is the same in every cell but for the stride: see `rate_of`.
"""

import math
from collections.abc import Sequence
from typing import Final

from driftlm.memories.weights.learning import DEFAULT_RATES, Learning
from driftlm.streams.windows import Windows
from driftlm.studies.cells import Cell
from driftlm.studies.intervals import over_texts
from driftlm.studies.rows import Each, Point, by_text, concluded, figure, mean, measured, point, relative
from driftlm.studies.study import Chart, Conclusion, Row, Scale, Study
from driftlm.studies.texts import OTHER_BOOKS, PEPS, RECENT_PEPS, SHIFT, first

CONTEXTS = (64, 128, 256, 512, 1024)
TEXTS = (RECENT_PEPS, OTHER_BOOKS[0], PEPS, SHIFT[0], OTHER_BOOKS[2])
OVERLAPPING: Final = "overlapping"
CACHED: Final = "cached"
APART = "apart"


def grid() -> dict[str, Windows]:
    """Return the settings by name: strides C, C/2 and C/4; apart are windows that share nothing."""
    cells = {}
    for context in CONTEXTS:
        cells[f"{APART} C={context} S={context}"] = Windows("overlapping", context, context)
        for scheme in (OVERLAPPING, CACHED):
            for stride in (context // 2, context // 4):
                cells[f"{scheme} C={context} S={stride}"] = Windows(scheme, context, stride)
    return cells


def rate_of(windows: Windows) -> float:
    """Return the default rate at the default stride, and below it less, by the square root of the stride.

    Source: Malladi et al. 2022 (arXiv 2205.10287): Adam's rate goes with the square root of the batch.
    """
    return DEFAULT_RATES["relative"] * min(1.0, math.sqrt(windows.stride / Windows().stride))


def readings(scale: Scale) -> list[Cell]:
    """Return every cell of the grid on a few texts of different kinds."""
    return [
        Cell(name, (text,), scale.tokens, windows, Learning(rule="relative", learning_rate=rate_of(windows)))
        for text in first(TEXTS, scale.texts)
        for name, windows in grid().items()
    ]


def settings(rows: Sequence[Row], scheme: str) -> list[str]:
    """Return the cells of a scheme that were measured; apart are both."""
    found = {row["setting"] for row in rows}
    return [name for name in grid() if name in found and name.split()[0] in (scheme, APART)]


def compared(rows: Sequence[Row]) -> Each:
    """Compare by text the bits per byte of the best cached cell against the best overlapping one, in the mean over
    equal costs.
    """
    costs: dict[str, dict[str, list[tuple[float, float]]]] = {OVERLAPPING: {}, CACHED: {}}
    budgets: dict[str, list[float]] = {}
    for scheme, by in costs.items():
        for name in settings(rows, scheme):
            flops = by_text(rows, name, "flops_per_token")
            for text, bits in by_text(rows, name).items():
                by.setdefault(text, []).append((flops[text], bits))
                if scheme == OVERLAPPING and not name.startswith(APART):
                    budgets.setdefault(text, []).append(flops[text])
    found = {}
    for text, held in budgets.items():
        ratios = []
        for budget in held:
            best, other = (
                min((bits for cost, bits in costs[scheme].get(text, ()) if cost <= budget), default=math.inf)
                for scheme in (OVERLAPPING, CACHED)
            )
            ratios += [other / best - 1] if other < math.inf else []
        if ratios:
            found[text] = mean(ratios)
    return found


def conclude(rows: Sequence[Row]) -> Conclusion:
    """Return the verdict at equal cost; at equal context and stride it is a figure."""
    change = over_texts(compared(rows))
    same = same_grid(rows)
    figures = {"at_equal_flops": figure(change)}
    because = f"at equal FLOPs cached windows differ from overlapping ones in bits per byte by {change.percent()}"
    if same:
        figures["at_equal_grid"] = figure(over_texts(same))
        because += f"; at equal context and stride by {over_texts(same).percent()}"
    return concluded(change.verdict("below"), f"{because}.", figures | {"bits_per_byte": table(rows)})


def same_grid(rows: Sequence[Row]) -> Each:
    """Compare by text cached against overlapping at the same context and stride, in the mean over those."""
    held: dict[str, list[float]] = {}
    for name in settings(rows, OVERLAPPING):
        other = by_text(rows, name.replace(OVERLAPPING, CACHED)) if not name.startswith(APART) else {}
        for text, bits in by_text(rows, name).items():
            if text in other:
                held.setdefault(text, []).append(other[text] / bits - 1)
    return {text: mean(ratios) for text, ratios in held.items()}


def table(rows: Sequence[Row]) -> dict[str, float]:
    """Mean bits per byte by setting."""
    found = [name for name in grid() if by_text(rows, name)]
    return {name: over_texts(measured(rows, name)).mean for name in found}


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Return quality against FLOPs, learning and static."""
    from driftlm.studies.drawing import fronts

    learned: list[Point] = []
    static: list[Point] = []
    best: Each = {}
    for name in grid():
        for text, bits in by_text(rows, name, "static_bits_per_byte").items():
            best[text] = min(bits, best.get(text, bits))
    for scheme in (OVERLAPPING, CACHED):
        for name in settings(rows, scheme):
            for value, cost, group, points in (
                ("bits_per_byte", "flops_per_token", f"{scheme}, learning", learned),
                ("static_bits_per_byte", "static_flops_per_token", f"{scheme}, static", static),
            ):
                each = relative(best, measured(rows, name, value))
                x = over_texts(measured(rows, name, cost)).mean
                points.append(point(name.removeprefix(f"{scheme} "), group, each, times=100, x=x))
    found = []
    for key, heading, points in (("learning", "Learning", learned), ("static", "The static model", static)):
        caption = (
            "Bits per byte against the best static cell of the text, in percent: mean over texts, bars are 95 % "
            "intervals. The lines are the Pareto fronts."
        )
        spec = fronts(points, "FLOPs a token", "bits per byte, against the best static (%)")
        found.append(Chart(key, f"{heading}: quality against FLOPs", caption, spec))
    return found


STUDY = Study(
    name="windows",
    claim="At equal FLOPs, learning with cached windows reaches fewer bits per byte than with overlapping windows.",
    source=(
        "Rannen-Triki et al. 2024, Revisiting Dynamic Evaluation (arXiv 2403.01518), abstract: windows in the style of "
        "Transformer-XL are as good as overlapping ones at a much lower cost"
    ),
    readings=readings,
    conclude=conclude,
    charts=charts,
    scale=Scale(tokens=6_000),
)
