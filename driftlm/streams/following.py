"""Files that grow, folders that fill and pipes that go on, as documents as soon as they are whole.

Sources are looked at twice a second: a `stat` a file, which every file system answers. What the kernel tells of changes
(inotify) says nothing of files that another machine writes on a shared disk, and it counts its watches.
"""

import codecs
import hashlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

from driftlm.errors import DriftError
from driftlm.streams.documents import (
    DATASET,
    JSONL,
    LONGEST_LINE,
    REFUSED,
    SMALLEST_PIECE,
    STDIN,
    Document,
    files_below,
    from_record,
    printable,
    read_documents,
    shown,
)
from driftlm.streams.followed import Place
from driftlm.streams.records import parsed, readable, refuse_binary

INTERVAL = 0.5  # seconds between two looks
SETTLED = 1.0  # seconds for which a file in a folder must not have changed, to be whole
BLOCK = 4096  # bytes of a growing text, from which on the end of a line ends a document
CHUNK = 1 << 20  # bytes that are read at a time

Came = tuple[Document, Place]
Say = Callable[[str], object]


class Following:
    """Documents of sources that are not finished, as they come; `DriftError` names the file and byte of a bad one.

    - A `.jsonl` file that grows: every whole line is a document; blank lines are none.
    - Any other file that grows, and text on standard input: paragraphs. A document ends before a blank line, or
      behind the first line with which it has 4,096 bytes (a log has no blank lines). Blank lines belong to none.
    - A folder: every `.txt` and JSONL file below it that comes, read as a whole once its size and time have stood
      still for a second; names that begin with a dot are left alone, so that a slow writer can use one and rename.
      They come in the order in which they were found whole, together found ones by the time of their last change.

    What stands there already comes first. A last line or paragraph that is not ended waits. A file that is replaced is
    read to its end, and then the new one from its beginning, as is one that was cut off; both is said.

    Documents without an id of their own are named `FILE:BYTE-HASH`: where they begin and 8 hexadecimal digits of their
    SHA-256, so that those of a rotated log differ; a file in a folder has the ids of `read_documents`.

    Args:
        sources: files, folders, or `-`.
        stdin: what standard input holds.
        piece: as of `read_documents`.
        idle: seconds without a document after which it ends; None for never.
        versions: read a file of a folder again when it changed; else only say so.
        places: how far they were read before.
        say: gets a sentence when a source is not what it was, and when something at its end is not read.

    Attributes:
        place: how far, with the document that was given last.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     feed = Path(folder, "feed.jsonl")
    ...     _ = feed.write_text('{"id": "a", "text": "It rained."}\\n{"id": "b", "te')
    ...     [document.id for document in Following([str(feed)], idle=0)]
    ['a']
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        stdin: Literal["text", "jsonl"] = "text",
        piece: int | None = None,
        idle: float | None = None,
        versions: bool = False,
        places: Iterable[Place] = (),
        say: Say = str,
    ) -> None:
        if not sources:
            raise DriftError("nothing was given to follow; name a file, a folder, or - for standard input.")
        if piece is not None and piece < SMALLEST_PIECE:
            raise DriftError(f"--piece was {piece}; give at least {SMALLEST_PIECE} bytes.")
        if len(set(sources)) < len(sources):
            raise DriftError("a source is given twice; give each of them once.")
        self.idle, self.stopped = idle, False
        self.place = Place("", "", 0, 0)
        known = {place.file: place for place in places}
        self.sources = [opened(source, stdin, piece, versions, known, say) for source in sources]

    def __iter__(self) -> Iterator[Document]:
        try:
            yield from self.looking()
            for source in self.sources:
                source.tell_left()
        finally:
            for source in self.sources:
                source.close()

    def looking(self) -> Iterator[Document]:
        """Documents, until they end."""
        quiet = time.monotonic()
        while not self.stopped:
            for source in self.sources:
                for document, self.place in source.look():
                    yield document
                    quiet = time.monotonic()
                    if self.stopped:
                        return
            if any(source.unsettled for source in self.sources):
                quiet = time.monotonic()
            elif self.idle is not None and time.monotonic() - quiet >= self.idle:
                return
            if all(source.ended for source in self.sources):
                return
            time.sleep(INTERVAL)

    def stop(self) -> None:
        """Give no further document."""
        self.stopped = True


@contextmanager
def ended_by_signals(following: Following) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM ends the stream behind the document that is being read; a second one at once.

    Gives a list that stays empty, as nobody is asked to stop anywhere else.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def take(*_: Any) -> None:
        following.stop()
        for number in numbers:
            signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, take) for number in numbers}
    try:
        yield []
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def opened(
    source: str, stdin: Literal["text", "jsonl"], piece: int | None, versions: bool, known: dict[str, Place], say: Say
) -> "Source":
    """What follows one source."""
    name = shown(source)
    if source == STDIN:
        return Pipe(source, stdin == "jsonl", piece, say)
    if source.startswith(DATASET):
        raise DriftError(f"{name}: a dataset does not grow; read it without --follow.")
    if os.path.isdir(source):
        return Folder(source, piece, versions, known, say)
    why = REFUSED.get(os.path.splitext(source.lower())[1])
    if why or source.lower().endswith(JSONL[1:]):
        raise DriftError(f"{name}: the file {why or 'is compressed'}; it cannot be followed while it grows.")
    if not os.path.isfile(source) and (os.path.exists(source) or source not in known):
        raise DriftError(f"{name}: no such file or folder to follow; check the path, or make it first.")
    return Growing(source, source.lower().endswith(JSONL[0]), piece, known.get(source), say)


class Source:
    """Something that is followed.

    Attributes:
        ended: whether nothing can come any more.
        unsettled: files that may be whole soon.
    """

    ended = False
    unsettled = 0

    def look(self) -> Iterator[Came]:
        """What came since the last look."""
        raise NotImplementedError

    def tell_left(self) -> None:
        """Say what came and is not read."""

    def close(self) -> None:
        """Nobody looks any more."""


class Cut(Source):
    """Bytes that come in any portions, cut into documents where lines end."""

    def __init__(self, path: str, jsonl: bool, piece: int | None, say: Say) -> None:
        self.path, self.jsonl, self.piece, self.say = path, jsonl, piece, say
        self.mark = ""
        self.begin(0)

    def begin(self, start: int, given: int = 0) -> None:
        """Go on at a byte, and leave out what it has given already."""
        self.start, self.given = start, given
        self.line: list[bytes] = []  # parts of one that has not ended
        self.block = b""  # lines that have, of a document that has not; begins at `start`

    def feed(self, chunk: bytes) -> Iterator[Came]:
        """Documents that end with these bytes."""
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
        """The last document, when no bytes come any more."""
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
        """For refusals."""
        return f"{shown(self.path)}, byte {self.start}"

    def document(self) -> Iterator[Came]:
        """What has come together, as a document or its pieces."""
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
                    f"{shown(self.path)}: not UTF-8 at byte offset {self.start + error.start}; let it be written in "
                    f"UTF-8, and convert what is there with `iconv -f latin1 -t utf-8`"
                ) from error
        name = "stdin" if self.path == STDIN else printable(self.path)
        named = f"{name}:{self.start}-{hashlib.sha256(raw).hexdigest()[:8]}"
        for number, document in enumerate(from_record(record, named, where, self.piece), 1):
            if number > self.given:
                yield document, Place(self.path, self.mark, self.start, number)
        self.start, self.block, self.given = self.start + len(raw), b"", 0

    def tell_left(self) -> None:
        if held := len(self.block) + sum(map(len, self.line)):
            unit = "line" if self.jsonl else "paragraph"
            self.say(f"{shown(self.path)}: the last {held:,} bytes are not read, as their {unit} has not ended")


class Growing(Cut):
    """A file that grows, is cut off or replaced."""

    def __init__(self, path: str, jsonl: bool, piece: int | None, place: Place | None, say: Say) -> None:
        super().__init__(path, jsonl, piece, say)
        self.place = place
        self.file: BinaryIO | None = None

    def look(self) -> Iterator[Came]:
        with readable(shown(self.path)):
            if self.file is None and not self.opens():
                return
            yield from self.grown()
            while self.replaced():
                yield from self.grown()  # what came into the old one since
                self.say(f"{shown(self.path)} was replaced; the new file is read from its beginning")
                yield from self.rest()
                self.close()
                if not self.opens():
                    return
                yield from self.grown()

    def opens(self) -> bool:
        """Open what is at the path; False where there is nothing now."""
        try:
            self.file = open(self.path, "rb")  # noqa: SIM115 - it stays open, so that nothing written to it is lost
        except FileNotFoundError:
            return False
        found = os.fstat(self.file.fileno())
        self.mark = str(found.st_ino)
        place, self.place = self.place, None
        if place is None or not (place.mark == self.mark and place.start < found.st_size and self.goes_on(place)):
            if place is not None:
                self.say(f"{shown(self.path)} is another file than before; it is read from its beginning")
            place = Place(self.path, self.mark, 0, 0)
        self.begin(place.start, place.given)
        self.file.seek(place.start)
        return True

    def goes_on(self, place: Place) -> bool:
        """Whether a line ends where one did before."""
        assert self.file is not None
        self.file.seek(max(0, place.start - 1))
        return place.start == 0 or self.file.read(1) == b"\n"

    def grown(self) -> Iterator[Came]:
        """What was added, up to the size that it has now."""
        assert self.file is not None
        size = os.fstat(self.file.fileno()).st_size
        if size < self.file.tell():
            self.say(f"{shown(self.path)} was cut off; it is read from its beginning")
            self.begin(0)
            self.file.seek(0)
        while (left := size - self.file.tell()) > 0 and (chunk := self.file.read(min(CHUNK, left))):
            yield from self.feed(chunk)

    def replaced(self) -> bool:
        """Whether another file is at the path."""
        assert self.file is not None
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        own = os.fstat(self.file.fileno())
        return (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


class Pipe(Cut):
    """Standard input, which ends."""

    def look(self) -> Iterator[Came]:
        while not self.ended and select.select([sys.stdin], [], [], 0)[0]:
            chunk = os.read(sys.stdin.fileno(), CHUNK)
            self.ended = not chunk
            yield from self.feed(chunk) if chunk else self.rest()


class Folder(Source):
    """A folder that files come into."""

    def __init__(self, path: str, piece: int | None, versions: bool, known: dict[str, Place], say: Say) -> None:
        self.path, self.piece, self.versions, self.say = path, piece, versions, say
        self.known = dict(known)  # how far files were read, in this process or before
        self.read: dict[str, str] = {}  # marks of files that are done with
        self.seen: dict[str, tuple[str, float]] = {}  # marks, and since when

    def look(self) -> Iterator[Came]:
        now, whole = time.monotonic(), list[tuple[int, str, str]]()
        self.unsettled = 0
        for path in files_below(self.path):
            try:
                found = os.stat(path)
            except FileNotFoundError:
                continue
            mark = f"{found.st_size}:{found.st_mtime_ns}"
            if os.path.basename(path).startswith(".") or not found.st_size or self.read.get(path) == mark:
                continue
            seen, since = self.seen.setdefault(path, (mark, now))
            if seen != mark or now - since < SETTLED:
                self.seen[path] = (mark, since if seen == mark else now)
                self.unsettled += 1
            else:
                whole.append((found.st_mtime_ns, path, mark))
        for _, path, mark in sorted(whole):
            yield from self.file(path, mark)

    def file(self, path: str, mark: str) -> Iterator[Came]:
        """Documents of a file that is whole."""
        before = self.known.get(path)
        again = before is not None and before.mark != mark
        if again and not self.versions:
            self.say(f"{shown(path)} changed after it was read; it is not read again")
        else:
            given = 0 if before is None or again else before.given
            for number, document in enumerate(read_documents([path], piece=self.piece), 1):
                if number > given:
                    self.known[path] = Place(path, mark, 0, number)
                    yield document, self.known[path]
        self.read[path] = mark
        del self.seen[path]
