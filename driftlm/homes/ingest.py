"""Documents from files into a home, once or as they come."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from driftlm.homes.journal import Entry
from driftlm.homes.opening import opened
from driftlm.runs.settings import refuse_idle
from driftlm.streams.documents import Document, read_documents
from driftlm.streams.tail.offsets import Offsets
from driftlm.streams.tail.sources import Tail, ended_by_signals
from driftlm.streams.timestamps import UNDERSTOOD, timestamp_of

Tell = Callable[[str], None]


def read_into(
    home: str,
    files: Sequence[str],
    *,
    stdin: Literal["text", "jsonl"] = "text",
    follow: bool = False,
    idle: float | None = None,
    tell: Tell,
) -> Iterator[Entry]:
    """Read documents into the home of a folder; each is acknowledged when it is yielded.

    Args:
        home: its folder.
        files: sources, as `read_documents` takes them.
        stdin: what standard input holds.
        follow: go on with what comes, until a signal; how far is kept beside the journal, behind every document.
        idle: seconds without a document after which following ends.
        tell: gets a sentence about what deserves one.

    Raises:
        DriftError: for sources that cannot be read, or a home that cannot be opened.
    """
    refuse_idle(follow, idle)
    if follow:
        yield from followed_into(home, files, stdin, idle, tell)
        return
    documents = read_documents(files, stdin=stdin)  # checks them before the model is loaded
    with opened(home) as place:
        for document in warned_of_times(documents, tell):
            yield place.read(document)


def followed_into(
    home: str, files: Sequence[str], stdin: Literal["text", "jsonl"], idle: float | None, tell: Tell
) -> Iterator[Entry]:
    """Read what comes into files and folders, from where an earlier following of this home stopped."""
    with opened(home) as place:
        offsets = Offsets(Path(home) / "followed.jsonl", texts=False)
        tail = Tail(files, stdin=stdin, idle=idle, versions=True, offsets=offsets.offsets.values(), say=tell)
        with ended_by_signals(tail):
            for document in warned_of_times(tail, tell):
                yield place.read(document)
                offsets.add(document, tail.offset)
                offsets.write()


def warned_of_times(documents: Iterable[Document], tell: Tell) -> Iterator[Document]:
    """The documents; the first whose time cannot be understood is named, and is read all the same."""
    named = False
    for document in documents:
        if not named and document.time is not None and timestamp_of(document.time) is None:
            named = True
            tell(
                f"the time {document.time!r} of the document {document.id!r} cannot be read, so that neither a date "
                f"to go back to nor expiring finds it; give {UNDERSTOOD}. Others are not named."
            )
        yield document
