"""The loop of `memories.loop` over several documents at a time: a window of each is scored, then learned from.

Rows take the documents of the stream in its order; one that has come to an end resets and takes the next. What a
document is scored with depends on no other, so the steps, told document by document in the stream's order, are those of
reading one after another.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.base import Counts, Event, Memory
from driftlm.memories.loop import Point, Step, Totals, added
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.memories.weights.rows import StaticRows, WeightRows
from driftlm.streams.documents import Document
from driftlm.streams.windows import Window, split


@dataclass(frozen=True)
class ScoredWindow:
    """A window that was scored: its nats, the static model's, events, the counts before it, and its share of time."""

    window: Window
    nats: Tensor
    static: Tensor | None
    events: tuple[Event, ...]
    counts: Counts
    seconds: float


@dataclass
class OpenDocument:
    """A document that is being read, or was and is not told yet.

    Attributes:
        number: in the stream, from 0.
        document: itself.
        windows: those to come, behind `window`.
        window: the one that is next.
        read: windows that are not told yet.
        counts: of the whole document, once it has ended.
    """

    number: int
    document: Document
    windows: Iterator[Window]
    window: Window
    read: deque[ScoredWindow] = field(default_factory=deque)
    counts: Counts | None = None


def read_side_by_side(
    memory: Memory,
    documents: Iterable[Document],
    rows: int,
    compares: bool = False,
    limit: int | None = None,
    totals: Totals | None = None,
    start: Point = Point(),  # noqa: B008 - frozen
) -> Iterator[Step]:
    """Read R documents of a stream at a time, each with a copy of one memory.

    Args:
        memory: what every document begins with; its counts are those of the documents that were told to their end.
        documents: in their order.
        rows: R.
        compares: score the static model on the same windows.
        limit: tokens to score in all; the last document's token list is cut there, as `read_stream` does.
        totals: to go on from (a resumed run).
        start: the number of the first document in the stream (a resumed run), which is read from its beginning.

    Yields:
        One `Step` a window, in the order of the stream; later ones than it are learned from already, so that a reading
        can go on between two documents alone.

    Raises:
        DriftError: unless the memory is reset at every document and changes a plain LoRA by any rule but RMS.

    Example (needs nothing but the installed package):
        >>> from driftlm import Document, Learning, WeightMemory, Windows
        >>> memory = WeightMemory(windows=Windows("cached", 64, 32), learning=Learning("lora", reset="document"))
        >>> steps = read_side_by_side(memory, [Document(name, "tick tock " * 20) for name in "abc"], 2)
        >>> "".join(step.window.document for step in steps), memory.counts.updates
        ('aaabbbccc', 9)
    """
    if not isinstance(memory, WeightMemory):  # rows are copies of its parameters
        raise DriftError(
            f"`Stream.batch` was {rows}, but a {memory.kind} reads one document at a time; give `Stream.batch` 1."
        )
    if memory.learning.reset != "document":
        raise DriftError(
            f"`Stream.batch` was {rows} and `Learning.reset` {memory.learning.reset}, but documents read side by side "
            f"know nothing of each other; give `Learning.reset` document, or `Stream.batch` 1."
        )
    totals = totals or Totals(static_nats=0.0 if compares else None)
    return SideBySide(memory, documents, rows, compares, limit, totals, start.document).steps()


class SideBySide:
    """The rows of a reading, and the documents that they are in; arguments as of `read_side_by_side`."""

    def __init__(
        self,
        memory: WeightMemory,
        documents: Iterable[Document],
        rows: int,
        compares: bool,
        limit: int | None,
        totals: Totals,
        first: int,
    ) -> None:
        self.memory, self.documents, self.limit = memory, iter(documents), limit
        self.rows = WeightRows(memory, rows)
        self.baseline = StaticRows(memory, rows) if compares else None
        self.totals = totals
        self.number, self.tokens = first, self.totals.tokens  # of the next document, and of all that were taken
        self.places: list[OpenDocument | None] = [None] * rows
        self.untold: deque[OpenDocument] = deque()  # in the stream's order
        self.ended = False

    def steps(self) -> Iterator[Step]:
        """One step a window, in the order of the stream."""
        while places := self.fill():
            self.read(places)
            yield from self.told()

    def fill(self) -> list[OpenDocument]:
        """Rows without a document take the next ones; where there are no more, the others go on alone."""
        for row, place in enumerate(self.places):
            if place is None and (taken := self.take()) is not None:
                self.places[row] = taken
                self.untold.append(taken)
        left = [row for row, place in enumerate(self.places) if place is not None]
        if left and len(left) < len(self.places):
            self.places = [self.places[row] for row in left]
            self.rows.keep(left)
            if self.baseline is not None:
                self.baseline.keep(left)
        return [place for place in self.places if place is not None]

    def take(self) -> OpenDocument | None:
        """The next document, cut where the limit is reached; none behind the last that is needed."""
        room = None if self.limit is None else self.limit - self.tokens
        document = None if self.ended or (room is not None and room <= 0) else next(self.documents, None)
        if document is None:
            self.ended = True
            return None
        ids, byte_ends = self.memory.encode(document.text)
        ids = ids if room is None else ids[: 1 + room]
        windows = split(document.id, ids, byte_ends, self.memory.windows)
        place = OpenDocument(self.number, document, windows, next(windows))
        self.number, self.tokens = self.number + 1, self.tokens + len(ids) - 1
        return place

    def read(self, places: list[OpenDocument]) -> None:
        """A round: score a window of every row, then learn from it; rows whose document ends are free again."""
        began, windows = time.perf_counter(), [place.window for place in places]
        static = [None] * len(windows) if self.baseline is None else self.baseline.score(windows)
        nats = self.rows.score(windows)
        counts = [replace(row.counts) for row in self.rows.rows]
        ended = [row for row, window in enumerate(windows) if window.last]
        self.rows.learn()
        for row, done in zip(ended, self.rows.finish(ended), strict=True):
            places[row].counts, self.places[row] = done, None
        if self.baseline is not None:
            self.baseline.learn()
            self.baseline.finish(ended)
        seconds = (time.perf_counter() - began) / len(windows)
        for row, place in enumerate(places):
            events = self.rows.events[row]
            place.read.append(ScoredWindow(windows[row], nats[row], static[row], events, counts[row], seconds))
            if not windows[row].last:
                place.window = next(place.windows)

    def told(self) -> Iterator[Step]:
        """What was read and follows in the stream on what was told."""
        while self.untold and self.untold[0].read:
            place, sums = self.untold[0], self.memory.counts
            while place.read:
                one = place.read.popleft()
                updates, rollbacks = sums.updates + one.counts.updates, sums.rollbacks + one.counts.rollbacks
                before = replace(self.totals, updates=updates, rollbacks=rollbacks)
                self.totals = added(before, one.window, one.nats, one.static, one.seconds)
                here = None if one.window.index else Point(place.number)
                behind = Point(place.number + 1) if one.window.last else None
                yield Step(
                    one.window,
                    one.nats,
                    one.static,
                    one.events,
                    before,
                    self.totals,
                    place.document.time,
                    here,
                    behind,
                )
            if place.counts is None:
                return
            self.untold.popleft()
            for name, count in vars(place.counts).items():
                setattr(sums, name, getattr(sums, name) + count)
            self.totals = replace(
                self.totals, documents=self.totals.documents + 1, updates=sums.updates, rollbacks=sums.rollbacks
            )
