"""Gemma 3 270M, whose sliding layers see 512 positions back: windows and caches longer than that are what they should.

Its head is 62 % of its weights: one document of some 800 tokens serves all tests.
"""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from driftlm import Document, Learning, WeightMemory, Windows, load, read_stream
from driftlm.memories.loop import Point
from driftlm.memories.weights.learning import FROZEN
from driftlm.models.loading import LanguageModel
from tests.support.build import nats_of, read, through_files
from tests.support.pretrained import GEMMA, SMALL, folder_of
from tests.support.reference import reading as reference
from tests.support.running import driftlm

pytestmark = pytest.mark.slow

CLOSE = 1e-4  # nats a token
CONTEXT, STRIDE = 600, 300  # the sliding layers end within it, and the third window has lost the beginning


@pytest.fixture(scope="module")
def document(text: str) -> Document:
    return Document("d", text[:3_100])


def windows(window: str, sink: int = 1) -> Windows:
    return Windows(window, CONTEXT, STRIDE, sink)  # type: ignore[arg-type]


def far(found: Tensor, expected: list[float]) -> float:
    """The largest difference of a token's nats."""
    assert len(found) == len(expected)
    return float((found.double() - torch.tensor(expected, dtype=torch.float64)).abs().max())


def test_the_document_leaves_the_sliding_layers_behind(gemma: LanguageModel, document: Document) -> None:
    config = gemma.model.config
    assert config.layer_types.count("sliding_attention") == 15 and config.layer_types.count("full_attention") == 3
    assert config.sliding_window == 512 < CONTEXT
    assert 2 * STRIDE + 100 < len(gemma.encode(document.text)[0]) < 3 * STRIDE


# ------------------------------------------------------------------------------------------------------ nothing learned


@pytest.mark.parametrize("window", ["overlapping", "cached"])
def test_static_scores_are_the_references(gemma: LanguageModel, document: Document, window: str) -> None:
    ids, _ = gemma.encode(document.text)
    means = {}
    for sink in (0, 1, 4):
        found = read(WeightMemory(gemma, windows(window, sink), FROZEN), [document])
        expected = reference.read(
            gemma.model, ids, context=CONTEXT, stride=STRIDE, window=window, sink=sink  # type: ignore[arg-type]
        )  # fmt: skip
        assert far(found, expected.nats) < CLOSE
        means[sink] = found[2 * STRIDE :].mean().item()
    assert means[1] < 0.98 * means[0]  # its attention rests on BOS: 4.9 % in cached windows


def test_cached_windows_are_one_forward_under_their_mask(gemma: LanguageModel, document: Document) -> None:
    ids, _ = gemma.encode(document.text)
    found = read(WeightMemory(gemma, windows("cached", 0), FROZEN), [document])
    assert far(found, reference.static_cached_banded(gemma.model, ids, CONTEXT, STRIDE)) < CLOSE


@pytest.mark.parametrize("sink", [0, 1, 4])
def test_cached_windows_that_hold_the_document_are_one_plain_forward(
    gemma: LanguageModel, document: Document, sink: int
) -> None:
    ids, _ = gemma.encode(document.text)
    stride = 97
    context = -(-len(ids) // stride) * stride - sink  # whole windows, and the sink on top
    found = read(WeightMemory(gemma, Windows("cached", context, stride, sink), FROZEN), [document])
    with torch.no_grad():
        logits = gemma.model(input_ids=torch.tensor([ids[:-1]]), use_cache=False).logits[0]
        expected = reference.token_nats(logits, ids[1:]).tolist()
    assert far(found, expected) < CLOSE


@pytest.mark.parametrize("window", ["overlapping", "cached"])
def test_a_score_does_not_depend_on_later_tokens(gemma: LanguageModel, document: Document, window: str) -> None:
    memory = WeightMemory(gemma, windows(window), FROZEN)
    found, at = read(memory, [document]), len(document.text) - 200
    memory.reset()
    ids, other = gemma.encode(document.text)[0], document.text[:at] + " and now something else"
    same = sum(one == two for one, two in zip(ids, gemma.encode(other)[0])) - 2
    assert 2 * STRIDE < same < len(found)
    changed = read(memory, [Document("d", other)])
    assert (changed[:same] - found[:same]).abs().max() <= 1e-4 and not torch.equal(changed, found)


# ------------------------------------------------------------------------------------------------------ while it learns


@pytest.mark.parametrize("window", ["overlapping", "cached"])
def test_scores_while_norms_learn_are_the_references(gemma: LanguageModel, document: Document, window: str) -> None:
    own = copy.deepcopy(gemma)
    memory = WeightMemory(own, windows(window), Learning("norms", rule="sgd", learning_rate=1e-2))
    names = list(memory.trainable.parameters)
    assert len(names) > 100
    expected = reference.read(
        gemma.model, gemma.encode(document.text)[0], context=CONTEXT, stride=STRIDE, window=window,  # type: ignore[arg-type]
        sink=1, learn=names, rule="sgd", lr=1e-2,
    )  # fmt: skip
    static = read(WeightMemory(gemma, windows(window), FROZEN), [document])
    found = read(memory, [document])
    assert far(found, expected.nats) < CLOSE
    assert (found - static)[STRIDE:].abs().max() > 100 * CLOSE


@pytest.mark.parametrize("window", ["overlapping", "cached"])
def test_a_restored_memory_goes_on_as_if_never_stopped(
    loaded_gemma: LanguageModel, document: Document, window: str
) -> None:
    def made() -> WeightMemory:
        learning = Learning("lora", rule="adam", learning_rate=1e-3)
        return WeightMemory(copy.deepcopy(loaded_gemma), windows(window), learning)

    memory = made()
    steps, whole, state = [], [], None
    for step in read_stream(memory, [document]):
        steps.append(step)
        whole.append(step.nats)
        if step.window.index == 1:
            state, before = through_files(memory.state()), step.before
    assert state is not None and len(steps) == 3
    again = made()
    again.restore(state)
    resumed = nats_of(read_stream(again, [document], totals=before, start=Point(0, 1)))
    assert torch.equal(resumed, torch.cat(whole[1:]))


# --------------------------------------------------------------------------------------------------- types and commands


def test_bfloat16_is_the_same_model_and_reads_in_both_windows(gemma: LanguageModel, document: Document) -> None:
    half = load(folder_of(GEMMA), dtype="bfloat16")
    assert half.fingerprint == gemma.fingerprint
    exact = read(WeightMemory(gemma, windows("cached"), FROZEN), [document]).mean()
    for window in ("overlapping", "cached"):
        memory = WeightMemory(half, windows(window), FROZEN)
        assert abs(read(memory, [document]).float().mean() - exact) < 0.03 * exact


@pytest.mark.parametrize(
    ("window", "dtype", "learn"),
    [("overlapping", "float32", "norms"), ("cached", "bfloat16", "lora")],
)
def test_it_is_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, document: Document, window: str, dtype: str, learn: str
) -> None:
    folder_of(GEMMA)
    (tmp_path / "text.txt").write_text(document.text, encoding="utf-8")
    command = ["read", tmp_path / "text.txt", "--model", GEMMA, *SMALL, "--run", tmp_path / "run"]
    grid = ["--window", window, "--context", CONTEXT, "--stride", STRIDE]
    chosen = ["--dtype", dtype, "--learn", learn, "--rule", "adam", "--learning-rate", "1e-3"]
    summary = driftlm(capsys, *command, *grid, *chosen).summary
    assert summary["windows"] == summary["updates"] == 3 and summary["rollbacks"] == 0
    assert 0 < summary["bits_per_byte"] < 1.01 * summary["static_bits_per_byte"] < 2
    assert summary["nats"] != summary["static_nats"]
