"""How far sources were read: a file of lines, one for every document that came."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from driftlm.core.errors import DriftError
from driftlm.storage.files import write_atomically
from driftlm.streams.documents import Document


@dataclass(frozen=True)
class Offset:
    """How far a file was read.

    Attributes:
        file: its path as it was given.
        mark: what tells the file from another one at its path.
        start: byte at which what was read last begins.
        given: documents that it has given so far.
    """

    file: str
    mark: str
    start: int
    given: int


class Resumable(Protocol):
    """A source that gives documents, and says how far it is."""

    offset: Offset

    def __iter__(self) -> Iterator[Document]: ...


class Offsets:
    """The lines in a file, with the documents themselves where they have to be read again without their source.

    A line that a crash has cut short counts as never written.

    Args:
        path: of the file; made with the first `write`.
        texts: whether documents are kept beside offsets; else only the last offset of every file is.

    Raises:
        DriftError: when a line is damaged.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     offsets = Offsets(Path(folder, "followed.jsonl"), texts=True)
    ...     offsets.add(Document("a", "It rained."), Offset("a.txt", "7", 0, 1))
    ...     offsets.write()
    ...     [one.text for one in Offsets(offsets.path, texts=True).documents()]
    ['It rained.']
    """

    def __init__(self, path: Path, texts: bool) -> None:
        self.path, self.texts = path, texts
        self.pending = b""
        self.whole = 0  # bytes of whole lines
        self.offsets: dict[str, Offset] = {}
        lines = 0
        for offset, _ in self.lines():
            self.offsets[offset.file], lines = offset, lines + 1
        if lines > len(self.offsets) and not texts:
            kept = b"".join(line_of(offset, None) for offset in self.offsets.values())
            write_atomically(path, lambda partial: partial.write_bytes(kept))
            self.whole = len(kept)

    def lines(self) -> Iterator[tuple[Offset, Document | None]]:
        """Yield what was written before, in order."""
        if not self.path.exists():
            return
        read = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    values = json.loads(line)
                    document = values.pop("document", None)
                    found = Offset(**values), None if document is None else Document(**document)
                except (ValueError, TypeError) as error:
                    raise DriftError(
                        f"{self.path} is damaged at byte {read}; put it back as it was, or follow anew."
                    ) from error
                read += len(line)
                self.whole = max(self.whole, read)
                yield found

    def documents(self) -> Iterator[Document]:
        """Yield those that came before."""
        return (document for _, document in self.lines() if document is not None)

    def and_more(self, tail: Resumable) -> Iterator[Document]:
        """Yield those that came before, and then those that come, each added as it does."""
        yield from self.documents()
        for document in tail:
            self.add(document, tail.offset)
            yield document

    def add(self, document: Document, offset: Offset) -> None:
        """Add another document that came; it is on disk with the next `write`."""
        self.pending += line_of(offset, document if self.texts else None)

    def write(self) -> None:
        """Write what was added, which is on disk when this returns."""
        if not self.pending:
            return
        with self.path.open("ab") as file:
            file.truncate(self.whole)
            file.seek(self.whole)
            file.write(self.pending)
            file.flush()
            os.fsync(file.fileno())
        self.whole, self.pending = self.whole + len(self.pending), b""


def line_of(offset: Offset, document: Document | None) -> bytes:
    """Return a line of the file."""
    values = asdict(offset) | ({} if document is None else {"document": asdict(document)})
    return json.dumps(values).encode() + b"\n"
