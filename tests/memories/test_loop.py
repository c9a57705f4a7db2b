"""The loop's order, its sums, and the defects of earlier code that they must not have again."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from driftlm import Document, Learning, Totals, WeightMemory, Windows, read_stream
from driftlm.memories.base import Counts, Event, State
from driftlm.memories.loop import Point
from driftlm.streams.windows import Window
from tests.support.build import language_model, nats_of, numbers, read, spelled, weight_memory
from tests.support.families import VOCABULARY, random_ids


class Diary:
    """A memory that writes down what it is told to do; a token costs a tenth of its number."""

    def __init__(self, windows: Windows, name: str = "") -> None:
        self.windows, self.name = windows, name
        self.counts, self.events = Counts(), (Event("rollback", "told so"),)
        self.told: list[str] = []

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        self.told.append(f"encode {text}")
        return numbers(text)

    def score(self, window: Window) -> Tensor:
        self.told.append(f"{self.name}score {window.document} {window.position}")
        return torch.tensor(window.targets) / 10

    def learn(self, window: Window) -> None:
        self.told.append(f"{self.name}learn {window.document} {window.position}")
        self.counts.updates += 1

    def finish(self, document: str) -> None:
        self.told.append(f"{self.name}finish {document}")

    def reset(self) -> None:
        raise AssertionError("the loop resets nothing")

    def state(self) -> State:
        raise AssertionError("the loop keeps nothing")

    restore = forget = state  # type: ignore[assignment]

    @staticmethod
    def examples() -> dict[str, Any]:
        return {}


def steps_of(*documents: str, stride: int = 2, **options: Any) -> list[Any]:
    memory = Diary(Windows("overlapping", 4, stride))
    named = [Document(f"d{index}", text) for index, text in enumerate(documents)]
    return list(read_stream(memory, named, **options))


# -------------------------------------------------------------------------------------------------------------- order


def test_score_then_yield_then_learn() -> None:
    memory = Diary(Windows("overlapping", 4, 2))
    baseline = Diary(memory.windows, "static ")
    baseline.told = memory.told
    for step in read_stream(memory, [Document("a", "1 2 3"), Document("b", "4")], baseline=baseline):
        memory.told.append(f"yield {step.window.document} {step.window.position}")
    assert memory.told == [
        "encode 1 2 3",
        "static score a 1", "score a 1", "yield a 1", "learn a 1", "static learn a 1",
        "static score a 3", "score a 3", "yield a 3", "learn a 3", "static learn a 3",
        "finish a", "static finish a",
        "encode 4",
        "static score b 1", "score b 1", "yield b 1", "learn b 1", "static learn b 1",
        "finish b", "static finish b",
    ]  # fmt: skip


def test_nothing_is_learned_from_a_window_nobody_went_on_from() -> None:
    memory = Diary(Windows("overlapping", 4, 2))
    steps = read_stream(memory, [Document("a", "1 2 3 4 5")])
    next(steps)
    next(steps)
    steps.close()
    assert memory.told == ["encode 1 2 3 4 5", "score a 1", "learn a 1", "score a 3"]


def test_a_step_says_what_was_before_and_after() -> None:
    first, second, third = steps_of("10 20 30", "7")
    assert first.before == Totals() and first.events == (Event("rollback", "told so"),)
    assert replace(second.before, seconds=0) == replace(first.totals, seconds=0, updates=1)
    assert replace(third.before, seconds=0) == replace(second.totals, seconds=0, updates=2, documents=1)
    assert second.totals.seconds >= first.totals.seconds >= 0


# --------------------------------------------------------------------------------------------------------------- sums


def test_sums_are_of_tokens_and_divided_once() -> None:
    *_, last = steps_of("10 20 30", "70", "1 1 1 1 1")
    totals = last.totals
    assert (totals.tokens, totals.windows, totals.documents) == (9, 6, 2)
    assert totals.bytes == len("10 20 30") + len("70") + len("1 1 1 1 1")
    assert totals.nats == pytest.approx(1 + 2 + 3 + 7 + 0.5)
    assert totals.nats_per_token == pytest.approx(13.5 / 9)
    assert totals.bits_per_byte == pytest.approx(13.5 / math.log(2) / 19)
    assert totals.static_nats is totals.gain is totals.static_nats_per_token is totals.static_bits_per_byte is None


def test_what_is_compared_with_is_summed_alike() -> None:
    memory, baseline = Diary(Windows("overlapping", 4, 2)), Diary(Windows("overlapping", 4, 2))
    baseline.score = lambda window: torch.full((window.new,), 3.0)  # type: ignore[method-assign]
    *_, last = read_stream(memory, [Document("a", "10 20 30")], baseline=baseline)
    assert last.totals.static_nats == 9.0 and last.totals.gain == pytest.approx(3.0)
    assert last.totals.static_nats_per_token == 3.0
    assert last.totals.static_bits_per_byte == pytest.approx(9 / math.log(2) / 8)


def test_a_long_stream_is_summed_in_float64() -> None:
    memory = Diary(Windows("overlapping", 1000, 1000))
    memory.score = lambda window: torch.full((window.new,), 1e-3)  # type: ignore[method-assign]
    memory.encode = lambda text: ([0] * 2001, list(range(1, 2001)))  # type: ignore[method-assign]
    start = Totals(tokens=10**9, bytes=10**9, nats=3e9)
    *_, last = read_stream(memory, [Document("a", "")], totals=start)
    assert last.totals.nats - 3e9 == pytest.approx(2.0, rel=1e-5)


# -------------------------------------------------------------------------------------------------------------- limit


@pytest.mark.parametrize(
    ("limit", "targets", "finished"),
    [
        (1, [(1,)], "finish d0"),
        (2, [(1, 2)], "finish d0"),
        (3, [(1, 2), (3,)], "finish d0"),
        (4, [(1, 2), (3,), (4,)], "finish d1"),
        (5, [(1, 2), (3,), (4, 5)], "finish d1"),
        (100, [(1, 2), (3,), (4, 5), (6,)], "finish d1"),
    ],
)
def test_a_limit_counts_tokens_over_the_stream(limit: int, targets: list[tuple[int, ...]], finished: str) -> None:
    memory = Diary(Windows("overlapping", 4, 2))
    documents = [Document("d0", "1 2 3"), Document("d1", "4 5 6")]
    steps = list(read_stream(memory, documents, limit=limit))
    assert [step.window.targets for step in steps] == targets and memory.told[-1] == finished
    assert steps[-1].totals.tokens == min(limit, 6)
    # Bytes are those of the tokens that were scored.
    scored = [str(token) for window in targets for token in window]
    assert steps[-1].totals.bytes == sum(map(len, scored)) + sum(map(len, targets)) - 1 - (len(scored) > 3)


def test_a_limit_that_is_reached_reads_nothing() -> None:
    assert steps_of("1 2 3", limit=0) == []
    assert steps_of("1 2 3", limit=5, totals=Totals(tokens=5)) == []
    assert steps_of("1 2 3", limit=4, totals=Totals(tokens=5)) == []
    assert [step.window.targets for step in steps_of("1 2 3", limit=6, totals=Totals(tokens=5))] == [(1,)]


def test_a_run_goes_on_in_the_middle_of_a_document() -> None:
    whole = steps_of("1 2 3 4 5", "6 7")
    for index, step in enumerate(whole):
        texts = ("1 2 3 4 5", "6 7")[step.before.documents :]
        named = [Document(f"d{step.before.documents + i}", text) for i, text in enumerate(texts)]
        for limit in (None, 7, 6, 3):
            expected = steps_of("1 2 3 4 5", "6 7", limit=limit)[index:]
            memory = Diary(Windows("overlapping", 4, 2))
            memory.counts.updates = step.before.updates
            rest = read_stream(memory, named, limit=limit, totals=step.before, start=Point(0, step.window.index))
            for ours, theirs in zip(rest, expected, strict=True):
                assert ours.window == theirs.window
                assert replace(ours.totals, seconds=0) == replace(theirs.totals, seconds=0)


def test_documents_come_from_paths_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("7 8 9")
    for source in (tmp_path, str(tmp_path), [tmp_path / "a.txt", str(tmp_path / "b.txt")]):
        memory = Diary(Windows("overlapping", 4, 4))
        steps = list(read_stream(memory, source))
        assert [Path(step.window.document).name for step in steps] == ["a.txt", "b.txt"]


def test_equal_documents_are_documents_of_their_own() -> None:
    ids = random_ids(20)[1:]
    memory = weight_memory("llama", Windows("cached", 16, 8), learning_rate=0.1)
    same, other = [spelled(ids, "a")] * 2, [spelled(ids, "a"), spelled(ids, "b")]
    expected = read(weight_memory("llama", Windows("cached", 16, 8), learning_rate=0.1), other)
    assert torch.equal(read(memory, same), expected) and memory.counts.updates == 6
    assert not torch.equal(expected[:20], expected[20:])


def test_the_bytes_of_a_stream_are_those_of_its_texts() -> None:
    texts = ["Il était une fois…\r\n", "😀", "the the the " * 9, "\ufeff\n\n  x"]
    memory = WeightMemory(language_model("llama"), Windows("cached", 16, 8), Learning(rule="sgd", learning_rate=0.05))
    *_, last = read_stream(memory, [Document(str(i), text) for i, text in enumerate(texts)])
    assert last.totals.bytes == sum(len(text.encode()) for text in texts)


# ---------------------------------------------------------------- defects of earlier code for dynamic evaluation


def token_nats(family: str, ids: list[int]) -> Tensor:
    """All of a short document in one forward."""
    with torch.no_grad():
        logits = language_model(family).model(torch.tensor([ids[:-1]])).logits[0]
    return F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


@pytest.mark.parametrize("window", ["overlapping", "cached"])
def test_the_first_token_is_scored(window: Any) -> None:
    # Krause 2018: the first token of the text was never scored.
    ids = random_ids(8)
    nats = read(weight_memory("llama", Windows(window, 8, 8), learn="none"), [spelled(ids[1:])])
    assert nats.shape == (8,) and torch.allclose(nats, token_nats("llama", ids), atol=1e-5)
    alone = read(weight_memory("llama", Windows(window, 8, 8), learn="none"), [spelled(ids[1:2])])
    assert torch.allclose(alone, nats[:1], atol=1e-5)


@pytest.mark.parametrize("window", ["overlapping", "cached"])
def test_a_short_last_window_is_neither_dropped_nor_weighted_down(window: Any) -> None:
    # Krause 2018 weighted it down by its length, the GPT-2 version dropped it.
    ids = random_ids(9)  # windows of 8 and 1
    memory = weight_memory("llama", Windows(window, 16, 8), learning_rate=0.1)
    steps = list(read_stream(memory, [spelled(ids[1:])]))
    assert [step.window.new for step in steps] == [8, 1] and steps[-1].totals.tokens == 9
    assert memory.counts.updates == 2
    # In the sum it counts as the one token it is; a mean of the windows' means would be another number.
    nats = nats_of(steps)
    assert steps[-1].totals.nats_per_token == pytest.approx(nats.double().mean().item(), rel=1e-9)
    of_windows = (nats[:8].mean() + nats[8]).item() / 2
    assert abs(steps[-1].totals.nats_per_token - of_windows) > 0.01


def test_a_step_from_a_short_window_is_a_whole_step() -> None:
    # The loss is the mean over the new tokens, however few: a window of one token moves by that token's gradient.
    for length in (1, 8):
        ids = random_ids(length)
        memory = weight_memory("llama", Windows("overlapping", 8, 8), learning_rate=0.1)
        read(memory, [spelled(ids[1:])])
        model = language_model("llama").model.requires_grad_(True)
        F.cross_entropy(model(torch.tensor([ids[:-1]])).logits[0], torch.tensor(ids[1:])).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            expected = parameter.data - 0.1 * parameter.grad
            assert torch.allclose(memory.trainable.parameters[name], expected, atol=1e-6)


def test_perplexities_are_never_averaged() -> None:
    # Temp-LoRA averaged the perplexities of its chunks, Krause 2018 the means of the segments.
    *_, last = steps_of("10 10 10 10 10 90", stride=4)
    per_token = last.totals.nats_per_token
    assert per_token == pytest.approx((5 * 1 + 9) / 6)
    mean_of_means, mean_of_perplexities = (1 + 5) / 2, math.log((math.exp(1) + math.exp(5)) / 2)
    assert abs(per_token - mean_of_means) > 0.5 and abs(per_token - mean_of_perplexities) > 0.5


def test_nothing_is_scored_with_what_was_learned_from_it() -> None:
    # One step at a rate that makes the text certain: scores come from before it.
    ids, rate = [0, *[7] * 16], 3.0
    memory = weight_memory("llama", Windows("overlapping", 16, 16), learning_rate=rate, guard="off")
    static = weight_memory("llama", Windows("overlapping", 16, 16), learn="none")
    document = spelled(ids[1:])
    first = read(memory, [document])
    assert torch.equal(first, read(static, [document]))
    assert read(memory, [document]).mean() < first.mean() - 1
    assert first.mean() < math.log(VOCABULARY) + 3
