"""What the gain of learning is made of: static windows from the poorest up, static ones of the same cost, learning.

Rule: the mean over the texts of the relative change of bits per byte, learning against the best static windows that
cost no more operations a token, lies with its whole 95 % interval below 0 (supported) or above it (not supported). The
static windows are chosen on the text itself, which favours them. With several models every one has its say: all of
them support the claim, or it is not supported as a whole.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from driftlm.core.errors import DriftError
from driftlm.evaluation.controls import APART, CONTEXT, LEARNING, OVERLAP, SINK, STEPS, described, richer, simpler
from driftlm.memories.weights.learning import Learning
from driftlm.studies.cells import Cell
from driftlm.studies.intervals import Difference, over_texts
from driftlm.studies.rows import Each, Point, by_text, combined, concluded, figure, point, relative, settings_of
from driftlm.studies.study import Chart, Conclusion, Row, Scale, Study
from driftlm.studies.texts import CACHED, DRIFT, OTHER_BOOKS, SHIFT, by_turns, first

TEXTS = by_turns(DRIFT, SHIFT, OTHER_BOOKS[:3])
SHARES = (2, 3)  # what learning costs, about: one pass forward and one of twice the work backward
BUNDLED: Final = "bundled"


def readings(scale: Scale) -> list[Cell]:
    """Return every step on every text by every model, and all static windows that may be of the same cost.

    Raises:
        DriftError: for two folders of the same name.
    """
    models = {Path(model).name or BUNDLED: model for model in scale.models or ("",)}
    if len(models) < len(scale.models):
        raise DriftError("`Scale.models` named two folders of the same name, which rows cannot tell apart; rename one.")
    ways = {name: (windows, Learning("none")) for name, windows in simpler(CACHED).items()}
    ways |= {f"{OVERLAP} {described(one)}": (one, Learning("none")) for one in richer(CACHED, SHARES)}
    ways[LEARNING] = CACHED, Learning()
    return [
        Cell(f"{model}: {name}", (text,), scale.tokens, windows, learning, model=folder)
        for text in first(TEXTS, scale.texts)
        for model, folder in models.items()
        for name, (windows, learning) in ways.items()
    ]


def models_of(rows: Sequence[Row]) -> list[str]:
    """Return the names of the models, in the order of the rows."""
    return list(dict.fromkeys(setting.partition(": ")[0] for setting in settings_of(rows)))


def steps(rows: Sequence[Row], model: str, value: str = "bits_per_byte") -> dict[str, Each]:
    """Return a value of every step by text; of `overlap` that of the static windows with the fewest bits per byte.

    Raises:
        DriftError: where a step was not measured.
    """
    found = {name: by_text(rows, f"{model}: {name}", value) for name in STEPS if name != OVERLAP}
    if not all(found.values()):
        raise DriftError(f"a step of {model} has no row; run the study again, whole.")
    most = by_text(rows, f"{model}: {LEARNING}", "flops_per_token")
    names = [one for one in settings_of(rows) if one.startswith(f"{model}: ") and one != f"{model}: {LEARNING}"]
    bits, cost = ({name: by_text(rows, name, key) for name in names} for key in ("bits_per_byte", "flops_per_token"))
    best: Each = {}
    for text, dearest in most.items():
        within = [name for name in names if cost[name].get(text, float("inf")) <= dearest and text in bits[name]]
        if within:
            chosen = min(within, key=lambda name: bits[name][text])
            best[text] = by_text(rows, chosen, value)[text]
    return {name: best if name == OVERLAP else found[name] for name in STEPS}


def changes(rows: Sequence[Row], model: str) -> dict[str, Difference]:
    """Return what every step changes against the one before it, and learning against the same windows, relative."""
    held = steps(rows, model)
    pairs = {name: (before, name) for before, name in pairwise(STEPS)}
    pairs[f"{LEARNING}, same windows"] = CONTEXT, LEARNING
    return {name: over_texts(relative(held[before], held[after])) for name, (before, after) in pairs.items()}


def shares(rows: Sequence[Row], model: str) -> dict[str, Difference]:
    """Return the share of every step in what all bring together, a mean over the texts where that is something."""
    held = steps(rows, model)
    whole = {text: held[APART][text] - bits for text, bits in held[LEARNING].items()}
    whole = {text: bits for text, bits in whole.items() if bits > 0}
    return {
        name: over_texts({text: (held[before][text] - held[name][text]) / bits for text, bits in whole.items()})
        for before, name in pairwise(STEPS if whole else ())
    }


def conclude(rows: Sequence[Row]) -> Conclusion:
    """Return the verdict on learning against static windows of the same cost; what each step brings is a figure."""
    if not rows:
        raise DriftError("there are no rows; run the study again, whole.")
    figures: dict[str, Any] = {}
    verdicts, said = [], []
    for model in models_of(rows):
        change, share = changes(rows, model), shares(rows, model)
        verdicts.append(change[LEARNING].verdict("below"))
        said.append(
            f"{model}: against static windows of the same cost learning changes bits per byte by "
            f"{change[LEARNING].percent()}, the sink by {change[SINK].percent()}, the context by "
            f"{change[CONTEXT].percent()}, more overlap by {change[OVERLAP].percent()}"
        )
        figures[model] = {
            "change": {name: figure(one) for name, one in change.items()},
            "share": {name: figure(one) for name, one in share.items()},
            "bits_per_byte": means(steps(rows, model)),
            "flops_per_token": means(steps(rows, model, "flops_per_token")),
        }
    return concluded(combined(*verdicts), "; ".join(said) + ".", figures)


def means(each: Mapping[str, Each]) -> dict[str, float]:
    """Return the means over texts by step."""
    return {name: over_texts(one).mean for name, one in each.items()}


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Draw what every step saves, and the bits per byte behind each."""
    from driftlm.studies.drawing import dots

    saved: list[Point] = []
    held: list[Point] = []
    for model in models_of(rows):
        found = steps(rows, model)
        for before, name in pairwise(STEPS):
            change = relative(found[before], found[name])
            saved.append(point(name, model, {text: -one for text, one in change.items()}, times=100))
        held += [point(name, model, one) for name, one in found.items()]
    bars = "Means over texts; bars are 95 % intervals over texts."
    return [
        Chart("steps", "What every step saves", bars, dots(saved, "bits per byte saved against the step before (%)")),
        Chart("bits", "Bits per byte behind every step", bars, dots(held, "bits per byte", at=None)),
    ]


STUDY = Study(
    name="controls",
    claim=(
        "Learning while reading (all weights, by the default rule and rate) reaches fewer bits per byte than the best "
        "static windows that cost no more."
    ),
    source=(
        "parameter-golf, the public arena of score-then-step: most of the first gain came from windows and from "
        "keeping documents apart; controls as in Rannen-Triki et al. 2024 (arXiv 2403.01518), section 3"
    ),
    readings=readings,
    conclude=conclude,
    charts=charts,
    scale=Scale(tokens=6_000),
    several=True,
)
