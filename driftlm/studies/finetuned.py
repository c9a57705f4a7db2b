"""The gain of learning while reading, before and after the prior was trained on the beginning of the same text.

Rule, of two parts, each on its mean over texts with a 95 % interval that has to lie wholly on one side of 0: the gain
of the trained prior is smaller than that of the untrained one, and it is above 0. One part against the claim is
enough. A gain is relative to the fixed model that the reading starts from. What is read comes behind what was trained
on.
"""

from collections.abc import Sequence

from driftlm.memories.weights.learning import DEFAULT_RATES
from driftlm.studies.cells import Cell
from driftlm.studies.intervals import over_texts
from driftlm.studies.rows import Each, by_text, combined, concluded, figure, measured, plain, point, relative
from driftlm.studies.study import Chart, Conclusion, Row, Scale, Study
from driftlm.studies.texts import CACHED, DRIFT, OTHER_BOOKS, SHIFT, by_turns, first

BEFORE, TRAINED = "no training", 2  # tokens trained on for one that is read
PASSES = (1, 4)
KINDS = (OTHER_BOOKS[:3], DRIFT, SHIFT)


def after(passes: int) -> str:
    """Return the setting of a trained prior."""
    return f"{passes} pass{'es' * (passes > 1)}"


DECIDING = after(PASSES[-1])


def readings(scale: Scale) -> list[Cell]:
    """Return the same part of every text, read from both priors."""
    cells = []
    for text in by_turns(*(first(texts, scale.texts) for texts in KINDS)):
        trained = TRAINED * scale.tokens
        cells.append(Cell(BEFORE, (text,), scale.tokens, CACHED, skip=trained))
        for passes in PASSES:
            rate = DEFAULT_RATES["relative"]
            cells.append(Cell(after(passes), (text,), scale.tokens, CACHED, skip=trained, tuned=passes, rate=rate))
    return cells


def gains(rows: Sequence[Row], setting: str) -> Each:
    """Return by text the fraction of the bits of the fixed model it starts from that learning saves."""
    start = by_text(rows, setting, "static_bits_per_byte" if setting == BEFORE else "prior_bits_per_byte")
    return {text: -change for text, change in relative(start, measured(rows, setting)).items()}


def conclude(rows: Sequence[Row]) -> Conclusion:
    """Return the verdict on the longest training; shorter ones are figures."""
    first_gains, last_gains = gains(rows, BEFORE), gains(rows, DECIDING)
    shrunk = over_texts({text: first_gains[text] - gain for text, gain in last_gains.items() if text in first_gains})
    before, still = over_texts(first_gains), over_texts(last_gains)
    trained = relative(by_text(rows, DECIDING, "static_bits_per_byte"), by_text(rows, DECIDING, "prior_bits_per_byte"))
    figures = {
        "shrinkage": figure(shrunk),
        "gain": {name: figure(over_texts(gains(rows, name))) for name in settings(rows)},
        "change_by_training": figure(over_texts(trained)),
    }
    because = (
        f"learning gains {before.percent()} before and {still.percent()} after {DECIDING} over "
        f"the text's beginning, a difference of {shrunk.percent()}"
    )
    return concluded(combined(shrunk.verdict("above"), still.verdict("above")), f"{because}.", figures)


def settings(rows: Sequence[Row]) -> list[str]:
    """Return the settings that were measured."""
    return [name for name in (BEFORE, *map(after, PASSES)) if by_text(rows, name)]


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Return the gain by training, and bits per byte of the four models."""
    from driftlm.studies.drawing import dots

    names = settings(rows)
    held = {name: gains(rows, name) for name in names}
    points = [point("mean of these texts", name, held[name], times=100) for name in names]
    points += [plain(text, name, 100 * gain) for name in names for text, gain in held[name].items()]
    base = by_text(rows, BEFORE, "static_bits_per_byte")
    bits = [point("untrained", "learning", relative(base, by_text(rows, BEFORE)), times=100)]
    for name in names[1:]:
        fixed = relative(base, by_text(rows, name, "prior_bits_per_byte"))
        bits.append(point(f"trained, {name}", "static", fixed, times=100))
        bits.append(point(f"trained, {name}", "learning", relative(base, by_text(rows, name)), times=100))
    return [
        Chart(
            "gain",
            "Gain before and after training on the text's beginning",
            "Bits per byte saved against the fixed model the reading starts from; the bar of a mean is its 95 % "
            "interval over texts.",
            dots(points, "gain (%)"),
        ),
        Chart(
            "bits",
            "Training, learning, or both",
            "Bits per byte against those of the untrained model as it is: mean over texts, bars are 95 % intervals.",
            dots(bits, "bits per byte, against untrained (%)"),
        ),
    ]


STUDY = Study(
    name="finetuned",
    claim=(
        "Training the prior on the beginning of a text shrinks what learning while reading the rest still gains, "
        "but leaves it above zero."
    ),
    source=(
        "Rannen-Triki et al. 2024, Revisiting Dynamic Evaluation (arXiv 2403.01518), on models tuned on the target "
        "distribution"
    ),
    readings=readings,
    conclude=conclude,
    charts=charts,
    scale=Scale(tokens=10_000),
)
