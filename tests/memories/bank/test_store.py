"""The bank: what is added is given back, what is forgotten was never there, and what is damaged is named."""

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.bank.modulations import Addition, Facts, Modulations
from driftlm.memories.bank.store import BankStore
from tests.support.made_stores import FACTS, add, document


def equal(one: Modulations, other: Modulations) -> bool:
    same = one.ids == other.ids and torch.equal(one.owner, other.owner)
    pairs = ((one.vectors, other.vectors), (one.keys, other.keys), (one.timestamps, other.timestamps))
    return same and all(a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs)


def mapped(tensor: Tensor, path: Path) -> bool:
    """Whether its memory is the file's."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(number, 16) for number in line.split()[0].split("-"))
        if line.endswith(f" {path}") and begin <= tensor.data_ptr() < end:
            return True
    return False


@pytest.fixture
def bank(tmp_path: Path) -> Any:
    with BankStore.create(tmp_path / "bank", FACTS) as made:
        yield made


def segments(bank: BankStore) -> list[Path]:
    return sorted(bank.folder.glob("vectors-*"))


# ----------------------------------------------------------------------------------------------- adding, forgetting


def test_what_is_added_is_given_back(bank: BankStore) -> None:
    one, two = document("a", 2, time="2024", timestamp=5.5), document("β \0", 3, time="x", timestamp=float("nan"))
    assert add(bank, one) == [True] and bank.add_many([two, document("none", 0)]) == [True, True]
    held = bank.matrices()
    assert torch.equal(held.vectors, torch.cat([one.vectors, two.vectors]))
    assert torch.equal(held.keys, torch.cat([one.keys, two.keys]))
    assert held.owner.tolist() == [0, 0, 1, 1, 1] and held.ids == ["a", "β \0", "none"] and held.documents == 3
    assert held.timestamps[:2].tolist() == [5.5, 5.5] and bool(held.timestamps[2:].isnan().all())
    entry = bank.show("a")
    assert (entry.text, entry.time, entry.timestamp, entry.parts) == (one.text, "2024", 5.5, 2)
    assert entry.bytes == len(one.text) + 2 * 4 * (2 * 3 + 4)
    assert bank.ls()[0] == entry and bank.show("β \0").timestamp is None and len(bank) == 3
    assert bank.holds("a", one.text, "2024") and not bank.holds("a", one.text, None)
    assert bank.verify() == []


def test_the_same_again_does_nothing_and_something_else_replaces(bank: BankStore) -> None:
    assert add(bank, document("a"), document("b"), document("a")) == [True, True, False]
    assert len(segments(bank)) == 2
    assert add(bank, document("a", 3, 1)) == [True]
    assert [entry.id for entry in bank.ls()] == ["b", "a"] and bank.show("a").parts == 3
    batch = [document("c"), document("c"), document("c", 1, 5), document("b")]
    assert bank.add_many(batch) == [True, False, True, False]
    assert bank.show("c").text == "text of c 5" and bank.verify() == []


@pytest.mark.parametrize("compacted", [False, True])
def test_forgotten_is_as_if_never_added(bank: BankStore, tmp_path: Path, compacted: bool) -> None:
    kept = [document(name, 1 + place, timestamp=float(place)) for place, name in enumerate("abc")]
    add(bank, kept[0], document("x", 2, timestamp=9.0), kept[1], kept[2], document("y", 1))
    bank.forget("x")
    bank.forget("y")
    if compacted:
        bank.compact()
    with BankStore.create(tmp_path / "never", FACTS) as never:
        add(never, *kept)
        assert bank.ls() == never.ls() and equal(bank.matrices(), never.matrices())
    with pytest.raises(DriftError, match="holds no document 'x'"):
        bank.forget("x")
    with pytest.raises(DriftError, match="holds no document 'x'"):
        bank.show("x")


def test_expired_are_those_of_timestamps_before(bank: BankStore) -> None:
    add(bank, document("a", timestamp=3.0), document("b"), document("c", timestamp=1.0), document("d", timestamp=2.0))
    assert bank.expire(3.0) == ["c", "d"] and bank.expire(3.0) == []
    assert [entry.id for entry in bank.ls()] == ["a", "b"]


def test_of_what_is_forgotten_no_byte_is_left(bank: BankStore) -> None:
    marked = document("a", 1, text="secretsecret " * 40)
    marked.vectors.fill_(12345.678)
    bytes_of = marked.vectors.numpy().tobytes()
    add(bank, *(document(f"n{number}", text=f"other {number} " * (number % 90)) for number in range(20)), marked)

    def found(what: bytes) -> bool:
        return any(what in path.read_bytes() for path in bank.folder.iterdir())

    assert found(b"secret") and found(bytes_of)
    bank.forget("a")
    assert not found(b"secret")
    (bank.folder / "vectors-00009999.safetensors.partial").write_bytes(b"orphan")
    bank.compact()
    assert not found(bytes_of) and not found(b"orphan") and len(segments(bank)) == 1
    before = segments(bank)
    bank.compact()
    assert segments(bank) == before and bank.verify() == []


def test_all_are_forgotten_or_none(bank: BankStore) -> None:
    add(bank, document("a"), document("b"))
    with pytest.raises(DriftError, match="holds no document 'x'"):
        bank.forget("a", "x")
    assert len(bank) == 2
    bank.forget("b", "a")
    assert len(bank) == 0


def test_an_empty_bank_has_empty_matrices(bank: BankStore) -> None:
    assert equal(bank.matrices(), Modulations.empty(2, 3, 4))
    add(bank, document("a"))
    bank.forget("a")
    bank.compact()
    assert equal(bank.matrices(), Modulations.empty(2, 3, 4)) and bank.verify() == [] and bank.add_many([]) == []


# ------------------------------------------------------------------------------------------------------ the matrices


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs a system that lists what is mapped")
def test_matrices_are_mapped_where_rows_stand_together(bank: BankStore) -> None:
    bank.add_many([document(name) for name in "abcd"])
    held, (file,) = bank.matrices(), segments(bank)
    assert mapped(held.vectors, file) and mapped(held.keys, file)
    held.vectors.zero_()  # of the copy in memory alone
    assert bank.verify() == [] and bool(bank.matrices().vectors.any())
    bank.forget("a")
    assert mapped(bank.matrices().vectors, file)
    bank.forget("c")
    scattered = bank.matrices()
    assert not mapped(scattered.vectors, file)
    bank.compact()
    compacted, (file,) = bank.matrices(), segments(bank)
    assert mapped(compacted.vectors, file) and mapped(compacted.keys, file) and equal(compacted, scattered)


def test_float16_is_given_back_as_kept(tmp_path: Path) -> None:
    facts = Facts(2, 3, 4, "first", "float16")
    one = document("a")
    with BankStore.create(tmp_path / "bank", facts) as bank:
        add(bank, one, document("b"))
        bank.compact()
        held = bank.matrices()
        assert held.vectors.dtype == held.keys.dtype == torch.float16
        assert torch.equal(held.vectors[:2], one.vectors.half()) and bank.verify() == []
        assert bank.show("a").bytes == len(one.text) + 2 * 2 * 10
        one.vectors[0, 0, 0] = 1e6
        with pytest.raises(DriftError, match=r"document 'c' has .* not finite in float16"):
            bank.add("c", "", None, None, one.vectors, one.keys)


def test_modulations_are_selected_and_joined(bank: BankStore) -> None:
    add(bank, document("a", 2), document("b", 3, timestamp=4.0))
    held = bank.matrices()
    chosen = held.select(torch.tensor([4, 0]))
    assert chosen.owner.tolist() == [1, 0] and chosen.ids == held.ids
    assert torch.equal(chosen.vectors, held.vectors[[4, 0]]) and chosen.timestamps[0] == 4
    last = held.select(held.owner == 1)
    joined = Modulations.cat([Modulations.empty(2, 3, 4), last, held.select(held.owner == 0)])
    assert joined.ids == ["a", "b"] and joined.owner.tolist() == [1, 1, 1, 0, 0]
    for wrong in ([], [held, Modulations.empty(2, 5, 4)]):
        with pytest.raises(DriftError, match="to be joined"):
            Modulations.cat(wrong)


@pytest.mark.slow
def test_a_hundred_thousand_open_within_a_second(tmp_path: Path) -> None:
    facts, number = Facts(8, 32, 32, "first"), 100_000
    vectors, keys = torch.randn(number, 1, 8, 32), torch.randn(number, 1, 32)
    text = "word " * 100
    with BankStore.create(tmp_path / "bank", facts) as bank:
        start = time.perf_counter()
        bank.add_many([Addition(f"doc{i}", f"{i} {text}", None, float(i), vectors[i], keys[i]) for i in range(number)])
        added = time.perf_counter() - start
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with BankStore.open(tmp_path / "bank", facts) as bank:
            held = bank.matrices()
        times.append(time.perf_counter() - start)
    assert torch.equal(held.vectors, vectors[:, 0]) and held.documents == number
    with BankStore.open(tmp_path / "bank") as bank:
        start = time.perf_counter()
        assert bank.verify() == []
        checked = time.perf_counter() - start
        bank.forget("doc7")
        start = time.perf_counter()
        bank.compact()
        compacted = time.perf_counter() - start
    print(
        f"100,000: open and map {max(times):.3f} s, add {added:.1f} s, verify {checked:.1f} s, compact {compacted:.1f}"
    )
    assert max(times) < 1


# ------------------------------------------------------------------------------------------------------------ damage


def changed(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def place_of(path: Path, name: str, row: int) -> int:
    """Where a row's first byte is in a segment."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))[name]
    return 8 + length + header["data_offsets"][0] + row * 4 * {"vectors": 6, "keys": 4}[name]


@pytest.mark.parametrize("name", ["vectors", "keys"])
def test_a_changed_row_is_named(bank: BankStore, name: str) -> None:
    bank.add_many([document("a"), document("b"), document("c")])
    (file,) = segments(bank)
    changed(file, place_of(file, name, 3))
    assert bank.verify() == [f"{file.name}: rows of document 'b' are not what was added"]
    bank.forget("a")
    bank.compact()  # does not make damage look sound
    (file,) = segments(bank)
    assert bank.verify() == [f"{file.name}: rows of document 'b' are not what was added"]


@pytest.mark.parametrize(("damage", "word"), [("cut", "torn"), ("removed", "missing"), ("swapped", "other shapes")])
def test_a_lost_segment_is_named(bank: BankStore, damage: str, word: str) -> None:
    add(bank, document("a"), document("b", 3))
    first, second = segments(bank)
    if damage == "cut":
        second.write_bytes(second.read_bytes()[:-1])
    elif damage == "removed":
        second.unlink()
    else:
        second.write_bytes(first.read_bytes())
    (problem,) = bank.verify()
    assert problem.startswith(second.name) and word in problem and "document 'b'" in problem
    for refused in (bank.matrices, bank.compact):
        with pytest.raises(DriftError, match=f"{second.name} .*{word}"):
            refused()
    bank.forget("b")
    assert bank.verify() == [] and bank.matrices().ids == ["a"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("UPDATE contents SET text = 'other' WHERE number = 2", ["text or time"]),
        ("UPDATE contents SET time = '1999' WHERE number = 2", ["text or time"]),
        ("UPDATE contents SET text = CAST(x'ff' AS TEXT) WHERE number = 2", ["text or time"]),
        ("UPDATE documents SET moment = 1.0 WHERE number = 2", ["record"]),
        ("UPDATE documents SET first = 1 WHERE number = 2", ["rows"]),
        ("UPDATE documents SET segment = 77 WHERE number = 2", ["missing"]),
        ("UPDATE contents SET rows = 'nothing' WHERE number = 2", ["record", "rows"]),
        ("DELETE FROM contents WHERE number = 2", ["text or time", "record", "rows"]),
    ],
)
def test_a_changed_record_is_named(bank: BankStore, change: str, what: list[str]) -> None:
    bank.add_many([document("a"), document("b"), document("c")])
    other = sqlite3.connect(bank.folder / "bank.sqlite")
    with other:
        other.execute(change)
    other.close()
    problems = bank.verify()
    assert len(problems) == len(what)
    assert all(word in problem and "document 'b'" in problem for word, problem in zip(what, problems))


def test_text_changed_in_the_file_is_named(bank: BankStore) -> None:
    add(bank, document("a"), document("b", text="unmistakable"))
    file = bank.folder / "bank.sqlite"
    changed(file, file.read_bytes().index(b"unmistakable"))
    with BankStore.open(bank.folder) as again:
        assert again.verify() == ["bank.sqlite: text or time of document 'b' is not what was added"]


def test_a_torn_database_is_named(bank: BankStore) -> None:
    bank.add_many([document(f"n{number}", text="long " * 300) for number in range(60)])
    bank.close()
    file = bank.folder / "bank.sqlite"
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes(4096 * 3) + whole[middle + 4096 * 3 :])
    with BankStore.open(bank.folder) as again:
        assert any("bank.sqlite" in problem for problem in again.verify())
    for torn in (whole[:middle], whole[:1000], b"x" * len(whole)):
        file.write_bytes(torn)
        with pytest.raises(DriftError, match=r"bank\.sqlite is damaged .*put it back"):
            BankStore.open(bank.folder)


# ---------------------------------------------------------------------------------------------------------- refusals


def test_what_is_no_bank_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    connection = sqlite3.connect(other / "bank.sqlite")
    connection.execute("CREATE TABLE facts (name, value)")
    connection.close()
    for folder in (tmp_path, tmp_path / "absent", other):
        with pytest.raises(DriftError, match=f"{folder} holds no bank; give the folder of one"):
            BankStore.open(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(DriftError, match="cannot be read or written"):
        BankStore.create(tmp_path / "file", FACTS)
    with pytest.raises(DriftError, match="no bank can be made for"):
        BankStore.create(tmp_path / "bank", Facts(2, 3, 0, "first"))


def test_other_networks_and_newer_formats_are_refused(bank: BankStore) -> None:
    for other in (Facts(2, 3, 4, "second"), Facts(2, 3, 4, "first", "float16"), Facts(2, 3, 5, "first")):
        with pytest.raises(
            DriftError, match="was made with other networks .* give its own with `MemorySettings.networks`"
        ):
            BankStore.open(bank.folder, other)
    with BankStore.open(bank.folder, FACTS) as again:
        assert again.facts == FACTS
    with pytest.raises(DriftError, match="holds a bank already"):
        BankStore.create(bank.folder, FACTS)
    bank.database.execute("PRAGMA user_version = 2")
    with pytest.raises(DriftError, match="is of format 2, this driftlm reads 1; upgrade driftlm"):
        BankStore.open(bank.folder)


def test_what_does_not_fit_is_refused_and_nothing_is_kept(bank: BankStore) -> None:
    good, bad = document("a"), document("b")
    for vectors, keys, said in (
        (bad.vectors[:1], bad.keys, r"'b' has vectors \(1, 2, 3\) and keys \(2, 4\), but the bank keeps \(2, 2, 3\)"),
        (bad.vectors, bad.keys[0], "encode it with the bank's networks"),
        (bad.vectors * float("nan"), bad.keys, "not finite"),
    ):
        with pytest.raises(DriftError, match=said):
            bank.add_many([good, Addition("b", "", None, None, vectors, keys)])
    with pytest.raises(DriftError, match="half a surrogate pair"):
        add(bank, document("b", text="\ud800"))
    assert len(bank) == 0 and segments(bank) == []


def test_a_reader_keeps_what_it_mapped_while_another_compacts(bank: BankStore) -> None:
    bank.add_many([document("a"), document("b")])
    held = bank.matrices()
    with BankStore.open(bank.folder) as second:
        second.forget("a")
        second.compact()
        with safe_open(segments(second)[0], "pt") as file:
            assert torch.equal(held.vectors[2:], file.get_tensor("vectors"))
    assert torch.equal(bank.matrices().vectors, held.vectors[2:])
