"""Bytes that come in any portions, as documents where lines end."""

import codecs
import hashlib
from collections.abc import Callable, Iterator

from driftlm.core.errors import DriftError
from driftlm.streams.documents import LONGEST_LINE, STDIN, Document, from_record, printable, shown
from driftlm.streams.records import parsed, refuse_binary
from driftlm.streams.tail.offsets import Offset

BLOCK = 4096  # bytes of a growing text, from which on the end of a line ends a document

Came = tuple[Document, Offset]
Say = Callable[[str], object]


class Source:
    """Something that is read while it grows.

    Attributes:
        ended: whether nothing can come any more.
        unsettled: files that may be whole soon.
    """

    ended = False
    unsettled = 0

    def look(self) -> Iterator[Came]:
        """Yield what came since the last look."""
        raise NotImplementedError

    def tell_left(self) -> None:
        """Say what came and is not read."""

    def close(self) -> None:
        """Close what nobody looks at any more."""


class Cut(Source):
    """Bytes that come in any portions, cut into documents where lines end."""

    def __init__(self, path: str, jsonl: bool, piece: int | None, say: Say) -> None:
        self.path, self.jsonl, self.piece, self.say = path, jsonl, piece, say
        self.mark, self.label = "", shown(path)  # the label is for messages
        self.begin(0)

    def begin(self, start: int, given: int = 0) -> None:
        """Go on at a byte, and leave out what it has given already."""
        self.start, self.given = start, given
        self.line: list[bytes] = []  # parts of one that has not ended
        self.block = b""  # lines that have, of a document that has not; begins at `start`

    def feed(self, chunk: bytes) -> Iterator[Came]:
        """Yield the documents that end with these bytes."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line = b"".join((*self.line, end, b"\n"))
            self.line = []
            blank = not line.strip()
            if blank or self.jsonl:
                yield from self.document()
            self.block += line
            if blank:
                self.start, self.block = self.start + len(self.block), b""
            elif self.jsonl or len(self.block) >= BLOCK:
                yield from self.document()
        if rest:
            self.line.append(rest)
            if sum(map(len, self.line)) > LONGEST_LINE:
                raise DriftError(f"{self.where()}: a line is over {LONGEST_LINE // 1_000_000} MB; divide its text.")

    def rest(self) -> Iterator[Came]:
        """Yield the last document, when no bytes come any more."""
        self.block, self.line = self.block + b"".join(self.line), []
        if not self.block.strip():
            return
        try:
            yield from self.document()
        except DriftError as error:
            if not self.jsonl:
                raise
            self.say(f"{error}: the last line, which was not finished, is left out")

    def where(self) -> str:
        """Say where this is, for refusals."""
        return f"{self.label}, byte {self.start}"

    def document(self) -> Iterator[Came]:
        """Yield what has come together, as a document or its pieces."""
        if not self.block:
            return
        raw, where = self.block, self.where()
        refuse_binary(raw, where)
        if self.jsonl:
            record = parsed(raw.removeprefix(codecs.BOM_UTF8), where)
        else:
            try:
                record = {"text": raw.decode()}
            except UnicodeDecodeError as error:
                raise DriftError(
                    f"{self.label}: not UTF-8 at byte offset {self.start + error.start}; let it be written in "
                    f"UTF-8, and convert what is there with `iconv -f latin1 -t utf-8`"
                ) from error
        name = "stdin" if self.path == STDIN else printable(self.path)
        named = f"{name}:{self.start}-{hashlib.sha256(raw).hexdigest()[:8]}"
        for number, document in enumerate(from_record(record, named, where, self.piece), 1):
            if number > self.given:
                yield document, Offset(self.path, self.mark, self.start, number)
        self.start, self.block, self.given = self.start + len(raw), b"", 0

    def tell_left(self) -> None:
        if held := len(self.block) + sum(map(len, self.line)):
            unit = "line" if self.jsonl else "paragraph"
            self.say(f"{self.label}: the last {held:,} bytes are not read, as their {unit} has not ended")
