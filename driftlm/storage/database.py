"""A sqlite file that must not lose a thing: opened, changed as a whole or not at all, wiped; failures as sentences.

Where a function takes a place it is that of the file, or the folder of a bank.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from driftlm.core.errors import DriftError

LOCK_SECONDS = 10.0  # that a process waits for another one's transaction


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Return a connection that loses no commit to a power failure, and overwrites what is deleted (see `wipe`)."""
    with sentences(path):
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        # Whoever shares a connection between threads lets only one of them at it at a time.
        database = sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        for pragma in ("synchronous = EXTRA", "secure_delete = ON", "foreign_keys = ON"):
            database.execute(f"PRAGMA {pragma}")
    return database


@contextmanager
def transaction(database: sqlite3.Connection, place: Path, kind: str = "DEFERRED") -> Iterator[None]:
    """Do all of it or nothing; IMMEDIATE to write."""
    with sentences(place):
        database.execute(f"BEGIN {kind}")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


def damage(database: sqlite3.Connection, place: Path, name: object, problems: Iterable[str]) -> list[str]:
    """Return what is wrong with the file by this name, and the problems that its rows have, a sentence each.

    Args:
        database: the file; bytes that are no text can be read meanwhile.
        place: where it is.
        name: what sentences call it.
        problems: found while they are asked for; where the file is torn, that is the last sentence.
    """
    found: list[str] = []
    database.text_factory = lambda raw: raw.decode("utf-8", "replace")  # bytes that are no text are damage
    try:
        with transaction(database, place):
            complaints = [line for (line,) in database.execute("PRAGMA integrity_check") if line != "ok"]
            found += [f"{name} is damaged: {line}" for line in complaints]
            for problem in problems:
                found.append(problem)  # one by one, so that they stay where a later row cannot be read
    except DriftError as error:
        if not is_damage(error.__cause__):
            raise
        found.append(str(error))
    finally:
        database.text_factory = str
    return found


def wipe(database: sqlite3.Connection, place: Path) -> None:
    """Leave nothing of what was deleted, by writing the file anew.

    Overwriting is not enough: sqlite leaves a copy of a row behind where it moved it from one page to another.
    """
    try:
        with sentences(place):
            database.execute("VACUUM")
    except DriftError as error:
        until = "the home is opened again" if place.suffix == ".sqlite" else "the bank is compacted"
        raise DriftError(f"what was forgotten may be left in the file until {until}: {error}") from error


@contextmanager
def sentences(place: Path) -> Iterator[None]:
    """Say what goes wrong with the files as `DriftError`."""
    try:
        yield
    except (sqlite3.DatabaseError, SafetensorError, OSError) as error:
        path = place if place.suffix == ".sqlite" else place / "bank.sqlite"
        if is_damage(error):
            sentence = f"{path} is damaged ({error}); put it back from a copy."
        elif getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            sentence = f"{path} is in use by another process for {LOCK_SECONDS:g} s; try again when it has finished."
        else:
            sentence = f"{path} cannot be read or written ({error}); make room or get the rights for it."
        raise DriftError(sentence) from error


def is_damage(error: BaseException | None) -> bool:
    """Tell whether sqlite found its file torn."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
