"""Reading with SmolLM2-135M equals the independent reference, which has a Llama written out by hand."""

import copy

import pytest
import torch

from driftlm import Document, Learning, WeightMemory, Windows
from driftlm.memories.weights.learning import FROZEN
from driftlm.models.loading import LanguageModel
from tests.support.build import read
from tests.support.reference import reading as reference

pytestmark = pytest.mark.long

CLOSE = 1e-4  # nats a token
WINDOWS = ("overlapping", "cached")
SINKS = (0, 1, 4)


def compared(
    smollm2: LanguageModel, text: str, windows: Windows, learning: Learning = FROZEN, *, by_hand: bool = True
) -> float:
    """The largest difference between a token's nats here and by the reference."""
    ids, _ = smollm2.encode(text)
    assert len(ids) > windows.context + windows.stride  # so that windows lose the beginning, and take its sink
    expected = reference.read(
        smollm2.model, ids, context=windows.context, stride=windows.stride, window=windows.window, by_hand=by_hand,
        sink=windows.sink, learn=None if learning.learn == "none" else "all",
        rule="adam" if learning.rule == "adam" else "sgd", lr=learning.learning_rate or 0.0,
    )  # fmt: skip
    smollm2.model.requires_grad_(False)
    own = copy.deepcopy(smollm2) if learning.learn != "none" else smollm2
    found = read(WeightMemory(own, windows, learning), [Document("d", text)])
    assert len(found) == len(ids) - 1
    if learning.learn != "none":
        static = read(WeightMemory(smollm2, windows, FROZEN), [Document("d", text)])
        assert (found - static).abs().max() > 100 * CLOSE  # what was learned shows
    return float((found.double() - torch.tensor(expected.nats, dtype=torch.float64)).abs().max())


@pytest.mark.parametrize(("window", "sink"), [("overlapping", 0), ("overlapping", 1), ("cached", 0), ("cached", 1)])
def test_static_scores_are_those_by_hand(smollm2: LanguageModel, text: str, window: str, sink: int) -> None:
    windows = Windows(window, 24, 12, sink)  # type: ignore[arg-type]
    assert compared(smollm2, text[:220], windows) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("window", WINDOWS)
def test_static_scores_of_longer_windows_are_those_by_hand(
    smollm2: LanguageModel, text: str, window: str, sink: int
) -> None:
    windows = Windows(window, 192, 96, sink)  # type: ignore[arg-type]
    assert compared(smollm2, text[:2_000], windows) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("window", WINDOWS)
def test_static_scores_of_the_default_grid_are_those_of_the_reference(
    smollm2: LanguageModel, text: str, window: str, sink: int
) -> None:
    windows = Windows(window, Windows().context, Windows().stride, sink)  # type: ignore[arg-type]
    assert compared(smollm2, text[:4_500], windows, by_hand=False) < CLOSE


# At 1e-3 SGD in cached windows without their sink, which score badly, carries rounding to 2e-4; at 3e-4 to 4e-5.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("window", "sink", "rule", "rate"),
    [(window, sink, "sgd", 3e-4) for window in WINDOWS for sink in (0, 1)]
    + [(window, 1, "adam", 1e-6) for window in WINDOWS],
)
def test_scores_while_all_weights_learn_are_those_by_hand(
    smollm2: LanguageModel, text: str, window: str, sink: int, rule: str, rate: float
) -> None:
    windows = Windows(window, 48, 24, sink)  # type: ignore[arg-type]
    assert compared(smollm2, text[:700], windows, Learning(rule=rule, learning_rate=rate)) < CLOSE
