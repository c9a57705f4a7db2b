"""Readings of every study: told apart, in an order in which a stop leaves whole texts, and made for no one model."""

import math
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftlm.memories.weights.learning import Learning
from driftlm.studies import drift, lora, mixture, windows
from driftlm.studies.study import STUDIES, Scale, Study, study_of
from tests.support.scales import scale_of

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("numbers", [(9_000, 2, 0), (600, 1, 2), None])
def test_readings_are_told_apart_and_their_texts_are_there(
    name: str, numbers: tuple[int, int, int] | None, shared: Path
) -> None:
    study: Study = study_of(name)
    scale = scale_of(name, *(numbers or (study.scale.tokens, study.scale.seeds, study.scale.texts)))
    readings = study.readings(scale)
    cells = [(one.setting, one.text, one.seed) for one in readings]
    assert len(set(cells)) == len(cells) <= 250
    assert all((shared / "data" / text).is_file() for one in readings for text in one.texts)
    assert all(one.tokens <= scale.tokens for one in readings)
    assert all(one.windows.context <= 1024 for one in readings)  # positions of the bundled model


@pytest.mark.parametrize("name", sorted(set(STUDIES) - {"size", "drift"}))
def test_a_study_that_is_stopped_has_finished_its_first_texts(name: str) -> None:
    """All settings of a text before those of the next, and texts of every kind among the first."""
    order = [one.text for one in study_of(name).readings(scale_of(name))]
    assert [text for text, _ in groupby(order)] == list(dict.fromkeys(order))
    if name in ("online", "finetuned", "context", "controls"):
        kinds = [Path(one.texts[0]).parent.name for one in study_of(name).readings(scale_of(name))]
        assert set(kinds[: len(kinds) // 2]) == set(kinds)


def test_layers_are_thirds_of_the_model(tmp_path: Path) -> None:
    def places(model: str) -> dict[str, str]:
        readings = lora.readings(Scale(9_000, 1, 1, (model,) if model else ()))
        return {one.setting: one.learning.layers for one in readings if one.setting in lora.PLACES}

    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 30}')
    assert places(str(tmp_path)) == {"first layers": "0-9", "middle layers": "10-19", "last layers": "20-29"}
    assert places("") == {"first layers": "0-1", "middle layers": "2-3", "last layers": "4-5"}
    for layers in range(3, 40):
        ends = [tuple(map(int, one.split("-"))) for one in lora.thirds(layers).values()]
        assert [place for first, last in ends for place in range(first, last + 1)] == list(range(layers))


def test_studies_bring_no_rate_of_one_model() -> None:
    """But mixtures and sizes, which compare rates, and strides, which scale the default one."""
    for name in set(STUDIES) - {"mixture", "size", "windows"}:
        assert {one.learning.learning_rate for one in study_of(name).readings(scale_of(name))} == {None}
    rates = {one.windows.stride: one.learning.rate() for one in windows.readings(scale_of("windows"))}
    assert rates[256] == Learning(rule="relative").rate() == 2 * rates[64]
    passes = {one.rate for name in ("online", "finetuned") for one in study_of(name).readings(scale_of(name))}
    assert passes == {0.0, Learning(rule="relative").rate()}


def test_order_is_all_that_differs_between_the_readings_of_a_pair() -> None:
    held: dict[str, set[tuple[Any, ...]]] = {}
    for one in drift.STUDY.readings(scale_of("drift")):
        held.setdefault(one.text, set()).add((one.texts, one.tokens, one.windows, one.learning, one.skip, one.model))
    assert all(len(same) == 1 for same in held.values())


def test_the_grid_is_four_times_finer_than_the_experts_and_holds_none_of_them() -> None:
    experts = [one.learning_rate for one in Learning(rule="mixture").strategies() if one.learning_rate]
    assert all(abs(math.log(rate / expert)) > 0.2 for rate in mixture.RATES for expert in experts)
    steps = np.diff(np.log10(mixture.RATES))
    widest = np.diff(np.log10(experts)).min()
    assert (np.isclose(steps, 1 / 8, atol=2e-3) | np.isclose(steps, 1 / 4, atol=2e-3)).all()
    assert widest / 3.8 > 1 / 8
    assert mixture.RATES[0] < min(experts)
    assert mixture.RATES[-1] < max(experts)
