"""The loop: score, yield, learn. Nothing else may order these."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from driftlm.memories.base import Baseline, Event, Memory
from driftlm.streams.documents import Document, read_documents
from driftlm.streams.windows import Window, split


@dataclass(frozen=True)
class Totals:
    """Sums over the tokens scored so far; means are sums divided once.

    Attributes:
        tokens: scored tokens.
        bytes: UTF-8 bytes of the source that they span.
        nats: their summed negative log-likelihood.
        static_nats: the same by the static model, None where it was not compared.
        windows: windows scored.
        documents: documents finished.
        updates: steps the memory took.
        rollbacks: times the guard went back.
        seconds: time spent scoring and learning.

    Example:
        >>> round(Totals(tokens=100, bytes=400, nats=277.26).bits_per_byte, 3)
        1.0
    """

    tokens: int = 0
    bytes: int = 0
    nats: float = 0.0
    static_nats: float | None = None
    windows: int = 0
    documents: int = 0
    updates: int = 0
    rollbacks: int = 0
    seconds: float = 0.0

    @property
    def nats_per_token(self) -> float:
        """Mean over tokens."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte: compares models with different tokenizers."""
        return self.nats / math.log(2) / self.bytes

    @property
    def static_nats_per_token(self) -> float | None:
        """Mean over tokens, static model."""
        return None if self.static_nats is None else self.static_nats / self.tokens

    @property
    def static_bits_per_byte(self) -> float | None:
        """Bits per UTF-8 byte, static model."""
        return None if self.static_nats is None else self.static_nats / math.log(2) / self.bytes

    @property
    def gain(self) -> float | None:
        """Nats saved by learning, in total."""
        return None if self.static_nats is None else self.static_nats - self.nats


@dataclass(frozen=True)
class Point:
    """Where in a stream a reading can go on: before a window of a document, both counted from 0."""

    document: int = 0
    window: int = 0


@dataclass(frozen=True)
class Step:
    """One scored window, before it is learned from.

    Attributes:
        window: what was scored.
        nats: (S,) nats of each new token.
        static_nats: (S,) the same by the static model, or None.
        events: what the guard has to say of it.
        before: totals without this window; with the memory's state now, everything a resumed run needs.
        totals: totals with this window.
        time: when the document is from, where it says so.
        here: the point before the window, None where a reading cannot go on there.
        behind: the point behind it, once it was learned from, None where a reading cannot go on there.
    """

    window: Window
    nats: Tensor
    static_nats: Tensor | None
    events: tuple[Event, ...]
    before: Totals
    totals: Totals
    time: str | None = None
    here: Point | None = None
    behind: Point | None = None


def read_stream(
    memory: Memory,
    documents: Iterable[Document] | Sequence[str | Path] | str | Path,
    *,
    baseline: Baseline | None = None,
    limit: int | None = None,
    totals: Totals | None = None,
    start: Point = Point(),
    between: Callable[[], None] = lambda: None,
) -> Iterator[Step]:
    """Read a stream with a memory; every token is scored before anything is learned from it.

    Args:
        memory: changed as the stream goes by.
        documents: documents, or a path or paths to read them from.
        baseline: a memory scored on the same windows for comparison, such as `memory.static()`.
        limit: tokens to score in all; the last document's token list is cut there.
        totals: to go on from (a resumed run).
        start: the number of the first document in the stream, and its window to go on from (a resumed run).
        between: called between two windows of a document, when the first was learned from and the second is not yet
            scored; it may look at the memory and ask it, and must not change it.

    Yields:
        One `Step` a window, after its score and before its learning. The memory learns when the next is asked for.

    Example:
        >>> from driftlm import Document, Learning, WeightMemory, Windows
        >>> memory = WeightMemory(windows=Windows("cached", 64, 32), learning=Learning(learn="none"))
        >>> [step.totals.tokens for step in read_stream(memory, [Document("a", "It was a dark night.")], limit=5)]
        [5]
    """
    totals = totals or Totals(static_nats=None if baseline is None else 0.0)
    for number, document in enumerate(as_documents(documents), start.document):
        first = start.window if number == start.document else 0
        room = None if limit is None else limit - totals.tokens
        if room is not None and room <= 0:
            return
        ids, byte_ends = memory.encode(document.text)
        ids = ids if room is None else ids[: 1 + first * memory.windows.stride + room]
        for window in split(document.id, ids, byte_ends, memory.windows, first):
            if window.index > first:
                between()
            began, before = time.perf_counter(), totals
            static = None if baseline is None else baseline.score(window)
            nats = memory.score(window)
            totals = added(before, window, nats, static, time.perf_counter() - began)
            here = Point(number, window.index)
            behind = Point(number + 1) if window.last else Point(number, window.index + 1)
            yield Step(window, nats, static, memory.events, before, totals, document.time, here, behind)
            began = time.perf_counter()
            memory.learn(window)
            if baseline is not None:
                baseline.learn(window)
            totals = learned(totals, memory, time.perf_counter() - began)
        memory.finish(document.id)
        if baseline is not None:
            baseline.finish(document.id)
        # the memory may have taken a last step
        totals = replace(learned(totals, memory, 0.0), documents=totals.documents + 1)
        if limit is not None and totals.tokens >= limit:
            return  # before the source is asked for a document that nobody needs


def added(totals: Totals, window: Window, nats: Tensor, static: Tensor | None, seconds: float) -> Totals:
    """Totals with one more window; sums in float64."""
    return replace(
        totals,
        tokens=totals.tokens + window.new,
        bytes=totals.bytes + window.bytes,
        nats=totals.nats + nats.double().sum().item(),
        static_nats=None if static is None else (totals.static_nats or 0.0) + static.double().sum().item(),
        windows=totals.windows + 1,
        seconds=totals.seconds + seconds,
    )


def learned(totals: Totals, memory: Memory, seconds: float) -> Totals:
    """Totals after learning: what the memory counts."""
    counts = memory.counts
    return replace(totals, updates=counts.updates, rollbacks=counts.rollbacks, seconds=totals.seconds + seconds)


def finished(step: Step, memory: Memory) -> Totals:
    """Totals once the window of `step` was learned from."""
    documents = step.totals.documents + int(step.window.last)
    return replace(step.totals, documents=documents, updates=memory.counts.updates, rollbacks=memory.counts.rollbacks)


def as_documents(documents: Iterable[Document] | Sequence[str | Path] | str | Path) -> Iterator[Document]:
    """Documents as they are; paths are read."""
    if isinstance(documents, (str, Path)):
        documents = [documents]
    for one in documents:
        if isinstance(one, Document):
            yield one
        else:
            yield from read_documents([str(one)])
