"""The driver of a reading: what a run folder is told while a memory reads a stream."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from driftlm.core.errors import Diverged, DriftError
from driftlm.cost.estimate import estimate, expected_tokens
from driftlm.cost.summary import peak_resident_bytes, summarized
from driftlm.memories.base import Baseline, Memory
from driftlm.memories.loop import Step, Totals, finished, read_stream
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.side_by_side import read_side_by_side
from driftlm.models.machine import Machine
from driftlm.report.live_table import Live
from driftlm.runs import formats
from driftlm.runs.folder import Checkpoint, Position, Run, Tape, line
from driftlm.runs.pace import Threads
from driftlm.runs.settings import Stream
from driftlm.streams.documents import Document, read_documents
from driftlm.streams.tail.offsets import Offsets
from driftlm.streams.tail.sources import Tail, ended_by_signals
from driftlm.streams.windows import Window


class Interrupted(Exception):
    """The reader was asked to stop and has saved the run."""


@dataclass
class Reading:
    """A memory and the stream it reads, with all that a run folder says of them."""

    settings: MemorySettings
    machine: Machine
    stream: Stream
    folder: Path
    config: dict[str, Any]
    checkpoint: Checkpoint | None = None
    continues: bool = False  # an adapter that was learned before
    most_threads: int = 1  # that may be tried where the reading falls behind its pace


@dataclass(frozen=True)
class Mark:
    """What a resumed run needs besides the memory's state: its place in the stream, its totals, the log's length."""

    position: Position
    totals: Totals
    lines: int | None


class Driver:
    """Reads a stream with a memory into a run folder, and can stop and go on between any two windows.

    The folder is made with the first window: what is refused before leaves nothing behind.

    Args:
        reading: what is read, and where the run is kept.
        memory: that reads; it goes on from the run's checkpoint, where there is one.
        baseline: the static model beside it, or None.
    """

    def __init__(self, reading: Reading, memory: Memory, baseline: Baseline | None) -> None:
        self.reading, self.memory, self.baseline = reading, memory, baseline
        self.stream, self.folder = reading.stream, reading.folder
        # Where nothing learns, the static model is the memory itself.
        self.itself = reading.settings.compare == "static" and memory.is_static
        self.mark = Mark(Position(), Totals(static_nats=None if baseline is None else 0.0), 0)
        self.threads = Threads(reading.config, memory, reading.most_threads)
        checkpoint = reading.checkpoint
        if checkpoint is not None:
            self.mark = Mark(checkpoint.progress, checkpoint.totals, checkpoint.lines)
            memory.restore(checkpoint.memory)
            if baseline is not None and checkpoint.baseline is not None:
                baseline.restore(checkpoint.baseline)
            self.threads.resume(self.mark.totals.windows)
        self.offsets = Offsets(self.folder / "followed.jsonl", texts=True) if self.stream.follow else None
        documents, self.tail = source_of(self.stream, self.offsets)
        self.tape = Tape(documents, self.mark.position)
        self.expected = self.stream.limit
        if not self.stream.follow:
            self.expected = expected_tokens(self.stream.files, self.stream.limit, memory)
        self.run: Run | None = None
        self.step: Step | None = None
        self.due = time.monotonic() + self.stream.checkpoint

    def drive(self) -> dict[str, Any]:
        """Read to the end of the stream; return the summary.

        Raises:
            DriftError: for a document that cannot be read; the run is saved where it has begun.
            Interrupted: after Ctrl-C or SIGTERM, with the run saved.
        """
        with self.signals() as asked, Live(self.expected, enabled=self.stream.live) as live:
            try:
                for step in self.steps():
                    self.advance(step, bool(asked))
                    live.update(step.totals, step.window.document)
            except DriftError as error:
                self.checkpoint()
                if self.run is None or isinstance(error, Diverged):
                    raise
                raise DriftError(
                    f"{error} (saved so far; once that is mended, `driftlm read --resume {self.folder}` goes on)"
                ) from error
            except KeyboardInterrupt:
                if self.run is None or not self.tape.waiting:
                    raise
                self.checkpoint()
                raise Interrupted(self.folder) from None
            else:
                return self.finish(bool(asked))
            finally:
                if self.run is not None:
                    self.run.close()

    def signals(self) -> AbstractContextManager[list[int]]:
        """Collect Ctrl-C and SIGTERM, so that the run stops between two windows."""
        return stop_signals(self.tape) if self.tail is None else ended_by_signals(self.tail)

    def steps(self) -> Iterator[Step]:
        """Score and learn from the first window that is not read yet."""
        totals, start = self.mark.totals, self.mark.position.point
        if self.stream.batch > 1:
            compares = self.baseline is not None
            return read_side_by_side(
                self.memory, self.tape, self.stream.batch, compares, self.stream.limit, totals, start
            )
        return read_stream(
            self.memory, self.tape, baseline=self.baseline, limit=self.stream.limit, totals=totals, start=start
        )

    def advance(self, step: Step, stopping: bool) -> None:
        """Keep what a scored window says; before that, save where that is due or somebody asked to stop.

        Raises:
            Interrupted: where somebody asked to stop, with the run saved.
        """
        run = self.run or self.begin(step.window)
        if self.offsets is not None:
            self.offsets.write()  # before anything says that it was read
        if step.here is not None:
            self.mark = Mark(self.tape.at(step.here), step.before, run.log.tell())
        self.step = step
        if stopping or time.monotonic() >= self.due:
            self.save(self.mark)
            self.due = time.monotonic() + self.stream.checkpoint
            if stopping:
                raise Interrupted(self.folder)
        run.append(line(step, step.nats if self.itself else step.static_nats) | self.memory.line())
        if self.stream.batch == 1 and self.threads.behind(step):  # side by side, later windows were read already
            run.configure()

    def begin(self, window: Window) -> Run:
        """Make the run folder, with the learned state it begins with, and say what is to come."""
        self.run = Run(self.folder, self.reading.config, self.mark.lines or 0)
        start, language_model = self.folder / "start", self.memory.language_model
        if self.reading.config["start"] and not start.exists():
            trainable = self.memory.learned().trainable if self.reading.continues else None
            formats.save(language_model, trainable, start, base_beside=False)
            if not self.reading.continues:
                language_model.name = str(start.resolve())  # a new adapter is one of these weights
        if not self.stream.json or self.stream.live:
            ahead = estimate(self.memory, self.expected, window, self.reading.settings.compare == "static")
            print(f"driftlm: {ahead}", file=sys.stderr)
        return self.run

    def checkpoint(self) -> None:
        """Save behind the latest window, once it was learned from; where nothing can go on there, at the last mark."""
        if self.step is None:
            return
        behind = self.step.behind
        if behind is not None:
            self.mark = Mark(self.tape.at(behind), finished(self.step, self.memory), None)
        self.save(self.mark)

    def save(self, mark: Mark) -> None:
        """Write a checkpoint, once the run has begun."""
        if self.run is not None:
            self.run.checkpoint(mark.position, mark.totals, self.memory, self.baseline, mark.lines)

    def finish(self, stopped: bool) -> dict[str, Any]:
        """Save the end, and write the summary and what was learned.

        Raises:
            DriftError: for a stream without a document.
            Interrupted: where what piped the text was perhaps stopped as well.
        """
        if self.step is None:
            if self.reading.checkpoint is None:
                raise DriftError("the stream has no document; give a text.")
            self.run = Run(self.folder, self.reading.config, self.mark.lines or 0)
            return self.conclude(self.run, self.mark.totals)
        assert self.run is not None
        self.checkpoint()
        if stopped and "-" in self.stream.files:
            raise Interrupted(self.folder)
        return self.conclude(self.run, finished(self.step, self.memory))

    def conclude(self, run: Run, totals: Totals) -> dict[str, Any]:
        """Write the summary and the learned weights."""
        memory = self.memory
        if self.itself:
            totals = replace(totals, static_nats=totals.nats)
        run.close()  # its lines say what was read
        summary = {
            "tokens": totals.tokens,
            "bytes": totals.bytes,
            "nats_per_token": totals.nats_per_token,
            "bits_per_byte": totals.bits_per_byte,
            "static_nats_per_token": totals.static_nats_per_token,
            "static_bits_per_byte": totals.static_bits_per_byte,
            "gain_nats": totals.gain,
            "nats": totals.nats,
            "static_nats": totals.static_nats,
            "updates": totals.updates,
            "rollbacks": totals.rollbacks,
            "prior_used": memory.counts.prior_used,
            "skipped_updates": memory.counts.skipped_updates,
            "windows": totals.windows,
            "documents": totals.documents,
            "seconds": totals.seconds,
            "peak_memory_bytes": peak_memory(memory),
            **summarized(memory, self.folder / "windows.jsonl", totals.tokens),
            "model": self.reading.config["model"]["title"],
            "run": str(self.folder),
            "finished": True,
        }
        summary |= memory.summary()
        run.finish(summary)
        if self.stream.save:
            learned = memory.learned()
            formats.save(learned.language_model, learned.trainable, self.stream.save)
            summary["saved"] = self.stream.save
        return summary


def source_of(stream: Stream, offsets: Offsets | None) -> tuple[Iterator[Document], Tail | None]:
    """The documents of the stream, and what follows it; those that came before are first, as they were then."""
    if offsets is None:
        return read_documents(stream.files, stdin=stream.stdin, piece=stream.piece), None
    tail = Tail(
        stream.files,
        stdin=stream.stdin,
        piece=stream.piece,
        idle=stream.idle,
        offsets=offsets.offsets.values(),
        say=partial(print, "driftlm:", file=sys.stderr),
    )
    return offsets.and_more(tail), tail


def peak_memory(memory: Memory) -> int:
    """Return the most memory held, bytes: on the GPU where the model is there, else resident."""
    if memory.language_model.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return peak_resident_bytes()


@contextmanager
def stop_signals(tape: Tape) -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM, so that the run stops between two windows.

    A second Ctrl-C stops at once, and so does one while the stream keeps the reader waiting.
    """
    asked: list[int] = []

    def take(number: int, _: Any) -> None:
        asked.append(number)
        if len(asked) > 1 or tape.waiting:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
