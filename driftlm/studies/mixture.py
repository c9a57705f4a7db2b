"""A mixture of learning rates against the best rate of a finer grid, which is known only after reading, on 12 books.

Rule: on every book the mixture takes at most 0.5 % more bits per byte than the best rate of the grid, and fewer than
the static model. One book that fails is enough (not supported); all 12 have to be measured at all rates (supported).
The grid is geometric, four times as fine as the experts' steps and half a step wider at its lower end, where the best
rate on books is; the rates that the experts hold, or nearly hold, are left out.
"""

from collections.abc import Sequence

from driftlm.memories.weights.learning import Learning
from driftlm.studies.cells import Cell
from driftlm.studies.intervals import over_texts
from driftlm.studies.rows import Each, by_text, concluded, figure, measured, plain, point, relative
from driftlm.studies.study import Chart, Conclusion, Row, Scale, Study, Verdict
from driftlm.studies.texts import BOOKS, first

MIXTURE = "mixture"
SLACK = 0.005
EXPERTS = tuple(expert.rate() for expert in Learning(rule="mixture").strategies() if expert.rate())
FINER = 4  # steps of the grid for one between experts
RATES = tuple(
    float(f"{1e-4 * 10 ** (k / (2 * FINER)):.3g}") for k in range(-FINER, 4 * FINER + 1) if k % FINER or k < 0
)


def readings(scale: Scale) -> list[Cell]:
    """Return every rate of the grid and the mixture, on every book."""
    cells = []
    for text in first(BOOKS, scale.texts):
        cells.append(Cell(MIXTURE, (text,), scale.tokens, learning=Learning(rule="mixture")))
        for rate in RATES:
            cells.append(Cell(f"rate {rate:g}", (text,), scale.tokens, learning=Learning(learning_rate=rate)))
    return cells


def best_rates(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Return by text the rate of the grid with the fewest bits per byte, and those."""
    best: dict[str, tuple[float, float]] = {}
    for rate in RATES:
        for text, bits in by_text(rows, f"rate {rate:g}").items():
            if text not in best or bits < best[text][1]:
                best[text] = rate, bits
    return best


def conclude(rows: Sequence[Row]) -> Conclusion:
    """Return the verdict on the worst book."""
    mixed = measured(rows, MIXTURE)
    best = best_rates(rows)
    above = relative({text: bits for text, (_, bits) in best.items()}, mixed)
    gain = measured(rows, MIXTURE, "gain")
    rates = [rate for rate in RATES if by_text(rows, f"rate {rate:g}")]
    failed = sorted(text for text in above if above[text] > SLACK or gain[text] <= 0)
    whole = len(above) >= len(BOOKS) and len(rates) == len(RATES)
    verdict: Verdict = "not supported" if failed else "supported" if whole else "undecided"
    worst, least = max(above, key=lambda text: above[text]), min(gain, key=lambda text: gain[text])
    because = (
        f"against the best of {len(rates)} rates the mixture takes at worst {100 * above[worst]:+.2f} % bits per byte "
        f"({worst}), against the static model at worst {-100 * gain[least]:+.2f} % ({least}), of {len(above)} books"
    ).replace("-", "−")
    figures = {
        "above_best": figure(over_texts(above)),
        "gain": figure(over_texts(gain)),
        "worst_above_best": above[worst],
        "least_gain": gain[least],
        "failed": failed,
        "best_rate": {text: rate for text, (rate, _) in best.items()},
        "above_best_by_text": above,
    }
    return concluded(verdict, f"{because}.", figures)


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Return the excess over the best rate by book, and over the grid."""
    from driftlm.studies.drawing import dots, lines

    best: Each = {text: bits for text, (_, bits) in best_rates(rows).items()}
    above = relative(best, measured(rows, MIXTURE))
    static = relative(best, measured(rows, MIXTURE, "static_bits_per_byte"))
    points = []
    for name, each in ((MIXTURE, above), ("static", static)):
        points.append(point("mean of the books", name, each, times=100))
        points += [plain(text, name, 100 * value) for text, value in each.items()]
    curve = []
    for rate in RATES:
        each = relative(best, by_text(rows, f"rate {rate:g}"))
        curve += [point(f"{rate:g}", "one rate", each, times=100, x=rate)] if each else []
    ends = (curve[0]["x"], curve[-1]["x"])
    curve += [point(MIXTURE, MIXTURE, above, times=100, x=end) for end in ends]
    caption = "Bits per byte above those of the book's best rate of the grid, in percent"
    return [
        Chart("books", "How far from the best rate", f"{caption}.", dots(points, "above the best rate (%)")),
        Chart(
            "rates",
            "One rate for all, or a mixture",
            f"{caption}: mean over books, bars are 95 % intervals; the line is at {100 * SLACK:g} %, the axis "
            "logarithmic beyond 0.1 %.",
            lines(curve, "learning rate", "above each book's best rate (%)", log=True, at=100 * SLACK, linear=0.1),
        ),
    ]


STUDY = Study(
    name="mixture",
    claim=(
        "On each of the 12 books, the mixture of learning rates takes at most 0.5 % more bits per byte than the best "
        "rate of a four times finer grid that its experts do not hold, and fewer than the static model."
    ),
    source=(
        "Cesa-Bianchi and Lugosi 2006, Prediction, Learning, and Games, ch. 9: a mixture of K experts loses at "
        "most ln K nats on the best of them"
    ),
    readings=readings,
    conclude=conclude,
    charts=charts,
    scale=Scale(tokens=10_000),
)
