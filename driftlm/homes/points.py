"""Places in what was read: before a document, as of a time."""

import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from driftlm.core.errors import DriftError
from driftlm.homes.journal import Entry
from driftlm.streams.timestamps import UNDERSTOOD, timestamp_of


def before(entries: Iterable[Entry], document: str) -> list[int]:
    """Return the rows before the first version of a document.

    Raises:
        DriftError: when it was not read.
    """
    found: list[int] = []
    for entry in entries:
        if entry.id == document:
            return found
        found.append(entry.seq)
    raise DriftError(f"no document {document!r} is behind the present state; give the id of one that is.")


def as_of(entries: Sequence[Entry], time: str) -> list[int]:
    """Return the rows before the first document, in the order they were read, that is from later than a time.

    A date, a month or a year stands for all of it. Documents without a time are from no time: they count with those
    that they were read among.

    Raises:
        DriftError: for a time that is none, or when no document names one.
    """
    end = end_of(time)
    timestamps = [timestamp_of(entry.time) for entry in entries]
    if end is None:
        raise DriftError(f"`point.as_of` was {time!r}; give {UNDERSTOOD}.")
    if all(timestamp is None for timestamp in timestamps):
        raise DriftError("no document that was read names a time; give `point.before` instead.")
    later = [place for place, timestamp in enumerate(timestamps) if timestamp is not None and timestamp >= end]
    return [entry.seq for entry in entries[: later[0] if later else len(entries)]]


def end_of(time: str) -> float | None:
    """Return the first timestamp after a time, in seconds since 1970, None where it cannot be read.

    Example:
        >>> end_of("1970-01-01"), end_of("1970"), end_of("1969-12"), end_of("soon")
        (86400.0, 31536000.0, 0.0, None)
    """
    timestamp, text = timestamp_of(time), time.strip()
    if timestamp is None:
        return None
    if re.fullmatch(r"\d{4}(-\d{2})?", text, re.ASCII):
        begin = datetime.fromtimestamp(timestamp, UTC)
        year, month = (begin.year, begin.month + 1) if "-" in text else (begin.year + 1, 1)
        year, month = (year + 1, 1) if month > 12 else (year, month)
        return datetime(year, month, 1, tzinfo=UTC).timestamp() if year < 10_000 else math.inf
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}|\d{8}", text, re.ASCII):
        return timestamp + timedelta(days=1).total_seconds()
    return math.nextafter(timestamp, math.inf)
