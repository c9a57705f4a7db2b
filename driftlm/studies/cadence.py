"""Learn from every window against every 2nd, 4th, 8th and 16th, and say what is kept of the gain, at which cost.

Rule: for every text, the gain of learning from every fourth window alone (skip) less half of the gain of learning from
every one. The mean over texts lies with its whole 95 % interval above 0 (supported) or below it (not supported).
Where learning from every window gains nothing on average there is nothing to keep, and nothing is decided.
"""

from collections.abc import Iterator, Sequence

from driftlm.memories.weights.learning import Cadence, Learning
from driftlm.studies.cells import Cell
from driftlm.studies.intervals import over_texts
from driftlm.studies.rows import by_text, concluded, figure, mean_of, measured, point
from driftlm.studies.study import Chart, Conclusion, Row, Scale, Study
from driftlm.studies.texts import CACHED, OTHER_BOOKS, PEPS, RECENT_PEPS, SHIFT, SPEECHES, first

EVERY = (2, 4, 8, 16)
ALWAYS, DECIDING, KEPT = "every 1", "skip 4", 0.5
CADENCES: tuple[Cadence, ...] = ("skip", "accumulate")
TEXTS = (RECENT_PEPS, OTHER_BOOKS[0], SPEECHES, SHIFT[0], PEPS, OTHER_BOOKS[2])


def learnings() -> Iterator[tuple[str, Learning]]:
    """Yield the settings by name."""
    yield ALWAYS, Learning()
    for cadence in CADENCES:
        for every in EVERY:
            yield f"{cadence} {every}", Learning(every=every, cadence=cadence)


def readings(scale: Scale) -> list[Cell]:
    """Return every cadence on a few texts of different kinds."""
    return [
        Cell(name, (text,), scale.tokens, CACHED, learning)
        for text in first(TEXTS, scale.texts)
        for name, learning in learnings()
    ]


def conclude(rows: Sequence[Row]) -> Conclusion:
    """Return the verdict on every fourth window; of every cadence, what it keeps of the gain and of the FLOPs."""
    always, fourth = measured(rows, ALWAYS, "gain"), measured(rows, DECIDING, "gain")
    above = over_texts({text: fourth[text] - KEPT * gain for text, gain in always.items() if text in fourth})
    whole, cost = mean_of(rows, ALWAYS, "gain"), mean_of(rows, ALWAYS, "flops_per_token")
    shares = {
        name: {
            "gain": mean_of(rows, name, "gain") / whole if whole > 0 else None,
            "flops": mean_of(rows, name, "flops_per_token") / cost,
        }
        for name, _ in learnings()
        if by_text(rows, name, "gain")
    }
    figures = {"gain_above_half": figure(above), "gain": figure(over_texts(always)), "kept": shares}
    if whole <= 0:
        because = f"learning from every window gains nothing here ({over_texts(always).percent()}), so nothing is kept"
        return concluded("undecided", f"{because}.", figures)
    kept, spent = mean_of(rows, DECIDING, "gain") / whole, mean_of(rows, DECIDING, "flops_per_token") / cost
    because = (
        f"every fourth window keeps {100 * kept:.0f} % of the gain of {over_texts(always).percent()} for "
        f"{100 * spent:.0f} % of the FLOPs; its gain less half of the whole one is {above.percent()}"
    )
    return concluded(above.verdict("above"), f"{because}.", figures)


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Return the gain by cadence, and against FLOPs."""
    from driftlm.studies.drawing import fronts, lines

    steps, costs = [], []
    for cadence in CADENCES:
        for every in (1, *EVERY):
            name = ALWAYS if every == 1 else f"{cadence} {every}"
            each = by_text(rows, name, "gain")
            if not each:
                continue
            steps.append(point(name, cadence, each, times=100, x=every))
            flops = mean_of(rows, name, "flops_per_token")
            lost = {text: -gain for text, gain in each.items()}
            costs.append(point(f"every {every}", cadence, lost, times=100, x=flops))
    static = dict.fromkeys(measured(rows, ALWAYS), 0.0)
    costs.append(point("static", "static", static, x=mean_of(rows, ALWAYS, "static_flops_per_token")))
    caption = "Mean over texts; bars are 95 % intervals over texts."
    return [
        Chart(
            "gain",
            "What is kept when learning less often",
            f"Skip: other windows are only read. Accumulate: their gradients wait. {caption}",
            lines(steps, "learns on every k-th window", "gain (%)", log=True, at=0.0),
        ),
        Chart(
            "pareto",
            "Quality against FLOPs",
            f"Bits per byte against the static model, in percent; the lines are the Pareto fronts. {caption}",
            fronts(costs, "FLOPs a token", "bits per byte, against static (%)"),
        ),
    ]


STUDY = Study(
    name="cadence",
    claim=("Learning from every fourth window only keeps at least half of what learning from every window gains."),
    source=(
        "Rannen-Triki et al. 2024, Revisiting Dynamic Evaluation (arXiv 2403.01518), abstract: fewer updates trade "
        "quality for compute; the half at a fourth is our reading of it as a number"
    ),
    readings=readings,
    conclude=conclude,
    charts=charts,
    scale=Scale(tokens=20_000),
)
