"""Settings of a reading: what is read, and where the run is kept; no heavy import."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from driftlm.core.errors import DriftError

MOST_ROWS = 1024  # of a batch: each has its own weights and optimizer state, whether or not a document comes for it


@dataclass(frozen=True)
class Stream:
    """What is read, and where the run is kept.

    Attributes:
        files: text files, folders, .jsonl, .jsonl.gz, .jsonl.xz, `dataset:NAME`, or - for standard input.
        limit: tokens to score in all.
        batch: documents that are read at a time, side by side; with --reset document and --learn lora. A stopped run
            reads again those that were under way.
        compare: score the `static` model on the same windows, or `none`.
        run: folder for the run; empty for one under `runs/`.
        resume: a stopped run to go on with, its settings included.
        start_from: a run or a PEFT or HuggingFace folder to start from.
        save: folder for the adapted weights: PEFT for LoRA and DoRA, HuggingFace otherwise.
        stdin: what standard input holds: one `text`, or `jsonl`.
        follow: go on with what comes into the files and folders: lines of .jsonl, paragraphs of other files, new files
            of folders. Ctrl-C ends the run in order.
        idle: seconds without a document after which --follow ends.
        piece: cut documents into pieces of at most so many bytes, each a document of its own.
        checkpoint: seconds between checkpoints.
        json: print the totals as one JSON object on stdout.
        live: show a live table (or lines, where stderr is no terminal).
        report: write report.html and PNG charts into the run.
    """

    files: tyro.conf.Positional[tuple[str, ...]] = ()
    limit: int | None = None
    batch: int = 1
    compare: Literal["static", "none"] = "static"
    run: str = ""
    resume: str = ""
    start_from: Annotated[str, tyro.conf.arg(name="from")] = ""
    save: str = ""
    stdin: Literal["text", "jsonl"] = "text"
    follow: bool = False
    idle: float | None = None
    piece: int | None = None
    checkpoint: float = 60.0
    json: bool = False
    live: bool = True
    report: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= MOST_ROWS:
            raise DriftError(
                f"`Stream.batch` was {self.batch}; give the number of documents to read at a time, from 1 to "
                f"{MOST_ROWS:,}."
            )
        if self.follow and self.batch > 1:
            raise DriftError(
                f"`Stream.batch` was {self.batch}, but `Stream.follow` reads documents as they come; leave one of them "
                f"out."
            )
        refuse_idle(self.follow, self.idle)


def refuse_idle(follow: bool, idle: float | None) -> None:
    """Refuse a number of seconds that says nothing."""
    if idle is not None and not (follow and 0 <= idle < float("inf")):
        raise DriftError(f"`Stream.idle` was {idle}; give seconds from 0 on, together with `Stream.follow`.")
