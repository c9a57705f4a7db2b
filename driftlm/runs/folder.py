"""Run folders: configuration, one JSON line a window, checkpoints; killed at any moment, a run goes on.

RUN/config.json       settings, versions, fingerprints; written when the first window is scored, and again when the
                      reading changes its threads
RUN/windows.jsonl     a line a window
RUN/checkpoint-N/     state before window N was scored: safetensors and JSON, complete or not there
RUN/start/            the learned state the run began with (only with --from)
RUN/followed.jsonl    with --follow, the documents that came, and how far their files were read
RUN/summary.json      totals, when the stream has ended
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.base import State
from driftlm.memories.loop import Point, Step, Totals
from driftlm.storage.files import sync, write_atomically
from driftlm.streams.documents import Document


@dataclass(frozen=True)
class Position:
    """Where in the stream a checkpoint stands.

    Attributes:
        document: number of the next window's document, from 0.
        window: the next window's index in it.
        digested: documents that went into `digest`.
        digest: hash of those documents, ids and texts.
    """

    document: int = 0
    window: int = 0
    digested: int = 0
    digest: str = ""

    @property
    def point(self) -> Point:
        """Where it is, as `read_stream` takes it."""
        return Point(self.document, self.window)


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on."""

    progress: Position
    totals: Totals
    memory: State
    baseline: State | None
    lines: int


class Tape:
    """Documents as they pass by, counted and hashed, so that a resumed run knows it reads the same stream."""

    def __init__(self, documents: Iterable[Document], resumed: Position) -> None:
        self.documents, self.resumed = documents, resumed
        self.digested, self.digest = 0, ""
        self.digests = {0: ""}  # by the number of documents; of those that may still be asked for
        self.waiting = False  # for the source to give a document

    def __iter__(self) -> Iterator[Document]:
        self.waiting = True
        for number, document in enumerate(self.documents):
            self.waiting = False
            self.digest = hashlib.sha256(
                b"\0".join(part.encode() for part in (self.digest, document.id, document.text))
            ).hexdigest()
            self.digested = number + 1
            self.digests[self.digested] = self.digest
            if self.digested == self.resumed.digested and self.digest != self.resumed.digest:
                raise DriftError(
                    f"document {document.id!r} or one before it changed since this run read it; "
                    f"give the stream back as it was, or start a new run."
                )
            if number >= self.resumed.document:
                yield document
            self.waiting = True
        self.waiting = False
        if self.digested < self.resumed.digested:
            raise DriftError(
                f"the stream has {self.digested} documents but this run had read {self.resumed.digested}; "
                f"give the stream back as it was, or start a new run."
            )

    def at(self, point: Point) -> Position:
        """Return a point of the stream with the documents that went before it, or that it is in; it may not go back."""
        digested = point.document + (point.window > 0)
        self.digests = {number: digest for number, digest in self.digests.items() if number >= point.document}
        return Position(point.document, point.window, digested, self.digests[digested])


class Resumable(Protocol):
    """What can say exactly where it stands."""

    def state(self) -> State: ...


class Run:
    """A run folder, open for writing."""

    def __init__(self, folder: Path, config: dict[str, Any], lines: int = 0) -> None:
        self.folder, self.config = folder, config
        folder.mkdir(parents=True, exist_ok=True)
        self.configure()
        self.log = (folder / "windows.jsonl").open("ab")
        self.log.truncate(lines)
        self.log.seek(lines)  # `tell` still says where the file ended before

    def configure(self) -> None:
        """Write the configuration as it is now."""
        write_json(self.folder / "config.json", self.config)

    def append(self, record: dict[str, Any]) -> None:
        """Add a window's line; it is on disk with the next checkpoint."""
        self.log.write(json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n")

    def checkpoint(
        self,
        progress: Position,
        totals: Totals,
        memory: Resumable,
        baseline: Resumable | None,
        lines: int | None = None,
    ) -> None:
        """Write the state before the next window; the folder appears under its name only when complete.

        A run that goes on from it keeps the first `lines` bytes of the log, all that there are unless told otherwise.
        """
        final = self.folder / f"checkpoint-{totals.windows:012d}"
        if final.exists():  # of this very state: a resumed run that is stopped before its next window
            return
        self.log.flush()
        os.fsync(self.log.fileno())
        states = {"memory": memory.state()} | ({"baseline": baseline.state()} if baseline is not None else {})
        partial = self.folder / "checkpoint.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, state in states.items():
            save_file({key: tensor.cpu().contiguous() for key, tensor in state.tensors.items()}, partial / name)
            sync(partial / name)
        values = {
            "progress": asdict(progress),
            "totals": asdict(totals),
            "lines": self.log.tell() if lines is None else lines,
            "states": {name: state.values for name, state in states.items()},
        }
        write_json(partial / "values.json", values)
        partial.rename(final)
        sync(self.folder)
        for old in self.folder.glob("checkpoint-*"):
            if old != final:
                shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """Close the log."""
        self.log.close()

    def finish(self, summary: dict[str, Any]) -> None:
        """Close the log and write the totals."""
        self.close()
        write_json(self.folder / "summary.json", summary)


def read_config(folder: Path) -> dict[str, Any]:
    """Configuration of a run.

    Raises:
        DriftError: when the folder holds no run.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if "driftlm" not in config:
        raise DriftError(f"{folder} holds no run of driftlm; give the folder that `driftlm read` named.")
    if (folder / "start").exists():
        config["start"] = str((folder / "start").resolve())
    return config


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint, None where the run was stopped before its first.

    Raises:
        DriftError: when it is damaged.
    """
    found = sorted(folder.glob("checkpoint-*"))
    if not found:
        return None
    try:
        values = json.loads((found[-1] / "values.json").read_text(encoding="utf-8"))
        states = {name: State(load_file(found[-1] / name), held) for name, held in values["states"].items()}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DriftError(f"{found[-1]} is damaged; put it back as it was, or start a new run.") from error
    return Checkpoint(
        Position(**values["progress"]),
        Totals(**values["totals"]),
        states["memory"],
        states.get("baseline"),
        values["lines"],
    )


def line(step: Step, static: Tensor | None) -> dict[str, Any]:
    """What `windows.jsonl` says of a window; nats are sums over its new tokens."""
    return {
        "window": step.before.windows,
        "document": step.window.document,
        "time": step.time,
        "index": step.window.index,
        "position": step.window.position,
        "tokens": step.window.new,
        "bytes": step.window.bytes,
        "nats": step.nats.double().sum().item(),
        "static_nats": None if static is None else static.double().sum().item(),
        "updates": step.before.updates,
        "events": [asdict(event) for event in step.events],
    }


def write_json(path: Path, values: dict[str, Any]) -> None:
    """The file holds the old values or the new ones, never a part."""
    text = json.dumps(values, indent=1, ensure_ascii=False)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
