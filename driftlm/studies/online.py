"""Ask whether learning while reading lowers bits per byte: by text, by position, after resets, and against hindsight.

Rule: the mean over the texts of the relative change of bits per byte, learning against the same model left as it is,
lies with its whole 95 % interval below 0 (supported) or above it (not supported).
Regret: bits per byte of learning less those of the best parameters that passes over the same text leave; below 0 where
learning on the way did better than any of them.
"""

from collections.abc import Sequence

from driftlm.memories.weights.learning import DEFAULT_RATES, Learning
from driftlm.studies.cells import Cell
from driftlm.studies.intervals import over_texts
from driftlm.studies.rows import (
    Each,
    Point,
    by_text,
    concluded,
    figure,
    mean,
    measured,
    plain,
    point,
    relative,
    settings_of,
)
from driftlm.studies.study import Chart, Conclusion, Row, Scale, Study
from driftlm.studies.texts import BOOKS, DRIFT, by_turns, first

LEARNING, RESET, HINDSIGHT = "learning", "learning, reset at documents", "hindsight"
PASSES = (1, 4)


def readings(scale: Scale) -> list[Cell]:
    """Return every book and drift set: learning, with resets where there are several documents, and hindsight."""
    books, drift = first(BOOKS, scale.texts), first(DRIFT, scale.texts)
    cells = []
    for text in by_turns(drift, books):
        cells.append(Cell(LEARNING, (text,), scale.tokens))
        if text in drift:
            cells.append(Cell(RESET, (text,), scale.tokens, learning=Learning(reset="document")))
        for passes in PASSES:
            name, still = f"{HINDSIGHT}, {passes} pass{'es' * (passes > 1)}", Learning("none")
            rate = DEFAULT_RATES["relative"]
            cells.append(Cell(name, (text,), scale.tokens, learning=still, hindsight=passes, rate=rate))
    return cells


def conclude(rows: Sequence[Row]) -> Conclusion:
    """Return the verdict on the mean change; resets, positions and regret are figures."""
    change = over_texts({text: -gain for text, gain in measured(rows, LEARNING, "gain").items()})
    verdict = change.verdict("below")
    figures = {"change": figure(change), "gain_by_text": measured(rows, LEARNING, "gain"), "positions": positions(rows)}
    because = f"learning while reading changes bits per byte by {change.percent()}"
    if by_text(rows, RESET):
        figures["reset_change"] = figure(over_texts(relative(by_text(rows, LEARNING), by_text(rows, RESET))))
    regrets = regret(rows)
    if regrets:
        found = figures["regret"] = figure(over_texts(regrets))
        because += f"; its regret against the best parameters in hindsight is {found['mean']:.3f} bits per byte"
    return concluded(verdict, f"{because}.", figures)


def hindsights(rows: Sequence[Row]) -> list[str]:
    """Return the settings of fixed parameters that know the text."""
    return [setting for setting in settings_of(rows) if setting.startswith(HINDSIGHT)]


def regret(rows: Sequence[Row]) -> Each:
    """Return the bits per byte of learning above those of the best fixed parameters."""
    found, held = measured(rows, LEARNING), [by_text(rows, setting) for setting in hindsights(rows)]
    best = {text: min((each[text] for each in held if text in each), default=None) for text in found}
    return {text: found[text] - fixed for text, fixed in best.items() if fixed is not None}


def positions(rows: Sequence[Row]) -> list[Point]:
    """Return the gain in percent by position in the document, as a mean over texts."""
    by_start: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        for part in row["positions"] if row["setting"] == LEARNING else ():
            if part["tokens"] and part["static_nats"] > 0:
                gain = 1 - part["nats"] / part["static_nats"]
                by_start.setdefault(part["from"], {}).setdefault(row["text"], []).append(gain)
    return [
        point(f"from {start:,}", LEARNING, {text: mean(gains) for text, gains in each.items()}, times=100, x=start)
        for start, each in sorted(by_start.items())
    ]


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Draw the gain by text, the gain by position, and regret."""
    from driftlm.studies.drawing import dots, lines

    points = []
    for setting in (LEARNING, RESET):
        each = by_text(rows, setting, "gain")
        points += [point("mean of these texts", setting, each, times=100)] if each else []
        points += [plain(text, setting, 100 * gain) for text, gain in each.items()]
    found = [
        Chart(
            "texts",
            "Gain by text",
            "Bits per byte that learning saves, in percent of those of the static model; the bar of a mean is its 95 % "
            "interval over texts.",
            dots(points, "gain (%)"),
        ),
        Chart(
            "positions",
            "Speed of adaptation",
            "Gain by position in the document, where each point holds the positions from there to the next; mean over "
            "texts with its 95 % interval.",
            lines(positions(rows), "position in the document (tokens)", "gain (%)", log=True, at=0.0),
        ),
    ]
    if regret(rows):
        known = [plain(text, "static", bits) for text, bits in by_text(rows, LEARNING, "static_bits_per_byte").items()]
        for setting in (LEARNING, *hindsights(rows)):
            known += [plain(text, setting, bits) for text, bits in by_text(rows, setting).items()]
        caption = "Hindsight: fixed parameters after passes over the very text. Regret is learning less the best."
        found.append(Chart("regret", "Learning against hindsight", caption, dots(known, "bits per byte", at=None)))
    return found


STUDY = Study(
    name="online",
    claim=(
        "Learning while reading (all weights, by the default rule and rate) lowers the bits per byte of books and of "
        "text that drifts, on average over the texts, below those of the same model left as it is."
    ),
    source=(
        "Rannen-Triki et al. 2024, Revisiting Dynamic Evaluation (arXiv 2403.01518), abstract; regret and speed of "
        "adaptation as studied there"
    ),
    readings=readings,
    conclude=conclude,
    charts=charts,
    scale=Scale(tokens=20_000),
)
