"""The same numbers as an independent program: dynamic evaluation written a second time, straight from its definition.

At rates well below the diverging one: beyond it rounding grows without limit, and two correct programs disagree.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from driftlm import Learning, Windows
from driftlm.memories.weights.statistics import gather
from tests.support.build import language_model, read, reads_numbers, spelled, weight_memory
from tests.support.families import CACHED_FAMILIES, FAMILIES, random_ids
from tests.support.reference.reading import read as read_by_reference
from tests.support.reference.reading import static_cached_banded, static_overlapping
from tests.support.reference.reading import statistics as reference_statistics

pytestmark = pytest.mark.long

PLACES = [(family, "overlapping") for family in FAMILIES] + [(family, "cached") for family in CACHED_FAMILIES]
RULES: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.05},
    "momentum": {"learning_rate": 0.01, "momentum": 0.8},
    "adam": {"rule": "adam", "learning_rate": 2e-4},
    "rms": {"rule": "rms", "learning_rate": 1e-3, "decay": 0.02, "epsilon": 1e-3},
}


def compare(
    family: str,
    window: Any,
    lengths: Sequence[int],
    context: int,
    stride: int,
    folder: Path | None = None,
    by_hand: bool = False,
    sink: int = 1,
    **learning: Any,
) -> None:
    """Read random documents with a memory and with the reference: the same scores, steps and parameters."""
    documents = [random_ids(length, seed) for seed, length in enumerate(lengths)]
    spellings = [spelled(ids[1:], str(index)) for index, ids in enumerate(documents)]
    grid, statistics = Windows(window, context, stride, sink), None
    if learning.get("rule") == "rms":
        assert folder is not None
        # Of a text of their own, as in life.
        text = random_ids(60, 99)
        gathered = gather(reads_numbers(language_model(family)), [spelled(text[1:])], grid)
        gathered.save(folder / "statistics.safetensors")
        learning["statistics"] = str(folder / "statistics.safetensors")
        statistics = reference_statistics(
            language_model(family).model, text, window, context, stride, by_hand=by_hand, sink=sink
        )
        assert statistics.keys() == gathered.rms.keys()
        assert all(torch.allclose(gathered.rms[name], statistics[name], rtol=1e-3, atol=1e-6) for name in statistics)
    # The reference has no guard, and a window of a token or two is now and then worse than knowing nothing.
    memory = weight_memory(family, grid, guard="off", **learning)
    ours = read(memory, spellings)
    settings = Learning(**{"rule": "sgd"} | learning)
    theirs = read_by_reference(
        language_model(family).model,
        documents,
        context=context,
        stride=stride,
        window=window,
        learn="all" if settings.learn == "all" else None,
        rule=settings.rule,  # type: ignore[arg-type]
        lr=settings.rate(),
        every=settings.every,
        cadence=settings.cadence,
        momentum=settings.momentum,
        decay=settings.decay,
        epsilon=settings.epsilon if settings.rule == "rms" else None,
        statistics=statistics,
        reset=settings.reset,
        by_hand=by_hand,
        sink=sink,
    )
    nats = torch.tensor(theirs.nats, dtype=torch.float64)
    assert ours.shape == nats.shape
    assert abs(ours.double().sum() - nats.sum()) / len(nats) <= 1e-5
    assert (ours.double() - nats).abs().max() <= 5e-5
    assert memory.counts.updates == len(theirs.updated)
    # Adam makes whole steps of gradients that are nothing but rounding, such as those of GPT-2's key biases.
    if settings.reset == "never" and settings.learn != "none" and settings.rule != "adam":
        for name, parameter in memory.trainable.parameters.items():
            assert torch.allclose(parameter, theirs.parameters[name], atol=1e-4)


@pytest.mark.parametrize(("family", "window"), PLACES)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_on_every_family(tmp_path: Path, family: str, window: str, rule: str) -> None:
    compare(family, window, [70], 20, 8, tmp_path, **RULES[rule])


@pytest.mark.parametrize(("family", "window"), PLACES)
@pytest.mark.parametrize("sink", [0, 4])
def test_every_sink_on_every_family(family: str, window: str, sink: int) -> None:
    compare(family, window, [70, 3], 20, 8, sink=sink, **RULES["momentum"])


@pytest.mark.parametrize(("family", "window"), PLACES)
@pytest.mark.parametrize("stride", [3, 9, 12])  # S = C: nothing but the sink is seen of the windows before
def test_a_sink_longer_than_a_stride(family: str, window: str, stride: int) -> None:
    compare(family, window, [50], 12, stride, sink=5, learning_rate=0.05)


@pytest.mark.parametrize("window", ["overlapping", "cached"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("lengths", "context", "stride"),
    [
        ([48, 29], 12, 12),  # C = S
        ([5, 1, 3], 32, 8),  # documents shorter than a window
        ([33, 41], 16, 8),  # a last window of one token
        ([40], 16, 1),  # a token a window
        ([60, 2, 47, 31], 24, 10),  # several documents, none of which ends with a window
    ],
)
def test_every_shape_of_document(
    tmp_path: Path, window: str, rule: str, lengths: list[int], context: int, stride: int
) -> None:
    # A lone token attends to itself, whatever its query and key: their gradients are rounding, and Adam's first steps
    # would be made of it.
    stride = 2 if (rule, stride) == ("adam", 1) else stride
    compare("llama", window, lengths, context, stride, tmp_path, **RULES[rule])


@pytest.mark.parametrize("window", ["overlapping", "cached"])
@pytest.mark.parametrize("cadence", ["skip", "accumulate"])
@pytest.mark.parametrize("reset", ["never", "document"])
@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_every_cadence(window: str, cadence: str, reset: str, rule: str) -> None:
    # 10, 5 and 9 windows: learning every 4th, documents leave gradients waiting and the count goes on.
    compare("llama", window, [77, 40, 65], 16, 8, every=4, cadence=cadence, reset=reset, **RULES[rule])


@pytest.mark.parametrize("window", ["overlapping", "cached"])
@pytest.mark.parametrize("rule", RULES)
def test_a_reset_at_every_document(tmp_path: Path, window: str, rule: str) -> None:
    compare("llama", window, [50, 30, 1, 41], 16, 8, tmp_path, reset="document", **RULES[rule])


@pytest.mark.parametrize("window", ["overlapping", "cached"])
@pytest.mark.parametrize("rule", RULES)
def test_a_llama_written_out_by_hand(tmp_path: Path, window: str, rule: str) -> None:
    compare("llama", window, [60, 22], 20, 8, tmp_path, by_hand=True, **RULES[rule])


@pytest.mark.parametrize(("family", "window"), [("gpt2", "overlapping"), ("gemma", "cached")])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_longer_stream(family: str, window: str, rule: str) -> None:
    compare(family, window, [1500, 600], 64, 32, **RULES[rule])


# ------------------------------------------------------------------------------------------------- nothing is learned


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("context", "stride"), [(16, 4), (24, 5), (8, 8), (64, 50)])
def test_static_overlapping_windows_equal_a_forward_for_each_token(family: str, context: int, stride: int) -> None:
    ids = random_ids(60)
    ours = read(weight_memory(family, Windows("overlapping", context, stride), learn="none"), [spelled(ids[1:])])
    theirs = static_overlapping(language_model(family).model, ids, context, stride, sink=1)
    assert (ours - torch.tensor(theirs)).abs().max() <= 1e-5


@pytest.mark.parametrize("family", CACHED_FAMILIES)
@pytest.mark.parametrize(("context", "stride"), [(16, 4), (24, 5), (8, 8), (64, 50), (13, 1)])
def test_static_cached_windows_equal_one_forward_under_the_banded_mask(family: str, context: int, stride: int) -> None:
    ids = random_ids(110)
    ours = read(weight_memory(family, Windows("cached", context, stride, sink=0), learn="none"), [spelled(ids[1:])])
    theirs = static_cached_banded(language_model(family).model, ids, context, stride)
    assert (ours - torch.tensor(theirs)).abs().max() <= 2e-5


@pytest.mark.parametrize("window", ["overlapping", "cached"])
def test_a_static_stream_of_documents(window: str) -> None:
    compare("qwen", window, [40, 1, 26], 16, 8, learn="none")
