"""A longer static context against a shorter context that learns, under shift and on books like the training text.

Rule: on text under shift, the bits per byte of learning with a context of 256 are compared with those of the static
model with a context of 1,024, at least three quarters of it before every token, which takes more FLOPs. The mean
relative difference over the texts lies with its whole 95 % interval below 0 (supported) or above it (not supported).
Where learning took more FLOPs than the static model after all, it was no fair comparison, and nothing is decided.
In-domain, where the claim says nothing, the same number is a figure.
"""

from collections.abc import Sequence

from driftlm.memories.weights.learning import Learning
from driftlm.streams.windows import Windows
from driftlm.studies.cells import Cell
from driftlm.studies.intervals import over_texts
from driftlm.studies.rows import Each, by_text, concluded, figure, mean_of, measured, point, relative
from driftlm.studies.study import Chart, Conclusion, Row, Scale, Study
from driftlm.studies.texts import MINUTES, OTHER_BOOKS, PEPS, RECENT_PEPS, SHIFT, by_turns, first

STATIC, LEARNING = "static", "learning"
CONTEXTS = {STATIC: (128, 256, 512, 1024), LEARNING: (128, 256, 512)}
SHIFTED = (RECENT_PEPS, *SHIFT, MINUTES, PEPS)
BOOKS = OTHER_BOOKS[:4]
LONG, SHORT = "static C=1024", "learning C=256"
KINDS = {"under shift": SHIFTED, "books": BOOKS}


def readings(scale: Scale) -> list[Cell]:
    """Return static contexts, overlapping by three quarters, and cached contexts that learn."""
    cells = []
    for text in by_turns(*(first(texts, scale.texts) for texts in KINDS.values())):
        for length in CONTEXTS[STATIC]:
            grid = Windows("overlapping", length, length // 4)
            cells.append(Cell(f"{STATIC} C={length}", (text,), scale.tokens, grid, Learning("none")))
        for length in CONTEXTS[LEARNING]:
            cells.append(Cell(f"{LEARNING} C={length}", (text,), scale.tokens, Windows("cached", length, length // 2)))
    return cells


def of_kind(each: Each, kind: str) -> Each:
    """Return the texts of a kind."""
    names = {text.rsplit("/", 1)[-1].rsplit(".", 1)[0] for text in KINDS[kind]}
    return {text: value for text, value in each.items() if text in names}


def conclude(rows: Sequence[Row]) -> Conclusion:
    """Return the verdict under shift; books are figures."""
    each = relative(measured(rows, LONG), measured(rows, SHORT))
    shifted, books = of_kind(each, "under shift"), of_kind(each, "books")
    change = over_texts(shifted)
    cost = {name: mean_of(rows, name, "flops_per_token") for name in (LONG, SHORT)}
    figures = {"under_shift": figure(change), "flops_per_token": cost}
    because = (
        f"under shift, learning with a context of 256 differs from the static model with 1,024 in bits per byte by "
        f"{change.percent()}, at {100 * cost[SHORT] / cost[LONG]:.0f} % of its FLOPs"
    )
    if books:
        figures["books"] = figure(over_texts(books))
        because += f"; on books by {over_texts(books).percent()}"
    verdict = change.verdict("below") if cost[SHORT] <= cost[LONG] else "undecided"
    return concluded(verdict, f"{because}.", figures | {"bits_per_byte": table(rows)})


def table(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Mean bits per byte by kind of text and setting."""
    found: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for kind, by in found.items():
        for role, lengths in CONTEXTS.items():
            for name in (f"{role} C={length}" for length in lengths):
                each = of_kind(by_text(rows, name), kind)
                by |= {name: over_texts(each).mean} if each else {}
    return found


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Draw, by kind of text, the change against the long static context over context, and against FLOPs."""
    from driftlm.studies.drawing import fronts, lines

    found = []
    for kind in KINDS:
        by_length, by_cost = [], []
        base = of_kind(by_text(rows, LONG), kind)
        for role, lengths in CONTEXTS.items():
            for length in lengths:
                name = f"{role} C={length}"
                each = relative(base, by_text(rows, name))
                if each:
                    flops = mean_of(rows, name, "flops_per_token")
                    by_length.append(point(name, role, each, times=100, x=length))
                    by_cost.append(point(f"C={length}", role, each, times=100, x=flops))
        if not by_length:
            continue
        key, title = kind.replace(" ", "_"), "bits per byte, against static C=1,024 (%)"
        caption = "Mean over texts; bars are 95 % intervals over texts."
        found += [
            Chart(
                f"{key}_context",
                f"Context or learning: {kind}",
                caption,
                lines(by_length, "context (tokens)", title, log=True, at=0.0),
            ),
            Chart(
                f"{key}_flops",
                f"Quality against FLOPs: {kind}",
                f"{caption} The lines are the Pareto fronts.",
                fronts(by_cost, "FLOPs a token", title),
            ),
        ]
    return found


STUDY = Study(
    name="context",
    claim=(
        "Under shift (code, French, enhancement proposals, minutes), a context of 256 tokens with learning reaches "
        "fewer bits per byte, at no more FLOPs, than a static context of 1,024."
    ),
    source=(
        "Rannen-Triki et al. 2024, Revisiting Dynamic Evaluation (arXiv 2403.01518), abstract: under strong shift, a "
        "smaller context with online learning can beat a larger static one"
    ),
    readings=readings,
    conclude=conclude,
    charts=charts,
    scale=Scale(tokens=10_000),
)
