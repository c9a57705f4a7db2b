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
        files: Read text files, folders, .jsonl, .jsonl.gz, .jsonl.xz, `dataset:NAME`, or - for standard input.
        limit: Score so many tokens in all.
        batch: Read so many documents at a time, side by side; with --reset document and --learn lora. A stopped run
            reads again those that were under way.
        run: Keep the run in this folder; empty for one under `runs/`.
        resume: Go on with this stopped run, its settings included.
        start_from: Start from this run or PEFT or HuggingFace folder.
        save: Write the adapted weights into this folder: PEFT for LoRA and DoRA, HuggingFace otherwise.
        stdin: Read standard input as one `text`, or as `jsonl`.
        follow: Go on with what comes into the files and folders: lines of .jsonl, paragraphs of other files, new files
            of folders. Ctrl-C ends the run in order.
        idle: End --follow after so many seconds without a document.
        piece: Cut documents into pieces of at most so many bytes, each a document of its own.
        checkpoint: Write a checkpoint after so many seconds.
        json: Print the totals as one JSON object on stdout.
        live: Show a live table (or lines, where stderr is no terminal).
        report: Write report.html and PNG charts into the run.
        controls: First say, on the first 4,000 tokens, how much the sink, the context, static windows of the same cost
            and learning bring.
    """

    files: tyro.conf.Positional[tuple[str, ...]] = ()
    limit: int | None = None
    batch: int = 1
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
    controls: bool = False

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
        if self.controls and (self.follow or self.resume or self.start_from or self.batch > 1 or "-" in self.files):
            raise DriftError(
                "`Stream.controls` reads the beginning of a text several times, from the model as it is, document by "
                "document; give it with files alone, without `Stream.follow`, `Stream.resume`, `Stream.start_from`, "
                "`Stream.batch` and standard input."
            )


def refuse_idle(follow: bool, idle: float | None) -> None:
    """Refuse a number of seconds that says nothing."""
    if idle is not None and not (follow and 0 <= idle < float("inf")):
        raise DriftError(f"`Stream.idle` was {idle}; give seconds from 0 on, together with `Stream.follow`.")
