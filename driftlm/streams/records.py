"""Lines of JSON as records, and their fields as text; every refusal names the place."""

import codecs
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from driftlm.core.errors import DriftError

# In this order: the UTF-16 mark begins the UTF-32 one.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_records(
    stream: io.BufferedIOBase, name: str, longest: int, instead: str = ""
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    r"""Yield numbers, from 1, and objects of lines of JSON; the last line may be blank.

    Args:
        stream: the lines, in UTF-8.
        name: of the file, for refusals.
        longest: bytes that a line may have.
        instead: what to do with a longer one, besides dividing its text.

    >>> list(read_records(io.BytesIO(b'{"a": 1}\n{"a": 2}\n'), "a.jsonl", 100))
    [(1, {'a': 1}), (2, {'a': 2})]
    """
    number, blank = 0, False
    while True:
        number, where = number + 1, f"{name}, line {number + 1}"
        with readable(where):
            line = stream.readline(longest + 1)
        if not line:
            return
        if blank:
            raise DriftError(f"{name}, line {number - 1}: the line is blank; every line must hold one JSON object")
        if len(line) > longest:
            raise DriftError(
                f"{where}: the line is over {longest // 1_000_000} MB; divide its text over several lines{instead}"
            )
        refuse_binary(line, where)
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)  # part of no text here
        blank = not line.strip()
        if not blank:
            yield number, parsed(line, where)


def parsed(line: bytes, where: str) -> Mapping[str, Any]:
    """Return the object in a line."""
    try:
        record = json.loads(line.rstrip(b"\r\n").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DriftError(
            f"{where}: not UTF-8 at byte offset {error.start} of the line; convert the file with "
            "`iconv -f latin1 -t utf-8` or from the encoding it has"
        ) from error
    except json.JSONDecodeError as error:
        raise DriftError(
            f"{where}, column {error.pos + 1}: not valid JSON ({error.msg}); every line must hold one whole JSON "
            "object: correct or delete this one"
        ) from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, thousands of brackets
        raise DriftError(f"{where}: JSON that cannot be read ({error}); correct or delete the line") from error
    if not isinstance(record, dict):
        raise DriftError(f'{where}: JSON but not an object; write the line as one, such as {{"text": "…"}}')
    return record


def label(record: Mapping[str, Any], fields: Sequence[str], where: str) -> str:
    """Return the first of these short fields that is filled in, as a string; null and the empty string are as good as
    absent.

    >>> label({"id": None, "date": 1854}, ("id", "date"), "line 1")
    '1854'
    """
    for field in fields:
        value = record.get(field)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DriftError(
                f"{where}: `{field}` is {kind(value)} and must be a string or a number; correct it or leave it out"
            )
        return string(str(value), field, where)
    return ""


def string(value: object, field: str, where: str) -> str:
    """Return the value, which has to be a string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise DriftError(f"{where}: `{field}` is {kind(value)} and must be a string; correct or delete it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DriftError(
            f"{where}: `{field}` has half a surrogate pair (\\u{ord(value[error.start]):04x}) at character "
            f"{error.start + 1}, which is no character in UTF-8; delete it or write the pair whole"
        ) from error
    return value


def kind(value: object) -> str:
    """Return what it is, for a message."""
    return "null" if value is None else type(value).__name__


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Say what goes wrong with a file that is read as `DriftError`."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DriftError(
            f"{where}: the compressed data is broken or cut short here or soon after ({error}); check the file with "
            "`gzip -t` or `xz -t` and get it again"
        ) from error
    except OSError as error:
        raise DriftError(
            f"{where}: cannot be read ({error.strerror or error}); check the disk and the permissions"
        ) from error


def refuse_binary(data: bytes, where: str, offset: int = 0) -> None:
    """Refuse bytes that are no UTF-8 text, and say which they seem to be."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if offset == 0 and data.startswith(mark):
            raise DriftError(
                f"{where}: {encoding} (its byte order mark stands at byte offset 0) where UTF-8 is expected; convert "
                f"it with `iconv -f {encoding.lower()} -t utf-8`"
            )
    if (at := data.find(0)) >= 0:
        raise DriftError(
            f"{where}: a binary file (NUL at byte offset {offset + at}) where UTF-8 text is expected; give its text, "
            "or if it is UTF-16 convert it with `iconv -f utf-16 -t utf-8`"
        )
