"""LoRA of several ranks, places and layers, DoRA and norms against all weights: gain against memory and FLOPs.

Rule, of two parts. For every text, the gain of a LoRA of rank 8 less 90 % of the gain of all weights: its mean over
texts lies with its whole 95 % interval above 0 (supported) or below it (not supported). And the LoRA's bytes of
values, priors, gradients, copies and moments are at most a tenth of those of all weights. Where all weights gain
nothing on average there is nothing to keep, and nothing is decided. Every setting learns by the default rule and rate.
"""

from collections.abc import Sequence
from itertools import pairwise

from driftlm.memories.weights.learning import Learning
from driftlm.models.inspection import layers_of
from driftlm.studies.cells import Cell
from driftlm.studies.intervals import over_texts
from driftlm.studies.rows import by_text, combined, concluded, figure, mean_of, measured, point, settings_of
from driftlm.studies.study import Chart, Conclusion, Row, Scale, Study, Verdict
from driftlm.studies.texts import CACHED, OTHER_BOOKS, PEPS, RECENT_PEPS, SHIFT, SPEECHES, first

RANKS = (1, 2, 4, 8, 16, 32, 64)
WHOLE, DECIDING, KEPT, MEMORY = "all weights", "rank 8", 0.9, 0.1
PLACES = ("first layers", "middle layers", "last layers")
TEXTS = (RECENT_PEPS, OTHER_BOOKS[0], SPEECHES, SHIFT[0], OTHER_BOOKS[1], PEPS, OTHER_BOOKS[2])


def learnings(layers: int) -> dict[str, Learning]:
    """Return the settings by name; rank 8 in every linear map of every layer but where the name says otherwise."""
    found = {WHOLE: Learning()} | {f"rank {rank}": Learning("lora", rank=rank) for rank in RANKS}
    found |= {name: Learning("lora", target_modules=name) for name in ("attention", "mlp")}
    found |= {name: Learning("lora", layers=those) for name, those in thirds(layers).items()}
    return found | {"DoRA": Learning("dora"), "norms": Learning("norms")}


def thirds(layers: int) -> dict[str, str]:
    """Return the thirds of a model's layers; none of fewer than three.

    Example:
        >>> thirds(30)
        {'first layers': '0-9', 'middle layers': '10-19', 'last layers': '20-29'}
        >>> thirds(4)["middle layers"], thirds(2)
        ('1-2', {})
    """
    ends = [round(layers * place / len(PLACES)) for place in range(len(PLACES) + 1)]
    parts = [f"{start}-{stop - 1}" for start, stop in pairwise(ends)]
    return dict(zip(PLACES, parts, strict=True)) if layers >= len(PLACES) else {}


def readings(scale: Scale) -> list[Cell]:
    """Return every setting on a few texts; those with a random half as often as there are seeds."""
    return [
        Cell(name, (text,), scale.tokens, CACHED, learning, seed=seed)
        for text in first(TEXTS, scale.texts)
        for name, learning in learnings(layers_of(scale.model)).items()
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
        for name in settings_of(rows)
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

    found = settings_of(rows)
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
