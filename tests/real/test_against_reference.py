"""Reading with SmolLM2-135M equals the independent reference, which has a Llama written out by hand."""

import copy

import pytest
import torch

from driftlm import Document, Learning, WeightMemory, Windows
from driftlm.models.loading import LanguageModel
from tests.support.build import read
from tests.support.reference import reading as reference

CLOSE = 1e-4  # nats a token


def compared(smollm2: LanguageModel, text: str, windows: Windows, learning: Learning, size: int) -> float:
    """The largest difference between a token's nats here and by hand, over the first bytes of a text."""
    document = text[:size]
    ids, _ = smollm2.encode(document)
    expected = reference.read(
        smollm2.model, ids, context=windows.context, stride=windows.stride, window=windows.window, by_hand=True,
        sink=windows.sink,
        learn=None if learning.learn == "none" else "all", rule="sgd", lr=learning.learning_rate or 0.0,
    )  # fmt: skip
    smollm2.model.requires_grad_(False)
    own = copy.deepcopy(smollm2) if learning.learn != "none" else smollm2
    found = read(WeightMemory(own, windows, learning), [Document("d", document)])
    assert len(found) == len(ids) - 1
    return float((found.double() - torch.tensor(expected.nats, dtype=torch.float64)).abs().max())


@pytest.mark.parametrize(("window", "sink"), [("overlapping", 1), ("cached", 1), ("cached", 0)])
def test_static_scores_are_those_by_hand(smollm2: LanguageModel, text: str, window: str, sink: int) -> None:
    windows = Windows(window, 24, 12, sink)  # type: ignore[arg-type]
    assert compared(smollm2, text, windows, Learning(learn="none"), 220) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("sink", [0, 1])
@pytest.mark.parametrize("window", ["overlapping", "cached"])
def test_scores_while_all_weights_learn_are_those_by_hand(
    smollm2: LanguageModel, text: str, window: str, sink: int
) -> None:
    windows = Windows(window, 48, 24, sink)  # type: ignore[arg-type]
    assert compared(smollm2, text, windows, Learning(rule="sgd", learning_rate=1e-3), 900) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize(("window", "sink"), [("overlapping", 0), ("overlapping", 1), ("cached", 4)])
def test_static_scores_of_longer_windows_are_those_by_hand(
    smollm2: LanguageModel, text: str, window: str, sink: int
) -> None:
    windows = Windows(window, 256, 128, sink)  # type: ignore[arg-type]
    assert compared(smollm2, text, windows, Learning(learn="none"), 3_000) < CLOSE
