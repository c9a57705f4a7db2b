"""Documents come out as they stand in the source; bad input is refused in one sentence that names the place."""

import gzip
import io
import json
import lzma
import os
import random
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftlm.streams.documents import Document, read_documents
from tests.support.document_files import give_stdin, line, read, refusal

# What is read ---------------------------------------------------------------------------------------------------------


def test_a_text_file_is_one_document_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff  Ä\r\nb\rc\n\n ".encode())
    assert read(path) == [Document(str(path), "\ufeff  Ä\r\nb\rc\n\n ", None)]


def test_whitespace_alone_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" ")
    (tmp_path / "a.jsonl").write_text(line(text="\n"))
    assert [d.text for d in read(tmp_path)] == ["\n", " "]


@pytest.mark.parametrize("name", ["README.md", "code.py", "notes", "UPPER.TXT"])
def test_any_other_name_is_read_as_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x = 1\n")
    assert read(tmp_path / name)[0].text == "x = 1\n"


def test_a_json_line_has_a_text_and_perhaps_an_id_and_a_date(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        line(id="x", text="one", date="1993-02-03", more=[1])
        + line(id=7, text="two", time=1854)
        + line(id=None, text="three", date=None)
        + line(id="", text="four", date="")
        + line(text="nul \0 as an escape")
        + "\n"
    )
    assert read(path) == [
        Document("x", "one", "1993-02-03"),
        Document("7", "two", "1854"),
        Document(f"{path}:3", "three"),
        Document(f"{path}:4", "four"),
        Document(f"{path}:5", "nul \0 as an escape"),
    ]


def test_json_lines_of_windows_and_without_a_last_line_break(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two \\r\\n"}')
    assert [d.text for d in read(tmp_path / "a.jsonl")] == ["one", "two \r\n"]


def test_a_folder_is_read_in_the_order_of_relative_paths(tmp_path: Path) -> None:
    for name in (
        "b.txt",
        "a/z.txt",
        "a/B.jsonl",
        "a.txt",
        "a/c/d.jsonl.gz",
        "e.jsonl.xz",
        "skipped.md",
        "a/skipped.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        opened = gzip.open if name.endswith(".gz") else lzma.open if name.endswith(".xz") else open
        with opened(tmp_path / name, "wt") as file:
            file.write(line(text=name) if "jsonl" in name else name)
    found = read(tmp_path)
    assert [d.text for d in found] == ["a.txt", "a/B.jsonl", "a/c/d.jsonl.gz", "a/z.txt", "b.txt", "e.jsonl.xz"]
    assert found[0].id == f"{tmp_path}/a.txt"
    assert found[1].id == f"{tmp_path}/a/B.jsonl:1"


def test_standard_input_is_text_or_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    give_stdin(monkeypatch, "eins\r\n€".encode())
    assert read("-") == [Document("stdin", "eins\r\n€")]
    give_stdin(monkeypatch, (line(text="one") + line(text="two", id=2)).encode())
    assert read("-", stdin="jsonl") == [Document("stdin:1", "one"), Document("2", "two")]


def test_a_file_name_that_is_not_utf8_gives_an_id_that_can_be_written(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.txt")
    try:
        Path(path).write_text("x")
    except OSError:
        pytest.skip("this file system takes no such name")
    assert read(path)[0].id.encode().endswith(rb"\xe9.txt")


texts = st.text(st.characters(codec="utf-8"), min_size=1)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(texts, st.none() | texts, st.none() | texts), min_size=1, max_size=5), st.booleans())
def test_any_unicode_survives_every_format(
    tmp_path: Path, written: list[tuple[str, str | None, str | None]], escaped: bool
) -> None:
    records = [{"text": text, "id": name, "date": date} for text, name, date in written]
    data = "".join(json.dumps(record, ensure_ascii=escaped) + "\n" for record in records).encode()
    for name, opened in (("a.jsonl", open), ("a.jsonl.gz", gzip.open), ("a.jsonl.xz", lzma.open)):
        path = tmp_path / name
        with opened(path, "wb") as file:
            file.write(data)
        expected = [Document(name or f"{path}:{n}", text, date) for n, (text, name, date) in enumerate(written, 1)]
        assert read(path) == expected
    text = written[0][0].replace("\0", "")
    if text:
        (tmp_path / "a.txt").write_bytes(text.encode())
        assert read(tmp_path / "a.txt")[0].text == text


# What is refused ------------------------------------------------------------------------------------------------------

GOOD = line(text="good").encode()

BAD_FILES = {
    "missing": ("no.txt", None, ["no such file", "check the path"]),
    "empty text": ("a.txt", b"", ["empty", "leave it out"]),
    "empty lines": ("a.jsonl", b"", ["empty", "leave it out"]),
    "empty gzip": ("a.jsonl.gz", gzip.compress(b""), ["empty", "leave it out"]),
    "only a line break": ("a.jsonl", b"\n", ["no document", "leave it out"]),
    "Latin-1": ("a.txt", b"caf\xe9 noir", ["byte offset 3", "iconv -f latin1 -t utf-8"]),
    "Latin-1 far in": ("a.txt", "é".encode() * 100_000 + b"\xe9", ["byte offset 200000", "iconv"]),
    "a character cut off": ("a.txt", "a€".encode()[:-1], ["byte offset 1", "iconv"]),
    "Latin-1 line": ("a.jsonl", GOOD + b'{"text": "caf\xe9"}\n', ["line 2", "byte offset 13", "iconv"]),
    "UTF-16": ("a.txt", "text".encode("utf-16"), ["UTF-16", "byte offset 0", "iconv -f utf-16 -t utf-8"]),
    "UTF-16 lines": ("a.jsonl", GOOD.decode().encode("utf-16"), ["UTF-16", "byte offset 0", "iconv -f utf-16"]),
    "UTF-32": ("a.txt", "text".encode("utf-32"), ["UTF-32", "byte offset 0", "iconv -f utf-32 -t utf-8"]),
    "binary": ("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ["binary", "byte offset 8", "give its text"]),
    "binary far in": ("a.txt", b"x" * 100_000 + b"\0", ["binary", "byte offset 100000", "give its text"]),
    "binary line": ("a.jsonl", GOOD * 9000 + b'{"text": "\0"}', ["line 9001", "binary", "byte offset 10"]),
    "no text": ("a.jsonl", GOOD + line(title="t").encode(), ["line 2", 'among ["title"]', "put the document's text"]),
    "text is a number": ("a.jsonl", line(text=1).encode(), ["line 1", "`text` is int", "correct or delete"]),
    "text is null": ("a.jsonl", line(text=None).encode(), ["line 1", "`text` is null", "correct or delete"]),
    "text is empty": ("a.jsonl", GOOD + line(text="").encode(), ["line 2", "empty", "leave it out"]),
    "id is a list": ("a.jsonl", line(text="a", id=[1]).encode(), ["line 1", "`id` is list", "leave it out"]),
    "date is true": ("a.jsonl", line(text="a", date=True).encode(), ["line 1", "`date` is bool", "leave it out"]),
    "half a pair": ("a.jsonl", b'{"text": "a\\ud83d"}', ["line 1", "\\ud83d", "character 2", "delete it"]),
    "half a pair in the id": ("a.jsonl", b'{"text": "a", "id": "\\udc00"}', ["line 1", "`id`", "\\udc00", "delete"]),
    "not JSON": ("a.jsonl", GOOD + b'{"text": "a" "b"}\n', ["line 2", "column 14", "correct or delete"]),
    "cut off": ("a.jsonl", GOOD + b'{"text": "a', ["line 2", "column 10", "correct or delete"]),
    "an indented object": ("a.jsonl", b'{\n "text": "a"\n}', ["line 1", "column 2", "one whole JSON object"]),
    "not an object": ("a.jsonl", GOOD + b'["a"]\n', ["line 2", "not an object", "write the line as one"]),
    "deep": ("a.jsonl", b"[" * 100_000, ["line 1", "cannot be read", "correct or delete"]),
    "endless number": ("a.jsonl", b'{"id": ' + b"1" * 5000 + b"}", ["line 1", "cannot be read", "correct or delete"]),
    "a blank line within": ("a.jsonl", GOOD + b" \n" + GOOD, ["line 2", "blank", "one JSON object"]),
    "broken line in a gzip": ("a.jsonl.gz", gzip.compress(GOOD + b"{\n" + GOOD), ["line 2", "column 2", "correct"]),
    "not a gzip": ("a.jsonl.gz", GOOD, ["line 1", "broken", "gzip -t"]),
    "not an xz": ("a.jsonl.xz", GOOD, ["line 1", "broken", "xz -t"]),
    "gzip cut short": ("a.jsonl.gz", gzip.compress(GOOD * 3)[:-9], ["broken", "gzip -t", "get it again"]),
    "gzip with a wrong checksum": (
        "a.jsonl.gz",
        gzip.compress(GOOD)[:-8] + bytes(8),
        ["line 2", "broken", "CRC", "get it again"],
    ),
    "json": ("a.json", b'[{"text": "a"}]', ["one JSON value", "write a .jsonl file", "jq -c"]),
    "gzipped text": ("a.txt.gz", gzip.compress(b"a"), ["compressed", "unpack it"]),
    "zip": ("a.zip", b"PK", ["compressed", "unpack it"]),
}


@pytest.mark.parametrize(("name", "data", "parts"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_refused_by_place_and_remedy(
    tmp_path: Path, name: str, data: bytes | None, parts: list[str]
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    message = refusal(lambda: read(path))
    for part in (str(path), *parts):
        assert part in message


@pytest.mark.parametrize(
    ("data", "stdin", "parts"),
    [
        (b"", "text", ["empty"]),
        (b"", "jsonl", ["no document"]),
        (b"caf\xe9", "text", ["byte offset 3", "iconv"]),
        (b"\xff\xfea\0", "jsonl", ["line 1", "UTF-16", "iconv"]),
        (b"a\0", "text", ["binary", "byte offset 1"]),
        (GOOD + b"{", "jsonl", ["line 2", "column 2"]),
    ],
)
def test_bad_standard_input_is_refused(
    monkeypatch: pytest.MonkeyPatch, data: bytes, stdin: str, parts: list[str]
) -> None:
    give_stdin(monkeypatch, data)
    message = refusal(lambda: read("-", stdin=stdin))
    for part in ("standard input", *parts):
        assert part in message


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x")
    message = refusal(lambda: read(tmp_path))
    assert str(tmp_path) in message
    assert ".jsonl.gz" in message


def test_a_pipe_and_a_broken_link_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    assert "give - as the source" in refusal(lambda: read(tmp_path / "pipe.txt"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").symlink_to("nowhere")
    assert "folder/a.txt: no such file" in refusal(lambda: read(tmp_path / "folder"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("x")
    (tmp_path / "folder" / "a.txt").chmod(0)
    assert "a.txt: cannot be read (Permission denied)" in refusal(lambda: read(tmp_path / "folder"))
    (tmp_path / "folder").chmod(0)
    try:
        assert "make the folder readable" in refusal(lambda: read(tmp_path))
    finally:
        (tmp_path / "folder").chmod(0o700)


def test_a_name_with_a_line_break_stays_on_one_line(tmp_path: Path) -> None:
    assert r"a\nb.txt" in refusal(lambda: read(tmp_path / "a\nb.txt"))


def test_no_source_and_standard_input_twice_are_refused() -> None:
    assert "no source" in refusal(lambda: read_documents([]))
    assert "only once" in refusal(lambda: read_documents(["-", "-"]))


# When it is read ------------------------------------------------------------------------------------------------------


def test_all_sources_are_checked_before_the_first_document(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 noir")
    for bad in ("latin.txt", "missing.txt"):
        sources = [str(tmp_path / "good.txt"), str(tmp_path / bad)]
        assert bad in refusal(lambda sources=sources: read_documents(sources))  # type: ignore[misc]


def test_a_document_is_read_only_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("old")
    stream = read_documents([str(tmp_path)])
    assert next(stream).text == "old"
    (tmp_path / "b.txt").write_text("new")
    assert next(stream).text == "new"

    data = io.BytesIO(GOOD * 2)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data))
    stream = read_documents(["-"], stdin="jsonl")
    assert data.tell() == 0
    next(stream)
    assert data.tell() == len(GOOD)


@pytest.mark.parametrize(("name", "module"), [("a.jsonl.gz", gzip), ("a.jsonl.xz", lzma)])
def test_documents_before_a_break_are_read_and_then_the_break_is_named(
    tmp_path: Path, name: str, module: object
) -> None:
    rng = random.Random(0)
    lines = [line(id=n, text=rng.randbytes(500).hex()) for n in range(500)]
    whole = module.compress("".join(lines).encode())  # type: ignore[attr-defined]
    path = tmp_path / name

    def read_until_the_break(data: bytes) -> tuple[list[Document], str]:
        path.write_bytes(data)
        read: list[Document] = []
        message = refusal(lambda: read.extend(read_documents([str(path)])))
        return read, message

    cut, message = read_until_the_break(whole[: len(whole) // 2])
    assert 200 < len(cut) < 300
    assert f"{path}, line {len(cut) + 1}:" in message
    damaged, message = read_until_the_break(whole[:200_000] + bytes(100) + whole[200_100:])
    assert [json.loads(one)["text"] for one in lines[: len(damaged)]] == [d.text for d in damaged]
    assert len(damaged) > 200
    assert f"{path}, line {len(damaged) + 1}" in message


def test_memory_stays_flat_over_many_documents(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    block = "".join(line(text="It rained in Dorset. " * 200) for _ in range(1000))
    with path.open("w") as file:
        for _ in range(24):
            file.write(block)
    assert path.stat().st_size > 100_000_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_documents([str(path)])) == 24_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
