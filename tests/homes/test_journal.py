"""The journal: rows as they were read, numbers that never come again, and nothing left of what was forgotten."""

import random
import re
from pathlib import Path

import pytest

from driftlm import Document, DriftError
from driftlm.homes.journal import Journal
from driftlm.memories.loop import Totals


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.create(tmp_path / "journal.sqlite")


def test_rows_come_back_as_they_were_and_numbers_never(journal: Journal) -> None:
    read = [Document("a", "naïve\r\n\x00 日本 😀", None), Document("b", " ", "1999"), Document("a", "newer", "2000")]
    totals = Totals(tokens=3, bytes=9, nats=0.1 + 0.2, static_nats=1e-300, windows=1, documents=1)
    entries = [journal.append(document, totals) for document in read]
    journal.close()
    again = Journal.open(journal.path)
    assert list(again.entries([1, 2, 3])) == entries
    assert [entry.document for entry in entries] == read and again.versions("a") == [1, 3]
    again.rewrite([1, 2], {2: Totals(tokens=4)})
    assert again.history() == [1, 2] and again.entry(2).totals == Totals(tokens=4) and not again.entry(3).active
    again.forget([2, 3], {})
    assert again.append(read[1], totals).seq == 4
    assert again.history() == [1, 4] and again.forgotten() == {2, 3} and again.verify() == []
    with pytest.raises(DriftError, match="document 3 is not what was read"):
        again.entry(3)


def test_nothing_of_what_was_forgotten_is_left_in_the_file(journal: Journal) -> None:
    """Rows of many sizes, which SQLite moves from page to page; no id, time or text that is gone has a byte there."""
    chance, numbers, held = random.Random(0), iter(range(100_000, 200_000)), dict[int, int]()
    for _ in range(6):
        for number in [next(numbers) for _ in range(chance.choice((1, 5, 40)))]:
            text = f"TEXT{number} " * chance.choice((1, 3, 20, 200, 900))
            held[
                journal.append(Document(f"{chance.getrandbits(32):08x}ID{number}", text, f"TIME{number}"), Totals()).seq
            ] = number
        gone = chance.sample(sorted(held), min(len(held), chance.choice((1, 10, 30))))
        journal.forget(gone, {})
        for seq in gone:
            del held[seq]
        journal.wipe()
        data = b"".join(path.read_bytes() for path in journal.path.parent.iterdir())
        there = {int(found) for found in re.findall(rb"(?:TEXT|ID|TIME)(\d{6})", data)}
        assert there == set(held.values())
    assert journal.verify() == [] and journal.history() == sorted(held)
