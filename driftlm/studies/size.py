"""The gain of learning while reading for models of several sizes, made by one recipe.

Rule: for every text, the slope of the gain over the logarithm of the number of parameters (least squares, a doubling
being 1). The mean of the slopes over texts lies with its whole 95 % interval below 0 (supported) or above it (not
supported). Every model reads at its own rate: of three, the best on the development books, which decide nothing else.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learning
from driftlm.studies.cells import Cell
from driftlm.studies.intervals import over_texts
from driftlm.studies.rows import Each, by_text, concluded, figure, mean, mean_of, measured, point, relative, settings_of
from driftlm.studies.study import Chart, Conclusion, Row, Scale, Study
from driftlm.studies.texts import CACHED, DEVELOPMENT_BOOKS, OTHER_BOOKS, PEPS, RECENT_PEPS, SPEECHES, first

FEWEST = 3  # models
RATES = (1e-4, 3e-4, 1e-3)
TEXTS = (OTHER_BOOKS[0], SPEECHES, OTHER_BOOKS[1], PEPS, OTHER_BOOKS[2], RECENT_PEPS)
CHOOSING = {Path(text).stem for text in DEVELOPMENT_BOOKS}


def readings(scale: Scale) -> list[Cell]:
    """Return every model at every rate on every text.

    Raises:
        DriftError: for fewer than 3 models, or two folders of the same name.
    """
    names = [Path(model).name for model in scale.models]
    if len(names) < FEWEST or len(set(names)) < len(names):
        raise DriftError(
            f"`Scale.models` named {', '.join(names) or 'none'}; the study of sizes needs at least {FEWEST} folders "
            f"with "
            f"models, named differently: make them with recipes.train_model."
        )
    return [
        Cell(f"{name} rate {rate:g}", (text,), scale.tokens, CACHED, Learning(learning_rate=rate), model=model)
        for text in (*first(DEVELOPMENT_BOOKS, scale.texts), *first(TEXTS, scale.texts))
        for name, model in zip(names, scale.models, strict=True)
        for rate in RATES
    ]


def chosen(rows: Sequence[Row]) -> dict[str, str]:
    """Return by model, from the smallest, its setting with the fewest bits per byte on the development books."""
    best: dict[str, tuple[float, str]] = {}
    for setting in settings_of(rows):
        bits = mean([value for text, value in measured(rows, setting).items() if text in CHOOSING] or [math.inf])
        model = setting.rpartition(" rate ")[0]
        if model not in best or bits < best[model][0]:
            best[model] = bits, setting
    by_size = sorted(best, key=lambda model: parameters(rows, best[model][1]))
    return {model: best[model][1] for model in by_size}


def parameters(rows: Sequence[Row], setting: str) -> float:
    """Return the number of parameters of the model of a setting."""
    return mean_of(rows, setting, "parameters")


def gains(rows: Sequence[Row], setting: str) -> Each:
    """Return the gains by text, the development books left out."""
    return {text: gain for text, gain in measured(rows, setting, "gain").items() if text not in CHOOSING}


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of the line of least squares.

    Example:
        >>> slope([0.0, 1.0, 2.0], [1.0, 3.0, 5.0])
        2.0
    """
    x_mean, y_mean = mean(x), mean(y)
    return sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)) / sum((a - x_mean) ** 2 for a in x)


def slopes(rows: Sequence[Row]) -> Each:
    """Return by text the change of the gain with a doubling of the parameters.

    Raises:
        DriftError: where fewer than 3 models were measured, or they are equally large.
    """
    settings = chosen(rows)
    sizes = [math.log2(parameters(rows, setting)) for setting in settings.values()]
    if len(set(sizes)) < FEWEST:
        raise DriftError(
            f"the rows are of {len(set(sizes))} sizes of models; give {FEWEST} `Scale.models` of different sizes."
        )
    each = [gains(rows, setting) for setting in settings.values()]
    texts = [text for text in each[0] if all(text in one for one in each)]
    return {text: slope(sizes, [one[text] for one in each]) for text in texts}


def conclude(rows: Sequence[Row]) -> Conclusion:
    """Return the verdict on the slope; the models' own numbers are figures."""
    change = over_texts(slopes(rows))
    models: dict[str, dict[str, Any]] = {}
    for model, setting in chosen(rows).items():
        models[model] = {
            "parameters": parameters(rows, setting),
            "rate": float(setting.rpartition(" ")[2]),
            "gain": figure(over_texts(gains(rows, setting))),
            "bits_per_byte": mean(list(tested(rows, setting, "bits_per_byte").values())),
            "static_bits_per_byte": mean(list(tested(rows, setting, "static_bits_per_byte").values())),
        }
    each = ", ".join(f"{one['parameters'] / 1e6:.1f} M {100 * one['gain']['mean']:.1f} %" for one in models.values())
    because = f"a doubling of the parameters changes the gain by {change.percent()} of the bits; gains by size: {each}"
    return concluded(change.verdict("below"), f"{because}.", {"slope": figure(change), "models": models})


def tested(rows: Sequence[Row], setting: str, value: str) -> Each:
    """Return a value by text, the development books left out."""
    return {text: found for text, found in by_text(rows, setting, value).items() if text not in CHOOSING}


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Return the gain by size, and bits per byte by size."""
    from driftlm.studies.drawing import lines

    settings = chosen(rows)
    sized = {setting: parameters(rows, setting) for setting in settings.values()}
    by_gain = [point(model, "gain", gains(rows, one), times=100, x=sized[one]) for model, one in settings.items()]
    smallest = tested(rows, next(iter(sized)), "static_bits_per_byte")
    bits = [
        point(model, group, relative(smallest, tested(rows, setting, value)), times=100, x=sized[setting])
        for group, value in (("static", "static_bits_per_byte"), ("learning", "bits_per_byte"))
        for model, setting in settings.items()
    ]
    return [
        Chart(
            "gain",
            "Gain by size of the model",
            "Mean over texts; bars are 95 % intervals over texts.",
            lines(by_gain, "parameters", "gain (%)", log=True, at=0.0),
        ),
        Chart(
            "bits",
            "A smaller model that learns, or a larger one that does not",
            "Mean over texts; bars are 95 % intervals over texts.",
            lines(bits, "parameters", "bits per byte, against the smallest static (%)", log=True),
        ),
    ]


STUDY = Study(
    name="size",
    claim="The larger the model, the smaller the share of its bits per byte that learning while reading saves.",
    source=(
        "Krause et al. 2018 (arXiv 1709.07432) and 2019 (arXiv 1904.08378): weaker models gain more; Rannen-Triki et "
        "al. 2024 (arXiv 2403.01518) on models of several sizes"
    ),
    readings=readings,
    conclude=conclude,
    charts=charts,
    scale=Scale(tokens=10_000),
    several=True,
)
