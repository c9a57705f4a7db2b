"""What is being read at this moment, by tenant: the thread that computes publishes it, and any other may look."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal

from driftlm.homes.home import Home
from driftlm.homes.journal import Entry
from driftlm.memories.loop import Step, Totals
from driftlm.report.tally import bits_per_byte
from driftlm.streams.documents import Document

POINTS = 256  # of a document's line at most
TENANTS = 1024  # that are remembered at most, those of the latest readings


@dataclass
class DocumentProgress:
    """A document that is being read, or was read last.

    Attributes:
        id: of the document.
        tokens: that it has.
        state: `failed` where it could not be read to its end.
        seq: its row in the journal, once it was read.
        every: windows between two points; doubled, and every second point left out, when there are too many.
        points: running totals, by window.
        latest: those of the latest window.
    """

    id: str
    tokens: int
    state: Literal["reading", "read", "failed"] = "reading"
    seq: int | None = None
    every: int = 1
    points: list[Totals] = field(default_factory=list)
    latest: Totals = field(default_factory=Totals)

    def add(self, totals: Totals) -> None:
        """Add one more window.

        Example:
            >>> reading = DocumentProgress("a", 4000)
            >>> for window in range(1, 1001):
            ...     reading.add(Totals(tokens=4 * window, windows=window))
            >>> reading.every, len(reading.points), reading.points[0].windows, reading.latest.tokens
            (4, 250, 4, 4000)
        """
        self.latest = totals
        if totals.windows % self.every == 0:
            self.points.append(totals)
        if len(self.points) > POINTS:
            self.points, self.every = self.points[1::2], 2 * self.every

    def facts(self) -> dict[str, Any]:
        """Return the reading as JSON has it; bits per byte are of the document so far, None where there is no finite
        number.
        """
        last = [] if self.points[-1:] == [self.latest] else [self.latest]
        described = {"id": self.id, "state": self.state, "seq": self.seq, "of": self.tokens}
        return described | point_of(self.latest) | {"points": [point_of(one) for one in self.points + last]}


def point_of(totals: Totals) -> dict[str, Any]:
    """Return running totals as a point of the lines."""
    bits = {"bits_per_byte": totals.nats, "static_bits_per_byte": totals.static_nats}
    rates = {name: None if nats is None else bits_per_byte(nats, totals.bytes) for name, nats in bits.items()}
    finite = {name: rate if rate is not None and math.isfinite(rate) else None for name, rate in rates.items()}
    return {"tokens": totals.tokens, "bytes": totals.bytes} | finite


@dataclass
class TenantProgress:
    """What is known of a tenant: a reading, and how often what its home holds has changed."""

    reading: DocumentProgress | None = None
    changes: int = 0


class Progress:
    """What every tenant reads or has read last; the memory that it takes does not grow.

    Example:
        >>> Progress().of("ada")
        {'changes': 0, 'document': None}
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.tenants: OrderedDict[str, TenantProgress] = OrderedDict()

    def of(self, tenant: str) -> dict[str, Any]:
        """Return what there is to say to a tenant, of nobody else."""
        with self.lock:
            held = self.tenants.get(tenant, TenantProgress())
            return {"changes": held.changes, "document": None if held.reading is None else held.reading.facts()}

    def read(self, tenant: str, home: Home, document: Document, between: Callable[[], None] = lambda: None) -> Entry:
        """Run `Home.read`, window by window in public; what was read before is not begun."""
        reading: DocumentProgress | None = None

        def watch(step: Step) -> None:
            nonlocal reading
            if reading is None:
                reading = DocumentProgress(document.id, len(home.memory.encode(document.text)[0]) - 1)
                self.begin(tenant, reading)
            with self.lock:
                reading.add(step.totals)

        try:
            entry = home.read(document, watch, between)
        except BaseException:
            if reading is not None:
                self.end(tenant, reading, "failed", None)
            raise
        if reading is not None:
            self.end(tenant, reading, "read", entry.seq)
        return entry

    def begin(self, tenant: str, reading: DocumentProgress) -> None:
        """Begin to publish a reading."""
        with self.lock:
            self.tenants.setdefault(tenant, TenantProgress()).reading = reading
            self.tenants.move_to_end(tenant)
            while len(self.tenants) > TENANTS:
                self.tenants.popitem(last=False)

    def end(self, tenant: str, reading: DocumentProgress, state: Literal["read", "failed"], seq: int | None) -> None:
        """End a reading, of which nothing more comes."""
        with self.lock:
            reading.state, reading.seq = state, seq
            self.tenants[tenant].changes += 1

    def changed(self, tenant: str) -> None:
        """Say that what can be listed of the home has changed."""
        with self.lock:
            self.tenants.setdefault(tenant, TenantProgress()).changes += 1

    def left(self, tenant: str) -> None:
        """Keep nothing of the latest reading, whose document may be forgotten: the home is in another state."""
        self.changed(tenant)
        with self.lock:
            self.tenants[tenant].reading = None
