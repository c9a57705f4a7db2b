"""Tally windows.jsonl to the numbers of a report, in one pass and in memory that does not grow with the stream."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftlm.core.errors import DriftError
from driftlm.memories.expert_weights import ExpertWeights, Lead, lead_after

POINTS = 1000  # points of a line at most; a longer stream is summed into buckets of 2, 4, 8 ... windows
DOCUMENTS = 500  # document rows kept; the others are counted
EVENTS = 200  # guard events kept; the others are counted
FIRST_BIN = 256  # tokens; every further bin of positions ends at twice the one before
REPLICATES = 400  # resamplings of the documents behind an interval
ENOUGH = 5  # documents from which an interval is given
ENOUGH_WINDOWS = 8  # from which a difference may be called a gain
FloatArray = NDArray[np.float64]
_BATCH = 256  # documents whose resampling weights are drawn at once


def bits_per_byte(nats: float, size: float) -> float | None:
    """Return the bits per byte of `nats` over `size` bytes; None where there are no bytes.

    Example:
        >>> round(bits_per_byte(2.0, 1), 3)
        2.885
    """
    return nats / math.log(2) / size if size else None


def percent_fewer(static: float, adapted: float) -> float | None:
    """Return by how many percent fewer bits the adapted model needs; negative where it needs more, None where
    undefined.

    Example:
        >>> percent_fewer(200.0, 150.0)
        25.0
    """
    return 100 * (static - adapted) / static if static > 0 else None


def too_short(windows: int) -> str:
    """Return why a text of so many windows shows no gain, in a sentence; empty where it is long enough.

    The first window is scored before anything was learned, and a step or two say nothing of those to come.

    Example:
        >>> too_short(2)
        'The text is too short to show a gain: 2 windows, and at least 8 are needed.'
        >>> too_short(8)
        ''
    """
    if windows >= ENOUGH_WINDOWS:
        return ""
    counted = f"{windows:,} window{'s' * (windows != 1)}"
    return f"The text is too short to show a gain: {counted}, and at least {ENOUGH_WINDOWS} are needed."


def clipped(text: str, longest: int = 200) -> str:
    """Return the text from outside, made safe to write: a very long one keeps its two ends, half characters become `?`.

    Example:
        >>> clipped("abcdefghij", 7)
        'ab … ij'
    """
    text = text.encode("utf-8", "replace").decode()
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 3]} … {text[len(text) - tail :]}"


@dataclass
class Sums:
    """Sums over some windows; `static` is meaningless in a run without a static model. Scores are in nats."""

    windows: int = 0
    tokens: int = 0
    bytes: int = 0
    nats: float = 0.0
    static: float = 0.0

    def add(self, other: "Sums") -> None:
        """Add another's sums to these."""
        self.windows += other.windows
        self.tokens += other.tokens
        self.bytes += other.bytes
        self.nats += other.nats
        self.static += other.static


@dataclass
class DocumentRow:
    """One document's sums, and where its first token stands in the stream (tokens before it)."""

    id: str
    time: str | None
    start: int
    sums: Sums = field(default_factory=Sums)


@dataclass(frozen=True)
class EventRow:
    """Something the guard did, after `tokens` tokens had been read."""

    kind: str
    message: str
    window: int
    document: str
    tokens: int


@dataclass(frozen=True)
class PositionBin:
    """Gain of the windows that start at document positions `first ... last`, in nats per token.

    `low` and `high` bound 95 % of the resamplings of the documents; None under 5 documents.
    """

    first: int
    last: int
    documents: int
    tokens: int
    gain: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Point:
    """One point of the lines, after `tokens` tokens; `*_local` cover only the windows shortly before it."""

    tokens: int
    document: str
    adapted: float | None
    static: float | None
    adapted_local: float | None
    static_local: float | None
    gain: float | None


def _place(position: int) -> int:
    """Return the number of the bin that holds a position: 0 for 1-256, 1 for 257-512, 2 for 513-1,024 ..."""
    return ((position - 1) // FIRST_BIN).bit_length() if position > 0 else 0


class Positions:
    """Gain by position inside a document, resampled by Poisson weights as documents pass.

    A weight a document and replicate, drawn once and used in all bins, is the usual bootstrap without keeping the
    documents: memory stays the same for five documents and for a million.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._widest = 0
        self._current: dict[int, list[float]] = {}  # bin -> [gain in nats, tokens] of the document being read
        self._batch: list[dict[int, list[float]]] = []
        self._plain: dict[int, FloatArray] = {}  # bin -> [gain, tokens, documents]
        self._resampled: dict[int, FloatArray] = {}  # bin -> (2, replicates): gain, tokens

    def add(self, position: int, tokens: int, gain: float) -> None:
        """Add a window of the current document; `gain` in nats."""
        self._widest = max(self._widest, tokens)
        sums = self._current.setdefault(_place(position), [0.0, 0.0])
        sums[0] += gain
        sums[1] += tokens

    def finish(self) -> None:
        """End the current document."""
        if self._current:
            self._batch.append(self._current)
            self._current = {}
        if len(self._batch) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        weights = self._random.poisson(1.0, (len(self._batch), REPLICATES)).astype(np.float64)
        for place in sorted({place for document in self._batch for place in document}):
            rows = np.array([document.get(place, (0.0, 0.0)) for document in self._batch])
            seen = sum(place in document for document in self._batch)
            self._plain[place] = self._plain.get(place, np.zeros(3)) + np.append(rows.sum(axis=0), seen)
            self._resampled[place] = self._resampled.get(place, np.zeros((2, REPLICATES))) + rows.T @ weights
        self._batch = []

    def bins(self) -> list[PositionBin]:
        """Return the bins that hold tokens, by position; the first is at least as wide as the widest window."""
        self.finish()
        self._flush()
        base = _place(self._widest)
        found = []
        for last in sorted({max(place, base) for place in self._plain}):
            parts = [place for place in self._plain if max(place, base) == last]
            gain, tokens = np.sum([self._plain[place][:2] for place in parts], axis=0)
            documents = int(max(self._plain[place][2] for place in parts))  # later parts hold the same documents
            low = high = None
            if documents >= ENOUGH:
                sums = np.sum([self._resampled[place] for place in parts], axis=0)
                drawn = sums[:, sums[1] > 0]  # a replicate may draw no document at all
                low, high = (float(q) for q in np.quantile(drawn[0] / drawn[1], [0.025, 0.975]))
            first = 1 if last == base else FIRST_BIN * 2 ** (last - 1) + 1
            found.append(
                PositionBin(first, FIRST_BIN * 2**last, documents, int(tokens), float(gain / tokens), low, high)
            )
        return found


class Tally:
    """Everything a report says about the windows of a run; feed it the lines of windows.jsonl in order.

    Attributes:
        total: sums over the whole stream.
        compared: whether every window has a static score.
        rows: the first documents; `documents` counts all.
        events: the first guard events; `event_kinds` counts all by kind.
        updates: steps the memory took, as far as the lines say.
        lead: the expert of a mixture that weighs most; None without a mixture, and while all weigh the same.
        unscored: windows without a finite score, in no sum; `unscored_tokens` are their tokens.
    """

    def __init__(self) -> None:
        self.total = Sums()
        self.compared = True
        self.rows: list[DocumentRow] = []
        self.documents = 0
        self.events: list[EventRow] = []
        self.event_kinds: dict[str, int] = {}
        self.updates = 0
        self.unscored = 0
        self.unscored_tokens = 0
        self.positions = Positions()
        self.size = 1  # windows a bucket
        self._buckets: list[tuple[Sums, str, tuple[float, ...]]] = []  # id and weights are those of the last window
        self.lead: Lead | None = None
        self._experts: int | None = None
        self._document: DocumentRow | None = None
        self._id = ""
        self._last = (-1, -1)  # window, index of the line before

    def add(self, line: dict[str, Any]) -> None:
        """Count one window.

        Raises:
            KeyError, TypeError, ValueError: a line that is no window, or one out of order.
        """
        window, index, document = int(line["window"]), int(line["index"]), str(line["document"])
        if window <= self._last[0]:
            raise ValueError(f"window {window} follows window {self._last[0]}")
        if document != self._id or index <= self._last[1] or self._document is None:
            self._id = document
            self.positions.finish()
            time = line.get("time")
            self._document = DocumentRow(
                clipped(document), None if time is None else clipped(str(time)), self.total.tokens
            )
            self.documents += 1
            if len(self.rows) < DOCUMENTS:
                self.rows.append(self._document)
        self._last = (window, index)
        self.updates = int(line.get("updates", self.updates + bool(line.get("updated"))))
        static = line.get("static_nats")
        self.compared = self.compared and static is not None
        sums = Sums(1, int(line["tokens"]), int(line["bytes"]), float(line["nats"]), float(static or 0.0))
        if math.isfinite(sums.nats) and math.isfinite(sums.static):
            self.total.add(sums)
            self._document.sums.add(sums)
            if static is not None:
                self.positions.add(int(line["position"]), sums.tokens, sums.static - sums.nats)
            self._bucket(sums, self._document.id, self._weights(line))
        else:
            self.unscored += 1
            self.unscored_tokens += sums.tokens
        for event in line.get("events") or ():
            kind = clipped(str(event["kind"]))
            self.event_kinds[kind] = self.event_kinds.get(kind, 0) + 1
            if len(self.events) < EVENTS:
                message = clipped(str(event.get("message", "")))
                self.events.append(EventRow(kind, message, window, self._document.id, self.total.tokens))

    def _weights(self, line: dict[str, Any]) -> tuple[float, ...]:
        """Return the weights of a mixture's experts, none without one; the leading expert is kept track of."""
        weights = tuple(float(weight) for weight in line.get("weights") or ())
        if self._experts not in (None, len(weights)):
            raise ValueError(f"{len(weights)} experts follow {self._experts}")
        self._experts = len(weights)
        self.lead = lead_after(self.lead, weights, self.total.tokens - int(line["tokens"]))
        return weights

    def _bucket(self, sums: Sums, document: str, weights: tuple[float, ...]) -> None:
        if self._buckets and self._buckets[-1][0].windows < self.size:
            self._buckets[-1][0].add(sums)
            self._buckets[-1] = (self._buckets[-1][0], document, weights)
            return
        if len(self._buckets) == POINTS:
            for i in range(0, POINTS, 2):
                self._buckets[i][0].add(self._buckets[i + 1][0])
            self._buckets = [(self._buckets[i][0], *self._buckets[i + 1][1:]) for i in range(0, POINTS, 2)]
            self.size *= 2
        self._buckets.append((sums, document, weights))

    @property
    def local(self) -> int:
        """Return the number of windows of the moving value: about 2 % of the stream, 4 at least."""
        return self.size * max(math.ceil(4 / self.size), round(0.02 * len(self._buckets)))

    def points(self) -> list[Point]:
        """Return at most 1,000 points of the lines; each sums a bucket of windows, none is left out."""
        ends = [Sums()]
        span = self.local // self.size
        found = []
        for sums, document, _ in self._buckets:
            now = Sums(**vars(ends[-1]))
            now.add(sums)
            ends.append(now)
            past = ends[-1 - span] if len(ends) > span else None
            found.append(
                Point(
                    tokens=now.tokens,
                    document=document,
                    adapted=bits_per_byte(now.nats, now.bytes),
                    static=bits_per_byte(now.static, now.bytes) if self.compared else None,
                    adapted_local=bits_per_byte(now.nats - past.nats, now.bytes - past.bytes) if past else None,
                    static_local=bits_per_byte(now.static - past.static, now.bytes - past.bytes)
                    if past and self.compared
                    else None,
                    gain=now.static - now.nats if self.compared else None,
                )
            )
        return found

    def expert_weights(self) -> list[ExpertWeights]:
        """Return at most 1,000 points of the experts' weights, each behind its bucket; none without a mixture."""
        tokens, found = 0, []
        for sums, document, weights in self._buckets:
            tokens += sums.tokens
            if weights:
                found.append(ExpertWeights(tokens, document, weights))
        return found


def read_tally(path: Path) -> Tally:
    """Read windows.jsonl line by line; a last line cut short by a crash is left out.

    Raises:
        DriftError: no such file, or a line that holds no window.
    """
    tally = Tally()
    for number, line in _lines(path):
        try:
            tally.add(json.loads(line))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if not line.endswith(b"\n"):
                break
            raise DriftError(
                f"{path} line {number} holds no window of a driftlm run ({error!r}); "
                f"give an unchanged run folder, or read the text again."
            ) from error
    return tally


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            yield from enumerate(file, start=1)
    except OSError as error:
        raise DriftError(f"{path} cannot be read ({error.strerror}); give the folder of a driftlm run.") from error
