"""Documents too large to hold: refused, or cut into pieces."""

import io
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftlm.streams import documents
from driftlm.streams.documents import read_documents
from tests.support.document_files import give_stdin, line, read, refusal

# Large documents ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LARGEST_DOCUMENT", 5000)
    monkeypatch.setattr(documents, "LONGEST_LINE", 31_000)


@pytest.mark.usefixtures("small_limits")
def test_a_large_document_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("é" * 2500)
    assert len(read(tmp_path / "a.txt")[0].text) == 2500
    (tmp_path / "a.txt").write_text("é" * 2501)
    message = refusal(lambda: read_documents([str(tmp_path / "a.txt")]))
    assert f"{tmp_path / 'a.txt'}: the document is over" in message
    assert "`Stream.piece` BYTES" in message
    (tmp_path / "a.jsonl").write_text(line(text="a") + line(text="é" * 2501))
    message = refusal(lambda: read(tmp_path / "a.jsonl"))
    assert "line 2" in message
    assert "`Stream.piece` BYTES" in message
    give_stdin(monkeypatch, b"x" * 5001)
    assert "`Stream.piece` BYTES" in refusal(lambda: read("-"))


@pytest.mark.usefixtures("small_limits")
def test_a_giant_line_is_refused_before_it_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            buffer[:] = b"x" * len(buffer)
            self.given += len(buffer)
            return len(buffer)

    source = Endless()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(source)))
    message = refusal(lambda: read("-", stdin="jsonl", piece=1024))
    assert "line 1" in message
    assert "divide its text" in message
    assert source.given < 100_000


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("aé€😀\r\n"), min_size=300, max_size=3000), st.integers(1024, 1030))
def test_pieces_join_to_the_whole(tmp_path: Path, text: str, piece: int) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "a.jsonl").write_text(line(id="j", text=text, date="1854"))
    for name, base in (("a.txt", str(tmp_path / "a.txt")), ("a.jsonl", "j")):
        found = read(tmp_path / name, piece=piece)
        assert "".join(d.text for d in found) == text
        sizes = [len(d.text.encode()) for d in found]
        assert max(sizes) <= piece
        assert all(size > piece - 4 for size in sizes[:-1])
        assert [d.id for d in found] == ([base] if len(found) == 1 else [f"{base}#{n + 1}" for n in range(len(found))])
        assert {d.time for d in found} == {None if name == "a.txt" else "1854"}


def test_an_escaped_nul_survives_the_cut(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line(text="\0" * 3000))
    assert "".join(d.text for d in read(tmp_path / "a.jsonl", piece=1024)) == "\0" * 3000


def test_a_wrong_byte_behind_a_cut_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("é".encode() * 50_000 + b"a\xe9")
    stream = read_documents([str(tmp_path / "a.txt")], piece=1025)
    assert "byte offset 100001" in refusal(lambda: list(stream))


@pytest.mark.parametrize("piece", [0, -1, 1023, 64_000_001])
def test_a_piece_of_no_sensible_size_is_refused(piece: int) -> None:
    message = refusal(lambda: read_documents(["-"], piece=piece))
    assert f"`Stream.piece` {piece}" in message
    assert "1024" in message
