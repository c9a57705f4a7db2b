"""What holds for every memory of the registry, on every model family and both kinds of window.

A memory comes here by being registered; its `examples()` say with which settings.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from driftlm import Document, DriftError, Learning, Step, WeightMemory, Windows, read_stream
from driftlm.memories.base import Memory
from driftlm.memories.loop import Point
from driftlm.memories.registries import MEMORIES
from driftlm.models.loading import LanguageModel
from driftlm.streams.windows import Window, split
from tests.support.build import language_model, nats_of, numbers, read, reads_numbers, spelled, through_files
from tests.support.families import CACHED_FAMILIES, FAMILIES, VOCABULARY

Make = Callable[..., Memory]


@dataclass(frozen=True)
class Case:
    """A memory with settings, on a model family, with a kind of window."""

    memory: str
    example: str
    family: str
    window: str


CASES = [
    pytest.param(Case(memory, name, family, window), id=f"{memory}-{name}-{family}-{window}".replace(" ", "_"))
    for memory in MEMORIES.names
    for name in MEMORIES.load(memory).examples()
    for window, families in (("overlapping", FAMILIES), ("cached", CACHED_FAMILIES))
    for family in families
]
every_case = pytest.mark.parametrize("case", CASES)


@dataclass(frozen=True)
class Stream:
    """A few short documents, the grid they are read on, and one token among them."""

    context: int
    stride: int
    documents: tuple[tuple[int, ...], ...]
    at: int
    sink: int = 1

    def texts(self) -> list[Document]:
        return [spelled(tokens, f"document {i}") for i, tokens in enumerate(self.documents)]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.documents))


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Up to three documents of at most 12 tokens; half of the tokens come from few: there is something to learn."""
    context = draw(st.integers(1, 16))
    stride = draw(st.just(context) | st.integers((context + 3) // 4, context))
    token = st.integers(1, 6) | st.integers(1, VOCABULARY - 1)
    documents = draw(st.lists(st.lists(token, min_size=1, max_size=12).map(tuple), min_size=1, max_size=3))
    tokens = sum(map(len, documents))
    return Stream(context, stride, tuple(documents), draw(st.integers(0, tokens - 1)), draw(st.integers(0, 4)))


TYPICAL = Stream(12, 5, ((5, 9, 5, 9, 5, 9, 7, 120, 5, 9, 5, 9), (8,), (5, 9, 5, 9, 5, 9)), 9)


def on_some_streams(test: Callable[..., None]) -> Callable[..., None]:
    """A typical stream, the simplest one (a token, C = S = 1), and one at random."""
    test = example(stream=TYPICAL)(given(stream=streams())(test))
    return settings(
        max_examples=min(2, settings.default.max_examples), suppress_health_check=[HealthCheck.function_scoped_fixture]
    )(test)


@pytest.fixture
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a case's memory: always anew, on a model of its own."""

    def made(
        case: Case, stream: Stream = TYPICAL, idle: bool = False, model: LanguageModel | None = None, **windows: Any
    ) -> Memory:
        grid = Windows(case.window, stream.context, stream.stride, stream.sink)  # type: ignore[arg-type]
        folder: Path = tmp_path_factory.mktemp("memory")
        maker = MEMORIES.load(case.memory).examples()[case.example]
        return reads_numbers(maker(model or language_model(case.family), grid, folder, idle))

    return made


def windows_of(memory: Memory, document: Document) -> list[Window]:
    return list(split(document.id, *numbers(document.text), memory.windows))


def facts(step: Step) -> tuple[Any, ...]:
    """What a step says, besides the time it took."""
    return step.window, step.nats.tolist(), step.events, replace(step.totals, seconds=0.0)


# ---------------------------------------------------------------------------------------------- 1: every token, once


@every_case
@on_some_streams
def test_every_token_is_scored_once_and_scoring_again_changes_nothing(make: Make, case: Case, stream: Stream) -> None:
    memory, documents = make(case, stream), stream.texts()
    seen: dict[str, list[int]] = {document.id: [] for document in documents}
    steps = []
    for step in read_stream(memory, documents):
        window = step.window
        assert step.nats.shape == (window.new,) and step.nats.dtype == torch.float32
        assert not step.nats.requires_grad and bool((step.nats >= 0).all()) and bool(step.nats.isfinite().all())
        assert torch.equal(memory.score(window), step.nats) and memory.events == step.events
        seen[window.document] += range(window.position, window.position + window.new)
        steps.append(step)
    assert all(seen[document.id] == list(range(1, document.text.count(" ") + 2)) for document in documents)
    assert steps[-1].totals.tokens == stream.tokens
    assert steps[-1].totals.bytes == sum(len(document.text) for document in documents)
    # The same settings and seed give the same run, whether or not anybody scored twice.
    assert torch.equal(read(make(case, stream), documents), nats_of(steps))


# ------------------------------------------------------------------------------------------------------ 2: no peeking


@every_case
@on_some_streams
def test_a_score_does_not_depend_on_later_tokens(make: Make, case: Case, stream: Stream) -> None:
    memory = make(case, stream)
    full = read(memory, stream.texts())
    # From token `at` of the stream on, every token becomes another one.
    count, changed = 0, []
    for tokens in stream.documents:
        first = stream.at - count
        changed.append(tuple(t if i < first else t % (VOCABULARY - 1) + 1 for i, t in enumerate(tokens)))
        count += len(tokens)
    memory.reset()
    other = read(memory, replace(stream, documents=tuple(changed)).texts())
    assert torch.equal(other[: stream.at], full[: stream.at])
    assert not torch.equal(other[stream.at :], full[stream.at :])
    # Cut short after token `at`: shapes differ, so rounding may.
    count, short = 0, []
    for tokens in stream.documents:
        short += [tokens[: stream.at + 1 - count]] if count <= stream.at else []
        count += len(tokens)
    memory.reset()
    cut = read(memory, replace(stream, documents=tuple(short)).texts())
    assert cut.shape == (stream.at + 1,) and (cut - full[: stream.at + 1]).abs().max() <= 1e-5


# --------------------------------------------------------------------------------------- 3: nothing learned is static


@every_case
@on_some_streams
def test_a_memory_that_learns_nothing_is_the_static_model(make: Make, case: Case, stream: Stream) -> None:
    grid = Windows(case.window, stream.context, stream.stride, stream.sink)  # type: ignore[arg-type]
    static = reads_numbers(WeightMemory(language_model(case.family), grid, Learning("none")))
    difference = read(make(case, stream, idle=True), stream.texts()) - read(static, stream.texts())
    assert difference.abs().max() <= 1e-6


@every_case
def test_learning_helps_on_a_text_that_repeats_itself(make: Make, case: Case) -> None:
    documents = [spelled([17, 4, 99, 23, 8, 250, 61, 4, 180, 35, 70] * 8, name) for name in ("first", "again")]
    memory = make(case)
    learned, idle = read(memory, documents), read(make(case, idle=True), documents)
    if memory.meta_trained:
        # Its example is random, so what it read may not help; but it must tell.
        assert (learned - idle).abs().max() > 1e-3
    else:
        assert learned.sum() < 0.98 * idle.sum()


# -------------------------------------------------------------------------------------------------------- 4, 6: reset


@every_case
@on_some_streams
def test_a_reset_memory_is_new_and_its_model_as_it_was(make: Make, case: Case, stream: Stream) -> None:
    model = language_model(case.family)
    held = [*model.model.parameters(), *model.model.buffers()]
    before = [tensor.detach().clone() for tensor in held]
    memory, documents = make(case, stream, model=model), stream.texts()
    first = read(memory, documents)
    for step in read_stream(memory, [spelled(range(1, 25), "left in the middle")]):
        if step.window.position > 4:
            break
    memory.reset()
    assert all(torch.equal(tensor.data, copy) for tensor, copy in zip(held, before, strict=True))
    assert torch.equal(read(memory, documents), first)


# ------------------------------------------------------------------------------------------------ 5: state and restore


@every_case
@on_some_streams
def test_a_restored_memory_goes_on_as_if_never_stopped(make: Make, case: Case, stream: Stream) -> None:
    documents = stream.texts()
    expected = [facts(step) for step in read_stream(make(case, stream), documents)]
    stop = stream.at % len(expected)

    # Between score and learn, as a run does it: what was scored last is scored again.
    first = make(case, stream)
    steps = read_stream(first, documents)
    read_so_far = [next(steps) for _ in range(stop + 1)]
    state, last = through_files(first.state()), read_so_far[-1]
    second = make(case, stream)
    second.restore(state)
    left = documents[last.before.documents :]
    resumed = read_stream(second, left, totals=last.before, start=Point(0, last.window.index))
    assert [facts(step) for step in resumed] == expected[stop:]
    assert [facts(step) for step in (*read_so_far, *steps)] == expected  # and taking the state disturbed nothing

    # Between learn and the next score: gradients may be waiting, caches are full. A used memory is restored as well.
    first.reset()
    third = make(case, stream)
    read(third, documents[:1])
    nats: list[Tensor] = []
    memory, count = first, 0
    for document in documents:
        for window in windows_of(memory, document):
            nats.append(memory.score(window))
            memory.learn(window)
            if count == stop:
                state = through_files(memory.state())
                memory = third
                memory.restore(state)
            count += 1
        memory.finish(document.id)
    assert [one.tolist() for one in nats] == [fact[1] for fact in expected]
    assert all(torch.equal(a, b) for a, b in zip(tensors(second), tensors(third), strict=True))


def tensors(memory: Memory) -> list[Tensor]:
    """Every tensor of a memory's state, by name."""
    state = memory.state()
    return [state.tensors[name] for name in sorted(state.tensors)]


# ----------------------------------------------------------------------------------------------- 7: forget, or refuse


@every_case
def test_forgetting_is_exact_or_refused(make: Make, case: Case) -> None:
    kept, forgotten, later = (spelled(range(1 + 9 * i, 15 + 9 * i), f"document {i}") for i in range(3))
    memory, never = make(case), make(case)
    read(memory, [kept, forgotten])
    before = [tensor.clone() for tensor in tensors(memory)]
    try:
        memory.forget(forgotten.id)
    except DriftError as refusal:
        assert forgotten.id in str(refusal)
        assert all(torch.equal(a, b) for a, b in zip(before, tensors(memory), strict=True))
    else:
        read(never, [kept])
        assert torch.equal(read(memory, [later]), read(never, [later]))


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", MEMORIES.names)
def test_cached_windows_are_refused_where_positions_are_absolute(make: Make, name: str) -> None:
    for which in MEMORIES.load(name).examples():
        with pytest.raises(DriftError, match=r"absolute positions.*`Windows.window` overlapping"):
            make(Case(name, which, "gpt2", "cached"))


def test_an_unknown_memory_is_refused_by_name() -> None:
    with pytest.raises(DriftError, match="`MemorySettings.memory` was 'wieghts'; give one of .*weights"):
        MEMORIES.load("wieghts")
