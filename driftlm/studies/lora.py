"""LoRA of several ranks, places and layers, DoRA and norms against all weights: gain against memory and FLOPs.

Rule, of two parts. For every text, the gain of a LoRA of rank 8 less 90 % of the gain of all weights: its mean over
texts lies with its whole 95 % interval above 0 (supported) or below it (not supported). And the LoRA's bytes of
values, priors, gradients, copies and moments are at most a tenth of those of all weights. Where all weights gain
nothing on average there is nothing to keep, and nothing is decided. Adam's rates for ranks 1, 8 and 64 and for norms
were chosen on the two development books alone, which are not among the texts; the others follow from them.
"""

import math
from collections.abc import Sequence

from driftlm.memories.weights.learning import DEFAULT_RATES, Learning
from driftlm.studies.cells import Cell
from driftlm.studies.intervals import over_texts
from driftlm.studies.rows import by_text, combined, concluded, figure, mean_of, measured, point
from driftlm.studies.study import Chart, Conclusion, Row, Scale, Study, Verdict
from driftlm.studies.texts import CACHED, DRIFT, OTHER_BOOKS, SHIFT, first

RANKS = (1, 2, 4, 8, 16, 32, 64)
WHOLE, DECIDING, KEPT, MEMORY = "all weights", "rank 8", 0.9, 0.1
RATE = 3e-3  # of LoRA and DoRA of rank 8, and of norms
PLACES = {"first layers": "0-1", "middle layers": "2-3", "last layers": "4-5"}  # of the bundled model's six
TEXTS = (OTHER_BOOKS[0], DRIFT[0], SHIFT[0], OTHER_BOOKS[1], DRIFT[2], OTHER_BOOKS[2])


def learnings() -> dict[str, Learning]:
    """Return the settings by name; rank 8 in every linear map of every layer but where the name says otherwise."""
    found = {WHOLE: Learning(learning_rate=DEFAULT_RATES["adam"])}
    found |= {f"rank {rank}": Learning("lora", rank=rank, learning_rate=rate_of(rank)) for rank in RANKS}
    found |= {name: Learning("lora", target_modules=name, learning_rate=RATE) for name in ("attention", "mlp")}
    found |= {name: Learning("lora", layers=layers, learning_rate=RATE) for name, layers in PLACES.items()}
    return found | {
        "DoRA": Learning("dora", learning_rate=RATE),
        "norms": Learning("norms", learning_rate=RATE),
    }


def rate_of(rank: int) -> float:
    """Return the rate of Adam in a LoRA: the more rank, the further one rate moves the model.

    On the development books 1e-2 is better than 3e-3 at rank 1, 3e-3 than 1e-3 at rank 8, 1e-3 than 3e-3 at rank 64.

    Example:
        >>> [round(rate_of(rank), 5) for rank in (1, 8, 64)]
        [0.00849, 0.003, 0.00106]

    Source: Kalajdzievski 2023 (arXiv 2312.03732): a LoRA's step goes with the square root of its rank.
    """
    return RATE * math.sqrt(8 / rank)


def readings(scale: Scale) -> list[Cell]:
    """Return every setting on a few texts; those with a random half as often as there are seeds."""
    return [
        Cell(name, (text,), scale.tokens, CACHED, learning, seed=seed)
        for text in first(TEXTS, scale.texts)
        for name, learning in learnings().items()
        for seed in range(scale.seeds if learning.learn in ("lora", "dora") else 1)
    ]


def conclude(rows: Sequence[Row]) -> Conclusion:
    """Return the verdict on rank 8; every setting's gain, memory and FLOPs are figures."""
    whole, low_rank = measured(rows, WHOLE, "gain"), measured(rows, DECIDING, "gain")
    above = over_texts({text: low_rank[text] - KEPT * gain for text, gain in whole.items() if text in low_rank})
    memory = mean_of(rows, DECIDING, "memory_bytes") / mean_of(rows, WHOLE, "memory_bytes")
    fits: Verdict = "supported" if memory <= MEMORY else "not supported"
    table = {
        name: {
            "gain": figure(over_texts(by_text(rows, name, "gain"))),
            **{value: mean_of(rows, name, value) for value in ("memory_bytes", "flops_per_token")},
        }
        for name in learnings()
        if by_text(rows, name, "gain")
    }
    figures = {"gain_above_nine_tenths": figure(above), "memory": memory, "settings": table}
    verdict = combined(above.verdict("above"), fits) if over_texts(whole).mean > 0 else "undecided"
    because = (
        f"all weights gain {over_texts(whole).percent()}, a LoRA of rank 8 {over_texts(low_rank).percent()} with "
        f"{100 * memory:.1f} % of the memory; its gain less 90 % of theirs is {above.percent()}"
    )
    return concluded(verdict, f"{because}.", figures)


def kind_of(name: str) -> str:
    """Return the group of a setting in charts."""
    if name.startswith("rank"):
        return "LoRA, every map"
    return "LoRA, some maps" if name in (*PLACES, "attention", "mlp") else name


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Return the gain by setting, and against memory and FLOPs."""
    from driftlm.studies.drawing import dots, fronts

    found = [name for name in learnings() if by_text(rows, name, "gain")]
    gains = {name: by_text(rows, name, "gain") for name in found}
    caption = "Mean over texts; bars are 95 % intervals over texts."
    result = [
        Chart(
            "gain",
            "Gain by what may change",
            f"{caption} Rank 8 but where another is named.",
            dots([point(name, kind_of(name), gains[name], times=100) for name in found], "gain (%)"),
        )
    ]
    for value, heading, title in (
        ("memory_bytes", "Quality against memory", "bytes of what learns"),
        ("flops_per_token", "Quality against FLOPs", "FLOPs a token"),
    ):
        points = [
            point(
                name,
                kind_of(name),
                {text: -gain for text, gain in gains[name].items()},
                times=100,
                x=mean_of(rows, name, value),
            )
            for name in found
        ]
        spec = fronts(points, title, "bits per byte, against static (%)")
        result.append(Chart(value.split("_")[0], heading, f"{caption} The lines are the Pareto fronts.", spec))
    return result


STUDY = Study(
    name="lora",
    claim=(
        "A LoRA of rank 8 keeps at least 90 % of what learning in all weights gains, with at most a tenth of the "
        "memory."
    ),
    source=(
        "Rannen-Triki et al. 2024, Revisiting Dynamic Evaluation (arXiv 2403.01518), on LoRA to cut memory; the 90 % "
        "and the tenth are our reading of it as numbers"
    ),
    readings=readings,
    conclude=conclude,
    charts=charts,
    scale=Scale(tokens=10_000),
)
