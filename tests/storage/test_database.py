"""The sqlite file of a bank: what leaves it, and who may write it."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftlm.core.errors import DriftError
from driftlm.memories.bank.modulations import Addition
from driftlm.memories.bank.store import BankStore
from driftlm.storage import database
from tests.support.made_stores import FACTS, add, document

pytestmark = pytest.mark.long


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[BankStore]:
    with BankStore.create(tmp_path / "bank", FACTS) as made:
        yield made


def test_rows_that_sqlite_moved_leave_no_copies(bank: BankStore) -> None:
    """Many sizes, mixed adding, replacing and forgetting: of no text, id or time that is gone a byte is in a file."""
    chance = random.Random(0)
    ids: list[str] = []
    numbers = iter(range(100_000, 200_000))

    def one(name: str = "") -> Addition:
        number = next(numbers)
        name = name or f"{chance.getrandbits(32):08x}ID{number}"
        return document(name, 1, text=f"TEXT{number} " * chance.choice((1, 3, 20, 200, 900)), time=f"TIME{number}")

    for _ in range(30):
        fresh = [one() for _ in range(chance.choice((1, 5, 50, 200)))]
        ids += [addition.id for addition in fresh]
        bank.add_many([*fresh, *(one(name) for name in chance.sample(ids, min(3, len(ids))))])
        gone = chance.sample(ids, min(len(ids), chance.choice((0, 1, 30, 100))))
        bank.forget(*gone)
        ids = [name for name in ids if name not in gone]
    bank.forget(ids.pop())
    raw = b"".join(path.read_bytes() for path in bank.folder.iterdir())
    for mark, kept in (
        ("ID", {entry.id[-6:] for entry in bank.ls()}),
        ("TEXT", {entry.text[4:10] for entry in bank.ls()}),
        ("TIME", {str(entry.time)[4:] for entry in bank.ls()}),
    ):
        assert {found.decode() for found in re.findall(mark.encode() + rb"(\d{6})", raw)} == kept


def test_a_file_that_cannot_be_wiped_is_said(bank: BankStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.1)
    add(bank, document("a"))
    with BankStore.open(bank.folder) as second:
        bank.database.execute("BEGIN IMMEDIATE")
        with pytest.raises(DriftError, match="may be left in the file until the bank is compacted: .* in use"):
            database.wipe(second.database, second.folder)
        bank.database.execute("ROLLBACK")


def test_a_second_writer_waits_then_is_refused(bank: BankStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.1)
    with BankStore.open(bank.folder) as second:
        bank.database.execute("BEGIN IMMEDIATE")
        with pytest.raises(DriftError, match=r"bank\.sqlite is in use by another process"):
            add(second, document("a"))
        assert len(second) == 0  # reading goes on
        bank.database.execute("ROLLBACK")
        assert add(second, document("a")) == [True] and bank.matrices().ids == ["a"]
