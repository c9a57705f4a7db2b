"""Every study: verdicts for, against and undecided from rows made to give them, and what is drawn of them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftlm.core.errors import DriftError
from driftlm.studies import cadence, context, controls, drift, finetuned, lora, mixture, online, size, windows
from driftlm.studies.cells import Cell
from driftlm.studies.rows import by_text
from driftlm.studies.study import STUDIES, Row, Scale, study_of
from tests.support.drawn import values
from tests.support.scales import MODELS, scale_of

pytestmark = pytest.mark.long

MILLIONS = {"one": 1e6, "four": 4e6, "sixteen": 16e6}
Values = dict[str, Any]
Made = Callable[[Cell, float], Values]  # a row's values for a reading and for how far the claim holds there


def row(reading: Cell, static: float = 2.0, gain: float = 0.0, **values: Any) -> Row:
    """As `measure` makes it: gain is against the static model unless bits are given."""
    bits = values.pop("bits_per_byte", static * (1 - gain))
    found = {"setting": reading.setting, "text": reading.text, "seed": reading.seed, "tokens": reading.tokens}
    found |= {"bits_per_byte": bits, "static_bits_per_byte": static, "prior_bits_per_byte": None}
    found |= {"gain": 1 - bits / static, "flops_per_token": 3e7, "static_flops_per_token": 1e7, "parameters": 5e6}
    nats = [{"from": 2**k, "tokens": 2**k, "nats": 2.0**k * (1 - gain), "static_nats": 2.0**k} for k in range(4)]
    return found | {"memory_bytes": 1e8, "positions": nats} | values


def of_online(reading: Cell, holds: float) -> Values:
    if reading.hindsight:
        return {"bits_per_byte": 1.8}
    return {"gain": 0.05 * holds}


def of_windows(reading: Cell, holds: float) -> Values:
    scheme, grid = reading.setting.split()[0], reading.windows
    cost = 1e6 * grid.context / grid.stride * (1 if scheme == windows.OVERLAPPING else 0.5)
    if scheme == windows.APART:
        return {"bits_per_byte": 2.1, "flops_per_token": 5e5}
    return {"bits_per_byte": 2.0 if scheme == windows.OVERLAPPING else 2.0 - 0.1 * holds, "flops_per_token": cost}


def of_cadence(reading: Cell, holds: float) -> Values:
    cost = {"flops_per_token": 1e7 + 2e7 / reading.learning.every}
    if reading.setting == cadence.DECIDING:
        return {"gain": 0.05 + 0.03 * holds} | cost
    return {"gain": 0.1 if reading.learning.every == 1 else 0.04} | cost


def of_context(reading: Cell, holds: float) -> Values:
    learns = reading.learning.learn != "none"
    return {"gain": 0.1 * holds if learns else 0.0, "flops_per_token": 3e7 if learns else 4e7}


def of_lora(reading: Cell, holds: float) -> Values:
    if reading.learning.learn == "all":
        return {"gain": 0.1}
    return {"gain": 0.09 + 0.02 * holds, "memory_bytes": 1e6 * reading.learning.rank, "flops_per_token": 2e7}


def of_finetuned(reading: Cell, holds: float) -> Values:
    if not reading.tuned:
        return {"gain": 0.1}
    return {"prior_bits_per_byte": 1.8, "bits_per_byte": 1.8 * (1 - (0.1 - 0.05 * holds))}


def of_drift(reading: Cell, holds: float) -> Values:
    return {"gain": 0.1 - (0.04 * holds if reading.order.startswith("tokens") else 0.0)}


def of_size(reading: Cell, holds: float) -> Values:
    doublings = math.log2(MILLIONS[Path(reading.model).name] / 1e6)
    best = reading.learning.learning_rate == 3e-4  # at other rates the slope is the other way round
    gain = 0.1 - 0.01 * doublings * holds if best else 0.01 * doublings * holds
    chosen_on = reading.text in size.CHOOSING
    return {"gain": 0.2 * best if chosen_on else gain, "parameters": MILLIONS[Path(reading.model).name]}


def of_mixture(reading: Cell, holds: float) -> Values:
    if reading.setting == mixture.MIXTURE:
        return {"bits_per_byte": 1.80 * (1.0025 - 0.005 * min(holds, 0.5))}
    return {"bits_per_byte": 1.80 if reading.learning.learning_rate == mixture.RATES[5] else 1.85}


def of_controls(reading: Cell, holds: float) -> Values:
    step = reading.setting.partition(": ")[2]
    bits = {"apart": 2.4, "sink": 2.3, "context": 2.1, "learning": 2.0 - 0.05 * holds}
    if step in bits:
        return {"bits_per_byte": bits[step], "flops_per_token": 3e7 if step == "learning" else 1e7}
    dear = reading.windows.stride < 200  # better, but dearer than learning
    return {"bits_per_byte": 1.7 if dear else 2.0, "flops_per_token": 4e7 if dear else 2e7}


MADE: dict[str, Made] = {
    "controls": of_controls,
    "online": of_online,
    "windows": of_windows,
    "cadence": of_cadence,
    "context": of_context,
    "lora": of_lora,
    "finetuned": of_finetuned,
    "drift": of_drift,
    "size": of_size,
    "mixture": of_mixture,
}


def rows_of(name: str, holds: Callable[[int], float], scale: Scale | None = None) -> list[Row]:
    """Rows of every reading, as far as the claim `holds` for the text of that number."""
    readings = study_of(name).readings(scale or scale_of(name))
    numbers = {text: number for number, text in enumerate(dict.fromkeys(reading.text for reading in readings))}
    return [row(one, **MADE[name](one, holds(numbers[one.text]))) for one in readings]


def alternating(number: int) -> float:
    return 1.0 if number // 2 % 2 else -1.0  # also for every other text, where two kinds take turns


def test_every_registered_study_is_tested() -> None:
    assert set(MADE) == set(STUDIES)
    assert all(study_of(name).name == name for name in STUDIES)


@pytest.mark.parametrize("name", MADE)
def test_the_verdict_follows_from_the_rows(name: str) -> None:
    study = study_of(name)
    supported, against = rows_of(name, lambda number: 1.0), rows_of(name, lambda number: -1.0)
    assert study.conclude(supported).verdict == "supported"
    assert study.conclude(against).verdict == "not supported"
    assert study.conclude(supported).sentence.startswith("Supported: ")
    for rows in (supported, against):
        found = study.conclude(rows)
        stored = json.loads(json.dumps(rows))
        assert study.conclude(stored) == found
        json.dumps(found.figures, allow_nan=False)


@pytest.mark.parametrize("name", sorted(set(MADE) - {"mixture"}))
def test_texts_that_contradict_each_other_decide_nothing(name: str) -> None:
    assert study_of(name).conclude(rows_of(name, alternating)).verdict == "undecided"


@pytest.mark.parametrize("name", MADE)
def test_two_texts_decide_nothing(name: str) -> None:
    study = study_of(name)
    # Two texts of each kind: where a study has several kinds, all but two texts are left out.
    rows = rows_of(name, lambda number: 1.0, scale_of(name, seeds=1, texts=2))
    texts = [row["text"] for row in rows if name != "drift" or row["setting"] == drift.WHOLE]
    texts = [text for text in dict.fromkeys(texts) if text not in size.CHOOSING or name != "size"][:2]
    kept = [row for row in rows if row["text"] in texts or (name == "size" and row["text"] in size.CHOOSING)]
    found = study.conclude(kept)
    assert found.verdict == "undecided"
    assert found.sentence.startswith("Undecided: ")


@pytest.mark.parametrize("name", MADE)
def test_no_rows_are_no_conclusion(name: str) -> None:
    with pytest.raises(DriftError):
        study_of(name).conclude([])


# ---- what is special to a study -------------------------------------------------------------------------------------


def test_regret_is_against_the_best_of_the_passes() -> None:
    rows = [row(reading, **of_online(reading, 1.0)) for reading in online.STUDY.readings(scale_of("online"))]
    for one in rows:
        if one["setting"] == "hindsight, 4 passes":
            one["bits_per_byte"] = 1.7
    assert online.regret(rows) == pytest.approx(dict.fromkeys(by_text(rows, online.LEARNING), 1.9 - 1.7))
    figures = online.conclude(rows).figures
    assert figures["change"]["mean"] == pytest.approx(-0.05)
    assert figures["reset_change"]["mean"] == pytest.approx(0.0)
    assert [(one["x"], one["value"]) for one in figures["positions"]] == [(2**k, pytest.approx(5.0)) for k in range(4)]


def test_windows_are_compared_at_equal_flops() -> None:
    cells = {
        "apart C=64 S=64": (2.2, 1.0),
        "overlapping C=64 S=32": (2.0, 4.0),
        "overlapping C=64 S=16": (1.9, 8.0),
        "cached C=64 S=32": (2.1, 2.0),
        "cached C=64 S=16": (1.8, 5.0),
    }
    rows = [
        {"setting": name, "text": "x", "bits_per_byte": bits, "flops_per_token": flops}
        for name, (bits, flops) in cells.items()
    ]
    # At 4: cached 2.1 against 2.0. At 8: cached 1.8 against 1.9.
    assert windows.compared(rows)["x"] == pytest.approx((2.1 / 2.0 + 1.8 / 1.9) / 2 - 1)
    assert windows.same_grid(rows)["x"] == pytest.approx((2.1 / 2.0 + 1.8 / 1.9) / 2 - 1)
    rows[-1]["flops_per_token"] = 9.0  # too dear for both
    assert windows.compared(rows)["x"] == pytest.approx((2.1 / 2.0 + 2.1 / 1.9) / 2 - 1)
    rows[-2]["flops_per_token"] = 5.0  # too dear at 4, where windows that share nothing are all that is left
    assert windows.compared(rows)["x"] == pytest.approx((2.2 / 2.0 + 2.1 / 1.9) / 2 - 1)


@pytest.mark.parametrize("name", ["cadence", "lora"])
def test_without_a_gain_there_is_nothing_to_keep(name: str) -> None:
    rows = rows_of(name, lambda number: 1.0)
    for one in rows:
        one["gain"] = -0.2 if one["setting"] in (cadence.ALWAYS, lora.WHOLE) else -0.1
    assert study_of(name).conclude(rows).verdict == "undecided"


def test_a_shorter_context_that_costs_more_decides_nothing() -> None:
    rows = rows_of("context", lambda number: 1.0)
    for one in rows:
        one["flops_per_token"] = 5e7 if one["setting"] == context.SHORT else 4e7
    assert context.conclude(rows).verdict == "undecided"


def test_books_do_not_decide_about_shift() -> None:
    books = {Path(text).stem for text in context.BOOKS}
    readings = context.readings(scale_of("context"))
    rows = [row(one, **of_context(one, -1.0 if one.text in books else 1.0)) for one in readings]
    found = context.conclude(rows)
    assert found.verdict == "supported"
    assert found.figures["books"]["mean"] == pytest.approx(0.1)
    assert found.figures["under_shift"]["texts"] == len(context.SHIFTED) == 5


def test_a_lora_that_takes_too_much_memory_is_against_the_claim() -> None:
    rows = rows_of("lora", lambda number: 1.0)
    for one in rows:
        one["memory_bytes"] = 1.5e7 if one["setting"] == lora.DECIDING else 1e8
    assert lora.conclude(rows).verdict == "not supported"


def test_a_gain_that_is_gone_after_training_is_against_the_claim() -> None:
    rows = rows_of("finetuned", lambda number: 1.0)
    for one in rows:
        if one["setting"] == finetuned.DECIDING:
            one["bits_per_byte"] = 1.85
    found = finetuned.conclude(rows)
    assert found.verdict == "not supported"
    assert found.figures["gain"][finetuned.DECIDING]["mean"] == pytest.approx(1 - 1.85 / 1.8)


def test_rates_are_chosen_on_the_development_books_alone() -> None:
    rows = rows_of("size", lambda number: 1.0)
    assert size.chosen(rows) == {name: f"{name} rate 0.0003" for name in MILLIONS}
    found = size.slopes(rows)
    assert not set(found) & size.CHOOSING
    assert list(found.values()) == pytest.approx([-0.01] * len(found))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=6), rng.normal(size=6)
    assert size.slope(x.tolist(), y.tolist()) == pytest.approx(np.polyfit(x, y, 1)[0])


def test_too_few_models_and_equal_ones_are_refused() -> None:
    with pytest.raises(DriftError, match="at least 3"):
        size.readings(Scale(100, models=MODELS[:2]))
    with pytest.raises(DriftError, match="named differently"):
        size.readings(Scale(100, models=("a/x", "b/x", "c/y")))
    rows = rows_of("size", lambda number: 1.0)
    for one in rows:
        one["parameters"] = 1e6
    with pytest.raises(DriftError, match="different sizes"):
        size.conclude(rows)


def test_one_book_is_enough_against_the_mixture() -> None:
    rows = rows_of("mixture", lambda number: -1.0 if number == 7 else 1.0)
    found = mixture.conclude(rows)
    assert found.verdict == "not supported"
    assert len(found.figures["failed"]) == 1
    assert found.figures["worst_above_best"] == pytest.approx(0.0075)
    for one in rows:  # near enough to the best rate, but no better than the static model
        one["static_bits_per_byte"], one["gain"] = 1.79, 1 - one["bits_per_byte"] / 1.79
    assert len(mixture.conclude(rows).figures["failed"]) == 12


def test_a_mixture_against_a_part_of_the_grid_supports_nothing() -> None:
    left_out = f"rate {mixture.RATES[0]:g}"
    found = mixture.conclude([one for one in rows_of("mixture", lambda number: 1.0) if one["setting"] != left_out])
    assert found.verdict == "undecided" and f"the best of {len(mixture.RATES) - 1} rates" in found.sentence


def test_controls_compare_at_the_cost_of_learning_and_give_every_step_its_share() -> None:
    rows = rows_of("controls", lambda number: 1.0, Scale(9_000, 1, 3, MODELS[:2]))
    assert controls.models_of(rows) == ["one", "four"]
    found = controls.steps(rows, "four")
    assert {name: set(each.values()) for name, each in found.items()} == {
        **{"apart": {2.4}, "sink": {2.3}, "context": {2.1}, "overlap": {2.0}, "learning": {1.95}}
    }
    shares = {name: one.mean for name, one in controls.shares(rows, "four").items()}
    expected = {"sink": 0.1, "context": 0.2, "overlap": 0.1, "learning": 0.05}
    assert shares == pytest.approx({name: part / 0.45 for name, part in expected.items()})
    change = controls.changes(rows, "one")
    assert change["learning"].mean == pytest.approx(1.95 / 2.0 - 1)
    assert change["learning, same windows"].mean == pytest.approx(1.95 / 2.1 - 1)
    for one in rows:
        if one["setting"] == "one: learning":
            one["bits_per_byte"] = 2.05  # better than static with the same windows, and still no gain at its cost
    assert controls.conclude(rows).verdict == "not supported"
    with pytest.raises(DriftError, match="named two folders"):
        controls.readings(Scale(100, models=("a/x", "b/x")))


# ---- charts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MADE)
def test_charts_are_drawn(name: str) -> None:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    from driftlm.report.charts import png

    found = study_of(name).charts(rows_of(name, lambda number: 1 + 0.3 * alternating(number)))
    assert len({chart.name for chart in found}) == len(found) >= 2
    for chart in found:
        assert set(chart.spec) >= {"layer", "height"}
        assert "width" not in chart.spec
        assert any("low" in one and one["low"] is not None for one in values(chart.spec)) or chart.name == "regret"
    picture = png(found[0].spec | {"width": 620}, found[0].heading, [found[0].caption])
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


@pytest.mark.parametrize("name", MADE)
def test_charts_of_one_text_have_no_intervals(name: str) -> None:
    pytest.importorskip("altair")
    rows = rows_of(name, lambda number: 1.0, scale_of(name, seeds=1, texts=1))
    if name == "context":
        rows = [row for row in rows if row["text"] == Path(context.SHIFTED[0]).stem]
    for chart in study_of(name).charts(rows):
        assert values(chart.spec)
        if name not in ("online", "finetuned"):  # two texts of each kind
            assert all(one.get("low") is None for one in values(chart.spec))


def test_what_is_drawn_is_what_was_measured() -> None:
    pytest.importorskip("altair")
    rows = rows_of("cadence", lambda number: 1 + 0.3 * alternating(number))
    gain, pareto = cadence.charts(rows)
    points = {(one["group"], one["x"]): one for one in values(gain.spec) if "x" in one}
    each = [0.05 + 0.03 * (1 + 0.3 * alternating(number)) for number in range(6)]
    assert points["skip", 4]["value"] == pytest.approx(100 * sum(each) / 6)
    low, high = points["skip", 4]["low"], points["skip", 4]["high"]
    assert 100 * min(each) - 1e-6 <= low < points["skip", 4]["value"] < high <= 100 * max(each) + 1e-6
    assert points["accumulate", 4]["value"] == pytest.approx(4.0)
    costs = {(one["group"], one["label"]): one["x"] for one in values(pareto.spec)}
    assert costs["skip", "every 4"] == pytest.approx(1.5e7)
    assert costs["static", "static"] == pytest.approx(1e7)
