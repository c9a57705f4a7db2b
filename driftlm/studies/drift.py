"""Read the same tokens in one piece, by turns, in date order and shuffled: how much of the gain hangs on the order.

Rule: for every pair of sources, the gain of learning where each is read in one piece less the gain where they take
turns every 1,024 tokens (the shortest segment that was measured). The mean over pairs lies with its whole 95 % interval
above 0 (supported) or below it (not supported). A gain is against the static model in the same order. Windows share
nothing and segments are whole windows, so that the static model loses next to nothing where a document is cut for its
turn, and learning does not win by standing in for the context that was lost. Turns of whole documents, and the date
order against a shuffled one for sources that have dates, are figures.
"""

from collections.abc import Sequence

from driftlm.streams.windows import Windows
from driftlm.studies.cells import Cell
from driftlm.studies.intervals import over_texts
from driftlm.studies.rows import Each, by_text, concluded, figure, measured, point, settings_of
from driftlm.studies.study import Chart, Conclusion, Row, Scale, Study
from driftlm.studies.texts import DRIFT, MINUTES, OTHER_BOOKS, PEPS, SHIFT, SPEECHES, first

WHOLE, DATED, SHUFFLED = "one piece", "by date", "shuffled"
SEGMENTS, DOCUMENTS = (1_024, 4_096, 16_384, 65_536), (1, 4, 16)
APART = Windows("overlapping", 512, 512)
PAIRS = (
    (SPEECHES, PEPS),
    (MINUTES, PEPS),
    SHIFT,
    (SPEECHES, MINUTES),
    (OTHER_BOOKS[0], OTHER_BOOKS[2]),
)


def readings(scale: Scale) -> list[Cell]:
    """Return the pairs of sources in every order, and single sources by date and shuffled."""
    cells = []
    for pair in PAIRS[: scale.texts or None]:
        share = scale.tokens // len(pair)
        segments = [length for length in SEGMENTS if length < share] or [max(1, share // 4)]
        orders = {WHOLE: "given"} | {f"tokens {length}": f"tokens:{length}" for length in segments}
        if set(pair) <= set(DRIFT):
            orders |= {f"documents {count}": f"documents:{count}" for count in DOCUMENTS}
        for name, order in orders.items():
            cells.append(Cell(name, pair, scale.tokens, APART, order=order))
    for text in first(DRIFT, scale.texts):
        cells.append(Cell(DATED, (text,), scale.tokens, APART))
        for seed in range(scale.seeds):
            cells.append(Cell(SHUFFLED, (text,), scale.tokens, APART, order="shuffled", seed=seed))
    return cells


def lengths(rows: Sequence[Row], unit: str) -> list[int]:
    """Return the lengths of the segments that were measured, rising."""
    held = (setting.partition(" ") for setting in settings_of(rows))
    return sorted(int(length) for word, _, length in held if word == unit)


def lost(rows: Sequence[Row], setting: str, whole: str = WHOLE) -> Each:
    """Return by text the gain in one piece less that in another order."""
    gain = by_text(rows, setting, "gain")
    return {text: value - gain[text] for text, value in by_text(rows, whole, "gain").items() if text in gain}


def conclude(rows: Sequence[Row]) -> Conclusion:
    """Return the verdict on the shortest segments; the others, documents and dates are figures."""
    shortest = next(iter(lengths(rows, "tokens")), SEGMENTS[0])
    measured(rows, f"tokens {shortest}")
    cost = over_texts(lost(rows, f"tokens {shortest}"))
    whole = over_texts(measured(rows, WHOLE, "gain"))
    figures = {"gain_in_one_piece": figure(whole)}
    for unit in ("tokens", "documents"):
        figures[f"lost_by_{unit}"] = {
            str(length): figure(over_texts(lost(rows, f"{unit} {length}"))) for length in lengths(rows, unit)
        }
    because = (
        f"learning gains {whole.percent()} of the bits where each source is in one piece; turns every {shortest:,} "
        f"tokens take {cost.percent()} of the bits from that"
    )
    dated = lost(rows, SHUFFLED, DATED)
    if dated:
        figures["lost_by_shuffling"] = figure(over_texts(dated))
        because += f"; shuffling what was by date takes {over_texts(dated).percent()}"
    return concluded(cost.verdict("above"), f"{because}.", figures)


def turns(length: int, unit: str) -> str:
    """Return the order in words for a chart.

    Example:
        >>> turns(1, "documents"), turns(1_000, "tokens")
        ('turns of 1 document', 'turns of 1,000 tokens')
    """
    return f"turns of {length:,} {unit.removesuffix('s') if length == 1 else unit}"


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Return the gain by length of the segments, and by order."""
    from driftlm.studies.drawing import dots, lines

    tokens = [
        point(f"{length:,} tokens", "pairs of sources", lost(rows, f"tokens {length}"), times=100, x=length)
        for length in lengths(rows, "tokens")
    ]
    orders = [point("one piece", "pairs", measured(rows, WHOLE, "gain"), times=100)]
    for unit in ("tokens", "documents"):
        orders += [
            point(turns(length, unit), "pairs", by_text(rows, f"{unit} {length}", "gain"), times=100)
            for length in lengths(rows, unit)
        ]
    for name in (DATED, SHUFFLED):
        each = by_text(rows, name, "gain")
        orders += [point(name, "single sources", each, times=100)] if each else []
    caption = "Mean over texts; bars are 95 % intervals over texts."
    return [
        Chart(
            "segments",
            "What taking turns costs",
            f"Gain in one piece less the gain by turns. {caption}",
            lines(tokens, "tokens of a turn", "gain lost (% of the static bits)", log=True, at=0.0),
        ),
        Chart(
            "orders",
            "Gain by order of the same tokens",
            f"{caption} Turns of documents are of pairs that have several.",
            dots(orders, "gain (%)"),
        ),
    ]


STUDY = Study(
    name="drift",
    claim=(
        "Learning gains more where each of two sources is read in one piece than where the same tokens come by turns "
        "of 1,024."
    ),
    source=(
        "Rannen-Triki et al. 2024, Revisiting Dynamic Evaluation (arXiv 2403.01518), on sensitivity to drift; "
        "Krause et al. 2018 (arXiv 1709.07432): what was read last says what comes next"
    ),
    readings=readings,
    conclude=conclude,
    charts=charts,
    scale=Scale(tokens=64_000, seeds=3),
)
