"""Text in: files, folders, JSONL, standard input and datasets become documents, one at a time."""

import codecs
import gzip
import io
import json
import lzma
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, cast

from driftlm.core.errors import DriftError
from driftlm.streams.datasets import open_dataset
from driftlm.streams.records import label, read_records, readable, refuse_binary, string

LARGEST_DOCUMENT = 64_000_000
"""Bytes of UTF-8 one document may have: it is tokenized whole, so memory grows with it."""
SMALLEST_PIECE = 1024
LONGEST_LINE = 6 * LARGEST_DOCUMENT + 1_000_000
r"""Bytes a line of JSON may have: the largest document with every byte escaped as \uXXXX, and its other fields."""

STDIN = "-"
DATASET = "dataset:"
JSONL = (".jsonl", ".jsonl.gz", ".jsonl.xz")
IN_FOLDERS = (".txt", *JSONL)
REFUSED = dict.fromkeys(
    (".gz", ".xz", ".bz2", ".zst", ".zip"), "is compressed; unpack it, or give .jsonl.gz or .jsonl.xz"
)
REFUSED[".json"] = "is one JSON value; write a .jsonl file with one object per line, from a list by `jq -c '.[]'`"


@dataclass(frozen=True)
class Document:
    """A text with its id and, where known, its time (as the source writes it).

    >>> Document("a.txt", "It rained.").time is None
    True
    """

    id: str
    text: str
    time: str | None = None


def read_documents(
    sources: Sequence[str], *, stdin: Literal["text", "jsonl"] = "text", piece: int | None = None
) -> Iterator[Document]:
    r"""Check all `sources` at once, then give their documents lazily; `DriftError` names the file and line or byte.

    A source is a text file (id: the path as given), a `.jsonl`, `.jsonl.gz` or `.jsonl.xz` file (`text`, optional
    `id`, else `file:line`, optional `date` or `time`), a folder (every `.txt` and JSONL file below it, in the order of
    the relative paths; links to folders are not followed), `-` for standard input (one document `stdin`, or JSON
    lines) or `dataset:NAME?split=train&text=text` (see `open_dataset`). Text stands as it is: no newline translation,
    no stripping, a UTF-8 byte order mark is part of the text.

    A document over 64 MB is refused. With `piece`, one of more than `piece` bytes is cut between characters into
    documents `id#1`, `id#2`, … of at most that many: each is a document of its own, so neither context nor tokens
    cross the cut, and scores differ from those of the whole.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "news.jsonl")
    >>> _ = path.write_text('{"id": 7, "text": "It rained.", "date": 1854}\n')
    >>> next(read_documents([str(path)]))
    Document(id='7', text='It rained.', time='1854')
    """
    if piece is not None and not SMALLEST_PIECE <= piece <= LARGEST_DOCUMENT:
        raise DriftError(
            f"`Stream.piece` {piece}: expected {SMALLEST_PIECE} to {LARGEST_DOCUMENT} bytes; give such a number"
        )
    sources = [sources] if isinstance(sources, str) else sources  # a lone path would be read letter by letter
    if not sources:
        raise DriftError("no source was given; name a .txt or .jsonl file, a folder, or - for standard input")
    if list(sources).count(STDIN) > 1:
        raise DriftError("- is given twice and standard input can be read only once; give it once")
    # Listing the generators runs the checks and reads no document.
    return chain.from_iterable([read for source in sources for read in _opened(source, stdin, piece)])


def _opened(source: str, stdin: str, piece: int | None) -> Iterator[Iterator[Document]]:
    """Check one source and give what reads it: one iterator a file."""
    if source.startswith(DATASET):
        yield _read_rows(source, open_dataset(source.removeprefix(DATASET)), piece)
    elif source == STDIN:
        yield (_read_jsonl if stdin == "jsonl" else _read_text)(STDIN, piece)
    elif os.path.isdir(source):
        paths = files_below(source)
        if not paths:
            raise DriftError(f"{shown(source)}: the folder has no {', '.join(IN_FOLDERS)} file; name its files")
        for path in paths:
            yield _opened_file(path, piece)
    else:
        yield _opened_file(source, piece)


def files_below(folder: str) -> list[str]:
    """Return the paths of the text and JSONL files below a folder, in the order of the relative paths; runs are left
    out.
    """

    def refuse(error: OSError) -> None:
        raise DriftError(f"{shown(error.filename)}: {error.strerror}; make the folder readable") from error

    relative = []
    for parent, below, names in os.walk(folder, onerror=refuse):
        if {"config.json", "windows.jsonl"} <= set(names):  # a run of driftlm is no text to read
            below.clear()
            continue
        relative += [
            os.path.relpath(os.path.join(parent, name), folder) for name in names if name.lower().endswith(IN_FOLDERS)
        ]
    return [os.path.join(folder, path) for path in sorted(relative)]


def _opened_file(path: str, piece: int | None) -> Iterator[Document]:
    name, is_jsonl = shown(path), path.lower().endswith(JSONL)
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise DriftError(f"{name}: no such file or folder; check the path, or use - for standard input") from error
    except OSError as error:
        raise DriftError(f"{name}: {error.strerror}; check the path and its permissions") from error
    if not stat.S_ISREG(found.st_mode):
        raise DriftError(f"{name}: neither a file nor a folder; pipe its text in and give - as the source")
    if not is_jsonl and (why := REFUSED.get(os.path.splitext(path.lower())[1])):
        raise DriftError(f"{name}: the file {why}")
    with _open(path) as stream:
        with readable(f"{name}, line 1" if is_jsonl else name):
            head = stream.read1(65536)  # not `read`: what comes before a break in a compressed file is good
        if not head:
            raise DriftError(f"{name}: the file is empty; give one that holds text, or leave it out")
        if is_jsonl:
            refuse_binary(head, name)
        else:
            next(_decoded(io.BytesIO(head), len(head), name))
    if not is_jsonl and piece is None and found.st_size > LARGEST_DOCUMENT:
        raise _too_large(name)
    return (_read_jsonl if is_jsonl else _read_text)(path, piece)


def _read_text(path: str, piece: int | None) -> Iterator[Document]:
    name = shown(path)
    with _open(path) as stream:
        parts = _decoded(stream, piece or LARGEST_DOCUMENT, name)
        yield from _documents("stdin" if path == STDIN else printable(path), parts, None, name, piece)


def _read_jsonl(path: str, piece: int | None) -> Iterator[Document]:
    name, file_id = shown(path), "stdin" if path == STDIN else printable(path)
    number = 0
    with _open(path) as stream:
        for number, record in read_records(
            stream, name, LONGEST_LINE, ", or save it as .txt and give `Stream.piece` BYTES"
        ):
            yield from from_record(record, f"{file_id}:{number}", f"{name}, line {number}", piece)
    if not number:
        raise DriftError(f"{name}: no document in it; give one JSON object with a text per line, or leave it out")


def _read_rows(source: str, rows: Iterator[Mapping[str, Any]], piece: int | None) -> Iterator[Document]:
    file_id = printable(source.removeprefix(DATASET).partition("?")[0])
    number = 0
    for number, row in enumerate(rows, 1):
        yield from from_record(row, f"{file_id}:{number}", f"{shown(source)}, row {number}", piece)
    if not number:
        raise DriftError(f"{shown(source)}: the dataset has no row; check its split")


def from_record(record: Mapping[str, Any], default_id: str, where: str, piece: int | None) -> Iterator[Document]:
    """Yield the document that an object holds, or its pieces; `where` it stands is said in refusals."""
    if "text" not in record:
        fields = json.dumps(list(record))[:80]
        raise DriftError(f"{where}: no field `text` among {fields}; put the document's text into one of that name")
    text = string(record["text"], "text", where)
    document_id = label(record, ("id",), where) or default_id
    time = label(record, ("date", "time"), where) or None
    size, encoded = piece or LARGEST_DOCUMENT, text.encode()
    # What can be encoded decodes, and an escaped NUL is a character like another: no name to refuse it by.
    parts = iter([text]) if 0 < len(encoded) <= size else _decoded(io.BytesIO(encoded), size, None)
    yield from _documents(document_id, parts, time, where, piece)


def _documents(
    document_id: str, parts: Iterator[str], time: str | None, where: str, piece: int | None
) -> Iterator[Document]:
    """Yield the document whose text is all `parts`: whole when there is one part, else in pieces where they are
    allowed.
    """
    first, second = next(parts, None), next(parts, None)
    if first is None:
        raise DriftError(f"{where}: the text is empty; give the document some text, or leave it out")
    if second is None:
        yield Document(document_id, first, time)
    elif piece is None:
        raise _too_large(where)
    else:
        for number, text in enumerate(chain((first, second), parts), 1):
            yield Document(f"{document_id}#{number}", text, time)


def _decoded(stream: io.BufferedIOBase, size: int, name: str | None) -> Iterator[str]:
    """Decode UTF-8 in runs of at most `size` bytes that end between characters; without a `name` refuse nothing."""
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    while True:
        held = len(decoder.getstate()[0])  # bytes of a character that the last run cut
        with readable(name or ""):
            chunk = stream.read(size - held)
        if name is not None:
            refuse_binary(chunk, name, offset + held)
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise DriftError(
                f"{name}: not UTF-8 at byte offset {offset + error.start}; convert the file with "
                "`iconv -f latin1 -t utf-8` or from the encoding it has"
            ) from error
        if text:
            yield text
        if not chunk:
            return
        offset += held + len(chunk) - len(decoder.getstate()[0])


def _open(path: str) -> AbstractContextManager[io.BufferedIOBase]:
    if path == STDIN:
        return nullcontext(cast(io.BufferedIOBase, sys.stdin.buffer))
    with readable(shown(path)):
        if path.lower().endswith(".gz"):
            return gzip.open(path, "rb")
        if path.lower().endswith(".xz"):
            return lzma.open(path, "rb")
        return open(path, "rb")


def _too_large(where: str) -> DriftError:
    return DriftError(
        f"{where}: the document is over {LARGEST_DOCUMENT // 1_000_000} MB; give `Stream.piece` BYTES (at least "
        f"{SMALLEST_PIECE}) to cut it into documents of its own"
    )


def printable(path: str) -> str:
    """Return a path as text that can be written as UTF-8, also where the file system holds other bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def shown(name: str) -> str:
    """Return a name fit for one line of a message."""
    return "standard input" if name == STDIN else name if name.isprintable() else repr(name)
