"""Files that grow, folders that fill and pipes that go on, as documents as soon as they are whole.

Sources are looked at twice a second: a `stat` a file, which every file system answers. What the kernel tells of changes
(inotify) says nothing of files that another machine writes on a shared disk, and it counts its watches.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Literal

from driftlm.core.errors import DriftError
from driftlm.streams.documents import (
    DATASET,
    JSONL,
    REFUSED,
    SMALLEST_PIECE,
    STDIN,
    Document,
    files_below,
    read_documents,
    shown,
)
from driftlm.streams.records import readable
from driftlm.streams.tail.offsets import Offset
from driftlm.streams.tail.parsing import Came, Cut, Say, Source

INTERVAL = 0.5  # seconds between two looks
SETTLED = 1.0  # seconds for which a file in a folder must not have changed, to be whole
CHUNK = 1 << 20  # bytes that are read at a time


class Tail:
    """Documents of sources that are not finished, as they come; `DriftError` names the file and byte of a bad one.

    - A `.jsonl` file that grows: every whole line is a document; blank lines are none.
    - Any other file that grows, and text on standard input: paragraphs. A document ends before a blank line, or
      behind the first line with which it has 4,096 bytes (a log has no blank lines). Blank lines belong to none.
    - A folder: every `.txt` and JSONL file below it that comes, read as a whole once its size and time have stood
      still for a second; names that begin with a dot are left alone, so that a slow writer can use one and rename.
      They come in the order in which they were found whole, together found ones by the time of their last change.

    What stands there already comes first. A last line or paragraph that is not ended waits. A file that is replaced is
    read to its end, and then the new one from its beginning, as is one that was cut off; both is said. So is one that
    was replaced while nobody looked, where it is found beside the new one (`feed.jsonl.1`); else that is said.

    Documents without an id of their own are named `FILE:BYTE-HASH`: where they begin and 8 hexadecimal digits of their
    SHA-256, so that those of a rotated log differ; a file in a folder has the ids of `read_documents`.

    Args:
        sources: files, folders, or `-`.
        stdin: what standard input holds.
        piece: as of `read_documents`.
        idle: seconds without a document after which it ends; None for never.
        versions: read a file of a folder again when it changed; else only say so.
        offsets: how far they were read before.
        say: gets a sentence when a source is not what it was, and when something at its end is not read.

    Attributes:
        offset: how far, with the document that was given last.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     feed = Path(folder, "feed.jsonl")
    ...     _ = feed.write_text('{"id": "a", "text": "It rained."}\\n{"id": "b", "te')
    ...     [document.id for document in Tail([str(feed)], idle=0)]
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
        offsets: Iterable[Offset] = (),
        say: Say = str,
    ) -> None:
        if not sources:
            raise DriftError("nothing was given to follow; name a file, a folder, or - for standard input.")
        if piece is not None and piece < SMALLEST_PIECE:
            raise DriftError(f"`Stream.piece` was {piece}; give at least {SMALLEST_PIECE} bytes.")
        if len(set(sources)) < len(sources):
            raise DriftError("a source is given twice; give each of them once.")
        self.idle, self.stopped = idle, False
        self.offset = Offset("", "", 0, 0)
        known = {offset.file: offset for offset in offsets}
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
        """Yield documents, until they end."""
        quiet = time.monotonic()
        while not self.stopped:
            for source in self.sources:
                for document, self.offset in source.look():
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
def ended_by_signals(tail: Tail) -> Iterator[list[int]]:
    """End the stream at the first Ctrl-C or SIGTERM behind the document that is being read; at a second one at once.

    Gives a list that stays empty, as nobody is asked to stop anywhere else.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def take(*_: Any) -> None:
        tail.stop()
        for number in numbers:
            signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, take) for number in numbers}
    try:
        yield []
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def opened(
    source: str, stdin: Literal["text", "jsonl"], piece: int | None, versions: bool, known: dict[str, Offset], say: Say
) -> Source:
    """Return what follows one source."""
    name = shown(source)
    if source == STDIN:
        return Pipe(source, stdin == "jsonl", piece, say)
    if source.startswith(DATASET):
        raise DriftError(f"{name}: a dataset does not grow; read it without `Stream.follow`.")
    if os.path.isdir(source):
        return Folder(source, piece, versions, known, say)
    why = REFUSED.get(os.path.splitext(source.lower())[1])
    if why or source.lower().endswith(JSONL[1:]):
        raise DriftError(f"{name}: the file {why or 'is compressed'}; it cannot be followed while it grows.")
    if not os.path.isfile(source) and (os.path.exists(source) or source not in known):
        raise DriftError(f"{name}: no such file or folder to follow; check the path, or make it first.")
    return Growing(source, source.lower().endswith(JSONL[0]), piece, known.get(source), say)


class Growing(Cut):
    """A file that grows, is cut off or replaced."""

    def __init__(self, path: str, jsonl: bool, piece: int | None, offset: Offset | None, say: Say) -> None:
        super().__init__(path, jsonl, piece, say)
        self.offset = offset
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
        """Open what is to be read now; False where there is nothing."""
        offset, file = self.offset, self.there()
        self.label = shown(self.path)
        if offset is not None and not (file is not None and goes_on(file, offset)):
            moved = self.moved(offset)
            if moved is not None:
                if file is not None:
                    file.close()
                file, name = moved, shown(moved.name)
                self.say(
                    f"{self.label} was moved to {name}, whose rest is read first; a file that came between that and "
                    f"the present one is not read"
                )
                self.label = name
            elif file is not None:
                self.say(
                    f"{self.label} is another file than before; it is read from its beginning, and what came into the "
                    f"old one since is not read, as that is not found beside it"
                )
                offset = None
        if file is None:
            return False
        self.file, self.offset = file, None
        self.mark = mark_of(file)
        offset = offset or Offset(self.path, self.mark, 0, 0)
        self.begin(offset.start, offset.given)
        file.seek(offset.start)
        return True

    def there(self) -> BinaryIO | None:
        """Return what is at the path."""
        try:
            return open(self.path, "rb")  # it stays open, so that nothing written to it is lost
        except FileNotFoundError:
            return None

    def moved(self, offset: Offset) -> BinaryIO | None:
        """Return the file that was read up to an offset, where a rotation left it: beside the path, under a longer
        name.

        One whose name begins otherwise is left alone, as a file system gives the number of a deleted file to a new one.
        """
        folder, name = os.path.split(self.path)
        stem, _ = os.path.splitext(name)
        with suppress(OSError), os.scandir(folder or ".") as entries:  # what cannot be read is as good as gone
            for entry in entries:
                if str(entry.inode()) != offset.mark or entry.name == name or not entry.name.startswith(stem):
                    continue
                if entry.is_file(follow_symlinks=False):
                    file = open(os.path.join(folder, entry.name), "rb")  # noqa: SIM115 - as `there`
                    if goes_on(file, offset):
                        return file
                    file.close()
        return None

    def grown(self) -> Iterator[Came]:
        """Yield what was added, up to the size that it has now."""
        assert self.file is not None
        size = os.fstat(self.file.fileno()).st_size
        if size < self.file.tell():
            self.say(f"{shown(self.path)} was cut off; it is read from its beginning")
            self.begin(0)
            self.file.seek(0)
        while (left := size - self.file.tell()) > 0 and (chunk := self.file.read(min(CHUNK, left))):
            yield from self.feed(chunk)

    def replaced(self) -> bool:
        """Tell whether another file is at the path."""
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


def mark_of(file: BinaryIO) -> str:
    """Return what tells an open file from others of its file system."""
    return str(os.fstat(file.fileno()).st_ino)


def goes_on(file: BinaryIO, offset: Offset) -> bool:
    """Tell whether it is the file that was read up to an offset: its mark, longer than that, and a line ends there."""
    if mark_of(file) != offset.mark or os.fstat(file.fileno()).st_size <= offset.start:
        return False
    file.seek(max(0, offset.start - 1))
    return offset.start == 0 or file.read(1) == b"\n"


class Pipe(Cut):
    """Standard input, which ends."""

    def look(self) -> Iterator[Came]:
        while not self.ended and select.select([sys.stdin], [], [], 0)[0]:
            chunk = os.read(sys.stdin.fileno(), CHUNK)
            self.ended = not chunk
            yield from self.feed(chunk) if chunk else self.rest()


class Folder(Source):
    """A folder that files come into."""

    def __init__(self, path: str, piece: int | None, versions: bool, known: dict[str, Offset], say: Say) -> None:
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
        """Yield the documents of a file that is whole."""
        before = self.known.get(path)
        again = before is not None and before.mark != mark
        if again and not self.versions:
            self.say(f"{shown(path)} changed after it was read; it is not read again")
        else:
            given = 0 if before is None or again else before.given
            for number, document in enumerate(read_documents([path], piece=self.piece), 1):
                if number > given:
                    self.known[path] = Offset(path, mark, 0, number)
                    yield document, self.known[path]
        self.read[path] = mark
        del self.seen[path]
