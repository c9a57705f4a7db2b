"""The bank on disk: rows in sqlite, vectors in safetensors that are mapped; what was added outlives kill -9.

BANK/bank.sqlite                    documents, what the bank is made for, and where each part's row stands
BANK/vectors-00000001.safetensors   a segment: `vectors` (N, T, D) and `keys` (N, Q); written once, never changed

A segment is on disk under its name before the transaction that refers to it commits; one that nothing refers to does
not count, and `compact` removes it.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.bank.modulations import (
    DTYPES,
    Addition,
    Entry,
    Facts,
    Modulations,
    content_hash,
    gather,
    map_segment,
    row_digests,
    seal_of,
    segment_name,
    write_segment,
)
from driftlm.storage.database import connect, damage, sentences, transaction, wipe
from driftlm.storage.files import sync

APPLICATION, FORMAT = 0x44724C4D, 1  # in sqlite's header: that it is a bank, and of which version
ENTRIES = "SELECT id, text, time, moment, parts, hash FROM documents JOIN contents USING (number)"

# What opening reads is apart from what is long, so that it reads little.
SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE segments (number INTEGER PRIMARY KEY AUTOINCREMENT, rows INTEGER NOT NULL);
CREATE TABLE documents (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    moment REAL CHECK (typeof(moment) IN ('real', 'null')),
    segment INTEGER NOT NULL REFERENCES segments (number),
    first INTEGER NOT NULL CHECK (typeof(first) = 'integer' AND first >= 0),
    parts INTEGER NOT NULL CHECK (typeof(parts) = 'integer' AND parts >= 0));
CREATE TABLE contents (
    number INTEGER PRIMARY KEY REFERENCES documents (number) ON DELETE CASCADE,
    text TEXT NOT NULL, time TEXT, hash TEXT NOT NULL, added TEXT NOT NULL,
    rows BLOB NOT NULL, seal TEXT NOT NULL);
"""


class BankStore:
    """A bank, open; made by `create` and `open`, to be used by one thread.

    The order is that of adding; a document that is replaced goes to the end, as if forgotten and added.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with BankStore.create(folder, Facts(vectors=2, width=3, key_width=4, networks="n")) as bank:
    ...         bank.add("a", "It rained.", "2024-05-01", 1714521600.0, torch.ones(1, 2, 3), torch.ones(1, 4))
    ...         bank.matrices().vectors.shape
    ...         bank.forget("a")
    ...         len(bank), bank.verify()
    True
    torch.Size([1, 2, 3])
    (0, [])
    """

    def __init__(self, folder: Path, database: sqlite3.Connection, facts: Facts) -> None:
        self.folder, self.database, self.facts = folder, database, facts
        self.dtype = DTYPES[facts.dtype]

    @classmethod
    def create(cls, folder: str | Path, facts: Facts) -> "BankStore":
        """Return a new, empty bank in a folder that is made where it does not exist.

        Raises:
            DriftError: when there is a bank already, or the facts are none.
        """
        folder = Path(folder)
        if facts.dtype not in DTYPES or min(facts.vectors, facts.width, facts.key_width) < 1:
            raise DriftError(f"no bank can be made for {facts}; give sizes from 1 on and float32 or float16.")
        with sentences(folder):
            folder.mkdir(parents=True, exist_ok=True)
        database = connect(folder / "bank.sqlite", "rwc")
        try:
            with transaction(database, folder, "IMMEDIATE"):
                if database.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise DriftError(f"{folder} holds a bank already; open it, or give another folder.")
                for statement in SCHEMA.split(";"):
                    database.execute(statement)
                values = [(name, json.dumps(value)) for name, value in asdict(facts).items()]
                database.executemany("INSERT INTO facts VALUES (?, ?)", values)
                database.execute(f"PRAGMA application_id = {APPLICATION}")
                database.execute(f"PRAGMA user_version = {FORMAT}")
            sync(folder)
            sync(folder.absolute().parent)
        except BaseException:
            database.close()
            raise
        return cls(folder, database, facts)

    @staticmethod
    def there(folder: str | Path) -> bool:
        """Tell whether a folder holds a bank, whole or damaged; what a creation left that was cut short is none."""
        place = Path(folder) / "bank.sqlite"
        if not place.is_file():
            return False
        database = connect(place, "rw")
        try:
            with transaction(database, Path(folder)):
                return database.execute("SELECT 1 FROM sqlite_master").fetchone() is not None
        finally:
            database.close()

    @classmethod
    def open(cls, folder: str | Path, facts: Facts | None = None) -> "BankStore":
        """Return the bank in a folder; `facts` is what it has to be made for, None takes it as it is, to list or check
        it.

        Raises:
            DriftError: when it holds no bank, a damaged one, one of a newer version or one for other networks.
        """
        folder = Path(folder)
        if not (folder / "bank.sqlite").is_file():
            raise DriftError(f"{folder} holds no bank; give the folder of one, or make one there first.")
        database = connect(folder / "bank.sqlite", "rw")
        try:
            held = read_facts(database, folder)
            if facts is not None and facts != held:
                raise DriftError(
                    f"the bank {folder} was made with other networks ({held.place or 'those bundled then'}) than were "
                    f"given; give its own with `MemorySettings.networks`, or make a new bank for these."
                )
        except BaseException:
            database.close()
            raise
        return cls(folder, database, held)

    def close(self) -> None:
        """Let go of the file; matrices that were given out stay."""
        self.database.close()

    def __enter__(self) -> "BankStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------------ changing

    def add(self, id: str, text: str, time: str | None, timestamp: float | None, vectors: Tensor, keys: Tensor) -> bool:
        """Keep a document, in the place of the one with its id; on disk when this returns. Arguments as `Addition`.

        Returns:
            False, and nothing was done, when the bank holds this id with this text and time.

        Raises:
            DriftError: when shapes are others than the bank's, a number is not finite, or the bank cannot be written.
        """
        return self.add_many([Addition(id, text, time, timestamp, vectors, keys)])[0]

    def add_many(self, additions: Sequence[Addition]) -> list[bool]:
        """Keep all documents or, when it fails, none: as `add` for one after the other, in one segment."""
        additions = [addition.fitted(self.facts) for addition in additions]
        fresh, pending = [], dict[str, Addition]()
        with transaction(self.database, self.folder, "IMMEDIATE"):
            held = {addition.id: self._held_hash(addition.id) for addition in additions}
            for addition in additions:
                hashed = content_hash(addition.text, addition.time)
                fresh.append(held[addition.id] != hashed)
                if fresh[-1]:
                    held[addition.id] = hashed
                    pending.pop(addition.id, None)
                    pending[addition.id] = addition
            if pending:
                self._insert(list(pending.values()))
        return fresh

    def holds(self, id: str, text: str, time: str | None) -> bool:
        """Tell whether adding this document would do nothing, so that it need not be encoded."""
        with transaction(self.database, self.folder):
            return self._held_hash(id) == content_hash(text, time)

    def forget(self, *ids: str) -> None:
        """Remove documents, as if never added: text, id and time leave the disk at once, vectors with `compact`.

        Raises:
            DriftError: when one is unknown, and then none is removed.
        """
        with transaction(self.database, self.folder, "IMMEDIATE"):
            for id in ids:
                if not self.database.execute("DELETE FROM documents WHERE id = ?", (id,)).rowcount:
                    raise self._unknown(id)
        wipe(self.database, self.folder)

    def expire(self, before: float) -> list[str]:
        """Forget every document from before a timestamp (seconds since 1970); their ids, in the order of `ls`."""
        with transaction(self.database, self.folder, "IMMEDIATE"):
            query = "SELECT id FROM documents WHERE moment < ? ORDER BY number"
            gone = [name for (name,) in self.database.execute(query, (before,))]
            self.database.execute("DELETE FROM documents WHERE moment < ?", (before,))
        if gone:
            wipe(self.database, self.folder)
        return gone

    def compact(self) -> None:
        """Write what is kept into one segment and remove all else: what was forgotten is then in no file."""
        with transaction(self.database, self.folder, "IMMEDIATE"):
            kept = self._matrices()
            segments = self.database.execute("SELECT rows FROM segments").fetchall()
            if segments != [(len(kept.owner),)]:
                segment = self._write_segment(kept.vectors, kept.keys)
                parts = self.database.execute("SELECT number, parts FROM documents ORDER BY number").fetchall()
                firsts = np.cumsum([0] + [count for _, count in parts]).tolist()
                moved = [(segment, first, number) for (number, _), first in zip(parts, firsts, strict=False)]
                self.database.executemany("UPDATE documents SET segment = ?, first = ? WHERE number = ?", moved)
                self.database.execute("DELETE FROM segments WHERE number != ?", (segment,))
        # Under the lock, so that no other process is between writing a segment and referring to it.
        with transaction(self.database, self.folder, "IMMEDIATE"):
            live = {segment_name(number) for (number,) in self.database.execute("SELECT number FROM segments")}
            for path in self.folder.glob("vectors-*"):
                if path.name not in live:
                    path.unlink(missing_ok=True)
            sync(self.folder)
        wipe(self.database, self.folder)

    # ------------------------------------------------------------------------------------------------------- reading

    def __len__(self) -> int:
        with transaction(self.database, self.folder):
            return int(self.database.execute("SELECT count(*) FROM documents").fetchone()[0])

    def ls(self) -> list[Entry]:
        """Return all documents, in the order they were added."""
        with transaction(self.database, self.folder):
            return [self._entry(row) for row in self.database.execute(f"{ENTRIES} ORDER BY number")]

    def show(self, id: str) -> Entry:
        """Return one document; `DriftError` when the bank does not hold it."""
        with transaction(self.database, self.folder):
            row = self.database.execute(f"{ENTRIES} WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise self._unknown(id)
        return self._entry(row)

    def matrices(self) -> Modulations:
        """Return all parts in the order of `ls`: mapped where they stand together in one segment, else copied."""
        with transaction(self.database, self.folder):  # so that no segment is removed before it is mapped
            return self._matrices()

    def verify(self) -> list[str]:
        """Return what is wrong with the bank, a sentence for each file and document; empty when it is sound."""
        return damage(self.database, self.folder, "bank.sqlite", self._problems())

    def _problems(self) -> Iterator[str]:
        query = """SELECT CAST(id AS TEXT), CAST(text AS TEXT), CAST(time AS TEXT), moment, hash,
            coalesce(CAST(contents.rows AS BLOB), x''), seal, segment, s.rows, first, parts FROM documents
            LEFT JOIN contents USING (number) LEFT JOIN segments s ON segment = s.number ORDER BY documents.number"""
        mapped = lru_cache(maxsize=1)(map_segment)
        for row in self.database.execute(query):
            yield from self._problems_of(row, mapped)

    def _problems_of(self, row: tuple[Any, ...], mapped: Callable[..., tuple[Tensor, Tensor]]) -> list[str]:
        id, text, time, timestamp, hashed, rows, seal, segment, length, first, parts = row
        found = []
        if content_hash(text, time) != hashed:
            found.append(f"bank.sqlite: text or time of document {id!r} is not what was added")
        if seal_of(id, timestamp, hashed, rows, parts) != seal:
            found.append(f"bank.sqlite: the record of document {id!r} is not what was added")
        name = segment_name(segment)
        try:
            vectors, keys = mapped(self.folder / name, self.facts, length)
        except ValueError as error:
            return [*found, f"{name} {error}; it holds document {id!r}"]
        own = row_digests(vectors[first : first + parts], keys[first : first + parts])
        if b"".join(own) != rows:
            found.append(f"{name}: rows of document {id!r} are not what was added")
        return found

    def _matrices(self) -> Modulations:
        query = "SELECT id, moment, segment, first, parts FROM documents ORDER BY number"
        columns = list(zip(*self.database.execute(query)))
        ids, timestamps, segments, firsts, parts = columns or [()] * 5
        vectors, keys = gather(segments, firsts, parts, self.facts, self._segment)
        owner = np.repeat(np.arange(len(ids)), np.array(parts, dtype=np.int64))
        known = np.array(timestamps, dtype=np.float64)  # None becomes nan
        return Modulations(vectors, keys, torch.from_numpy(known[owner]), torch.from_numpy(owner), list(ids))

    def _segment(self, number: int) -> tuple[Tensor, Tensor]:
        row = self.database.execute("SELECT rows FROM segments WHERE number = ?", (number,)).fetchone()
        path = self.folder / segment_name(number)
        try:
            return map_segment(path, self.facts, row[0] if row else -1)
        except ValueError as error:
            raise DriftError(f"{path} {error}; put it back, or forget the documents that `verify` names.") from error

    def _held_hash(self, id: str) -> str:
        query = "SELECT hash FROM documents JOIN contents USING (number) WHERE id = ?"
        row = self.database.execute(query, (id,)).fetchone()
        return str(row[0]) if row else ""

    def _write_segment(self, vectors: Tensor, keys: Tensor) -> int:
        """Write on disk what is known to the transaction; sqlite never gives a number twice."""
        number = self.database.execute("INSERT INTO segments (rows) VALUES (?)", (len(keys),)).lastrowid
        assert number is not None
        write_segment(self.folder / segment_name(number), vectors, keys)
        return number

    def _insert(self, additions: Sequence[Addition]) -> None:
        vectors, keys = torch.cat([one.vectors for one in additions]), torch.cat([one.keys for one in additions])
        segment, digests, first = self._write_segment(vectors, keys), row_digests(vectors, keys), 0
        added = datetime.now(UTC).isoformat(timespec="seconds")
        for one in additions:
            self.database.execute("DELETE FROM documents WHERE id = ?", (one.id,))
            parts, hashed = len(one.keys), content_hash(one.text, one.time)
            query = "INSERT INTO documents (id, moment, segment, first, parts) VALUES (?, ?, ?, ?, ?)"
            number = self.database.execute(query, (one.id, one.timestamp, segment, first, parts)).lastrowid
            rows, first = b"".join(digests[first : first + parts]), first + parts
            content = (
                number,
                one.text,
                one.time,
                hashed,
                added,
                rows,
                seal_of(one.id, one.timestamp, hashed, rows, parts),
            )
            self.database.execute("INSERT INTO contents VALUES (?, ?, ?, ?, ?, ?, ?)", content)

    def _entry(self, row: tuple[str, str, str | None, float | None, int, str]) -> Entry:
        numbers = self.facts.vectors * self.facts.width + self.facts.key_width
        return Entry(*row, bytes=len(row[1].encode()) + row[4] * numbers * self.dtype.itemsize)

    def _unknown(self, id: str) -> DriftError:
        return DriftError(f"the bank {self.folder} holds no document {id!r}; `ls` names those it holds.")


def read_facts(database: sqlite3.Connection, folder: Path) -> Facts:
    """Return what the bank is made for; refuses what is no bank or newer."""
    with transaction(database, folder):
        (application,), (version,) = (
            database.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        if application != APPLICATION:
            raise DriftError(f"{folder} holds no bank; give the folder of one, or make one there first.")
        if version > FORMAT:
            raise DriftError(f"the bank {folder} is of format {version}, this driftlm reads {FORMAT}; upgrade driftlm.")
        values = dict(database.execute("SELECT name, value FROM facts"))
    try:
        return Facts(**{name: json.loads(value) for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise DriftError(f"{folder / 'bank.sqlite'} is damaged; put it back from a copy.") from error
