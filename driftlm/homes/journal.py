"""What a home has read, text and order, in SQLite: a document is acknowledged once it is here.

A row is never changed but for what was scored in it. Which rows are behind the present weights, and so would be read
again, says `active`: a home that was taken back to an earlier point keeps the later rows, inactive. Of what was
forgotten nothing stays but the number of its row.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.memories.loop import Totals
from driftlm.storage.database import connect, damage, transaction, wipe
from driftlm.streams.documents import Document

APPLICATION, FORMAT = 0x44724C4A, 1  # in sqlite's header: that it is a journal, and of which version
SCHEMA = """
CREATE TABLE documents (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, time TEXT, text TEXT NOT NULL, read_at TEXT NOT NULL,
    hash TEXT NOT NULL, totals TEXT NOT NULL, active INTEGER NOT NULL CHECK (active IN (0, 1)), seal TEXT NOT NULL);
CREATE INDEX documents_by_id ON documents (id);
CREATE TABLE forgotten (seq INTEGER PRIMARY KEY, wiped INTEGER NOT NULL);
"""
ROW = "SELECT seq, id, time, text, read_at, hash, totals, active, seal FROM documents"


@dataclass(frozen=True)
class Entry:
    """A document that was read.

    Attributes:
        seq: its number in the journal, from 1; never given again.
        id: a later entry of the same id is a newer version of it.
        time: as its source writes it.
        text: what was read.
        read_at: when, ISO 8601 in UTC.
        totals: of this document alone.
        active: whether the present weights have read it.
    """

    seq: int
    id: str
    time: str | None
    text: str
    read_at: str
    totals: Totals
    active: bool

    @property
    def document(self) -> Document:
        """Return the document, to be read again."""
        return Document(self.id, self.text, self.time)


class Journal:
    """The journal in a file, open; to be used by one thread at a time.

    A history is the numbers of some rows, in the order they were read.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     journal = Journal.create(Path(folder, "journal.sqlite"))
    ...     journal.append(Document("a", "It rained."), Totals(tokens=3, nats=6.5)).seq
    ...     journal.forget([1], {})
    ...     journal.wipe()
    ...     journal.history(), journal.verify()
    ...     journal.close()
    1
    ([], [])
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path, self.database = path, database

    @classmethod
    def create(cls, path: Path) -> "Journal":
        """Return a new journal; one that a creation left that was cut short is begun anew."""
        path.unlink(missing_ok=True)
        database = connect(path, "rwc")
        with transaction(database, path, "IMMEDIATE"):
            for statement in SCHEMA.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(f"PRAGMA user_version = {FORMAT}")
        return cls(path, database)

    @classmethod
    def open(cls, path: Path) -> "Journal":
        """Return the journal in a file.

        Raises:
            DriftError: when there is none, a damaged one, or one of a newer version.
        """
        if not path.is_file() or path.is_symlink():
            raise DriftError(f"{path} is missing or no plain file; put it back from a copy.")
        database = connect(path, "rw")
        try:
            with transaction(database, path):
                application = database.execute("PRAGMA application_id").fetchone()[0]
                version = database.execute("PRAGMA user_version").fetchone()[0]
                if application != APPLICATION:
                    raise DriftError(f"{path} is no journal of a home; put it back from a copy.")
                if version != FORMAT:
                    raise DriftError(
                        f"{path} has format {version}, and this driftlm reads {FORMAT}; give it to the driftlm that "
                        f"wrote it."
                    )
                database.execute(f"{ROW} LIMIT 1")
                database.execute("SELECT seq, wiped FROM forgotten LIMIT 1")
        except BaseException:
            database.close()
            raise
        return cls(path, database)

    def close(self) -> None:
        """Let go of the file."""
        self.database.close()

    # ---- changing ---------------------------------------------------------------------------------------------------

    def append(self, document: Document, totals: Totals) -> Entry:
        """Keep a document that was read; on disk when this returns."""
        read_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        with transaction(self.database, self.path, "IMMEDIATE"):
            seq = self.last() + 1
            entry = Entry(seq, document.id, document.time, document.text, read_at, totals, True)
            self.database.execute("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", columns(entry))
        return entry

    def rewrite(self, history: Sequence[int], scored: Mapping[int, Totals]) -> None:
        """Make these rows and no others those behind the weights, with other totals for some; all at once."""
        with transaction(self.database, self.path, "IMMEDIATE"):
            self._rewrite(set(history), scored)

    def _rewrite(self, active: set[int], scored: Mapping[int, Totals]) -> None:
        held = self.database.execute("SELECT seq, active FROM documents").fetchall()
        for seq in [seq for seq, was in held if bool(was) != (seq in active) or seq in scored]:
            entry = self._entry(seq)
            entry = replace(entry, active=seq in active, totals=scored.get(seq, entry.totals))
            *_, totals, on, seal = columns(entry)
            change = "UPDATE documents SET totals = ?, active = ?, seal = ? WHERE seq = ?"
            self.database.execute(change, (totals, on, seal, seq))

    def forget(self, seqs: Sequence[int], scored: Mapping[int, Totals]) -> None:
        """Delete rows, and give others the totals that they have without them; `wipe` overwrites what is left."""
        with transaction(self.database, self.path, "IMMEDIATE"):
            active = set(self._history()) - set(seqs)
            for seq in seqs:
                self.database.execute("DELETE FROM documents WHERE seq = ?", (seq,))
                self.database.execute("INSERT INTO forgotten VALUES (?, 0)", (seq,))
            self._rewrite(active, scored)

    def wipe(self) -> None:
        """Leave nothing of what was deleted in the file, where that was not done yet."""
        with transaction(self.database, self.path):
            due = self.database.execute("SELECT 1 FROM forgotten WHERE wiped = 0 LIMIT 1").fetchone()
        if due:
            wipe(self.database, self.path)
            with transaction(self.database, self.path, "IMMEDIATE"):
                self.database.execute("UPDATE forgotten SET wiped = 1")

    # ---- reading ----------------------------------------------------------------------------------------------------

    def last(self) -> int:
        """Return the largest number that was ever given."""
        row = self.database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'documents'").fetchone()
        return int(row[0]) if row else 0

    def history(self) -> list[int]:
        """Return the rows of the present weights."""
        with transaction(self.database, self.path):
            return self._history()

    def _history(self) -> list[int]:
        return [seq for (seq,) in self.database.execute("SELECT seq FROM documents WHERE active ORDER BY seq")]

    def hashes(self) -> dict[int, str]:
        """Return, by number, what identifies each row that is there."""
        with transaction(self.database, self.path):
            return dict(self.database.execute("SELECT seq, hash FROM documents ORDER BY seq"))

    def forgotten(self) -> set[int]:
        """Return the numbers of rows that are gone."""
        with transaction(self.database, self.path):
            return {seq for (seq,) in self.database.execute("SELECT seq FROM forgotten")}

    def entry(self, seq: int) -> Entry:
        """Return a row; `DriftError` when it is not what was written."""
        with transaction(self.database, self.path):
            return self._entry(seq)

    def _entry(self, seq: int) -> Entry:
        row = self.database.execute(f"{ROW} WHERE seq = ?", (seq,)).fetchone()
        try:
            if row is None or problem(row):
                raise ValueError
            return entry_of(row)
        except (ValueError, TypeError) as error:
            raise DriftError(
                f"{self.path} is damaged: document {seq} is not what was read; put it back from a copy."
            ) from error

    def entries(self, history: Iterable[int]) -> Iterator[Entry]:
        """Yield rows, one after the other."""
        return (self.entry(seq) for seq in history)

    def versions(self, id: str) -> list[int]:
        """Return all rows of a document, the newest last, inactive ones as well."""
        with transaction(self.database, self.path):
            found = self.database.execute("SELECT seq FROM documents WHERE id = ? ORDER BY seq", (id,))
            return [seq for (seq,) in found]

    def verify(self) -> list[str]:
        """Return what is wrong with the file, a sentence each; empty when it is sound."""
        return damage(self.database, self.path, self.path, self._problems())

    def _problems(self) -> Iterator[str]:
        seen = {seq for (seq,) in self.database.execute("SELECT seq FROM forgotten")}
        for row in self.database.execute(f"{ROW} ORDER BY seq"):
            seen.add(row[0])
            if what := problem(row):
                yield f"{self.path}: {what} of document {row[0]} is not what was read"
        missing = set(range(1, self.last() + 1)) - seen
        yield from (f"{self.path}: document {seq} is missing" for seq in sorted(missing))


def facts_of(entry: Entry) -> dict[str, Any]:
    """Return an entry without its text, as JSON has it."""
    totals = asdict(entry.totals)
    del totals["documents"]
    facts = {name: getattr(entry, name) for name in ("seq", "id", "time", "read_at", "active")}
    return facts | totals | {"bits_per_byte": entry.totals.bits_per_byte}


def columns(entry: Entry) -> tuple[Any, ...]:
    """Return a row of the table."""
    first = (entry.seq, entry.id, entry.time, entry.text, entry.read_at)
    totals = json.dumps(asdict(entry.totals))
    hashed, active = digest(first), int(entry.active)
    return (*first, hashed, totals, active, digest((hashed, totals, active)))


def problem(row: Sequence[Any]) -> str:
    """Return what of a row is not what was written; nothing where all is."""
    if digest(row[:5]) != row[5]:
        return "the text, id or time"
    return "the record" if digest(row[5:8]) != row[8] else ""


def entry_of(row: Sequence[Any]) -> Entry:
    """Return what `columns` wrote."""
    seq, id, time, text, read_at, _, totals, active, _ = row
    return Entry(seq, id, time, text, read_at, Totals(**json.loads(totals)), bool(active))


def digest(values: Sequence[Any]) -> str:
    """Return the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()
