"""The verb `read`: settings to a memory, a stream through it, a run folder out of it."""

import platform
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

import driftlm
from driftlm.core.errors import Diverged, DriftError
from driftlm.cost.estimate import estimate, expected_tokens
from driftlm.cost.summary import peak_resident_bytes, summarized
from driftlm.memories.loop import Step, Totals, finished, read_stream
from driftlm.memories.weights.learning import Learning
from driftlm.memories.weights.mixture import Learner, MixtureMemory, memory_in_weights
from driftlm.memories.weights.prior import StaticModel
from driftlm.memories.weights.side_by_side import RowStep, read_side_by_side
from driftlm.models.loading import BUNDLED
from driftlm.models.machine import Machine
from driftlm.report.live_table import Live
from driftlm.runs import formats
from driftlm.runs.folder import Checkpoint, Position, Run, Tape, latest_checkpoint, line, read_config
from driftlm.runs.settings import Stream
from driftlm.streams.documents import Document, read_documents
from driftlm.streams.tail.offsets import Offsets
from driftlm.streams.tail.sources import Tail, ended_by_signals
from driftlm.streams.windows import Window, Windows


class Interrupted(Exception):
    """The reader was asked to stop and has saved the run."""


@dataclass
class Reading:
    """A memory and the stream it reads, with all that a run folder says of them."""

    windows: Windows
    learning: Learning
    machine: Machine
    stream: Stream
    folder: Path
    config: dict[str, Any]
    checkpoint: Checkpoint | None = None
    continues: bool = False  # an adapter that was learned before


def read(windows: Windows, learning: Learning, machine: Machine, stream: Stream) -> dict[str, Any]:
    """Read a stream into a run folder and return its totals, the object that `--json` prints.

    Raises:
        DriftError: for bad input; before the first window nothing is left behind, later the run is resumable.
        Interrupted: after Ctrl-C or SIGTERM, with the run saved.
    """
    reading = (resumed if stream.resume else begun)(windows, learning, machine, stream)
    memory = memory_of(reading)
    baseline = memory.static() if reading.stream.compare == "static" and memory.parameters else None
    return through(reading, memory, baseline)


def begun(windows: Windows, learning: Learning, machine: Machine, stream: Stream) -> Reading:
    """A new reading; its folder is made with the first window."""
    if not stream.files:
        raise DriftError("no text was given; name files or folders, - for standard input, or `Stream.resume` RUN.")
    if stream.limit is not None and stream.limit < 1:
        raise DriftError(f"`Stream.limit` was {stream.limit}; give the number of tokens to score, at least 1.")
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    first = "stdin" if stream.files[0] == "-" else Path(stream.files[0]).resolve().stem
    folder = Path(stream.run) if stream.run else Path("runs") / f"{stamp}-{first}"
    # what one leaves that was killed before its configuration was whole is no run yet
    if folder.exists() and (not folder.is_dir() or any(p.name != "config.json.partial" for p in folder.iterdir())):
        raise DriftError(
            f"`Stream.run` {folder} exists and is not empty; give another folder, or go on with `Stream.resume`."
        )
    formats.refuse_unwritable(folder)
    if stream.save:
        formats.refuse_existing(Path(stream.save))
        if folder.absolute().is_relative_to(Path(stream.save).absolute()):
            raise DriftError(f"`Stream.save` {stream.save} would hold `Stream.run` {folder}; give one place to each.")
    learning = learning.settled()  # the run says what its rule's default was
    config: dict[str, Any] = {
        "driftlm": driftlm.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["driftlm", *sys.argv[1:]]),
        "windows": asdict(windows),
        "learning": asdict(learning),
        "machine": asdict(machine),
        "stream": asdict(stream),
        "start": stream.start_from,
    }
    return Reading(windows, learning, machine, stream, folder, config)


def resumed(windows: Windows, learning: Learning, machine: Machine, stream: Stream) -> Reading:
    """A stopped reading, with the settings of its run; only what is shown may be another."""
    folder = Path(stream.resume)
    if stream.files or stream.run or stream.start_from:
        raise DriftError("`Stream.resume` takes files and settings from the run; give `Stream.resume` RUN alone.")
    config = read_config(folder)
    then = Stream(**{**config["stream"], "files": tuple(config["stream"]["files"])})
    saved = not then.save or Path(then.save).exists()  # one that was killed while it saved is not done
    if (folder / "summary.json").exists() and saved and (then.save or not then.follow):
        raise DriftError(
            f"the run {folder} is finished; read on from what it learned with `Stream.start_from` {folder}."
        )
    reading = Reading(
        Windows(**config["windows"]),
        Learning(**config["learning"]),
        replace(Machine(**config["machine"]), threads=config["threads"]),
        replace(then, **{name: getattr(stream, name) for name in ("resume", "json", "live", "report", "checkpoint")}),
        folder,
        config,
        latest_checkpoint(folder),
    )
    for given, kept in (
        (windows, reading.windows),
        (learning, reading.learning),
        (machine, reading.machine),
        (stream, replace(reading.stream, files=(), run="", start_from="")),
    ):
        refuse_others(given, kept, folder)
    return reading


def refuse_others(given: Any, kept: Any, folder: Path) -> None:
    """Refuse a setting that is neither left at its default nor the run's own."""
    for field in fields(given):
        value, own = getattr(given, field.name), getattr(kept, field.name)
        if value not in (field.default, own):
            raise DriftError(
                f"`{type(given).__name__}.{field.name}` was {value} but the run {folder} has {own!r}, and "
                f"`Stream.resume` goes on with the run's own "
                f"settings; leave it out, or start a new run."
            )


def memory_of(reading: Reading) -> Learner:
    """Load the model and build the memory; complete the configuration by what was loaded."""
    machine, config = reading.machine, reading.config
    if config["start"]:
        model = config["model"]["name"] if "model" in config else machine.model
        start = formats.start_from(config["start"], reading.learning, replace(machine, model=model))
    else:
        start = formats.Start(machine.load())
    language_model = start.language_model
    if "model" in config and config["model"]["fingerprint"] != language_model.fingerprint:
        raise DriftError(
            f"the model {language_model.name!r} changed since this run began; give the old one back at that place, "
            f"or start a new run."
        )
    if reading.learning.rule == "rms" and not reading.learning.statistics and language_model.name == str(BUNDLED):
        # by name: what goes on from RUN/start is no longer beside them
        reading.learning = replace(reading.learning, statistics=str(BUNDLED / "statistics.safetensors"))
        config["learning"] = asdict(reading.learning)
    memory = memory_in_weights(language_model, reading.windows, reading.learning, start.trainable)
    reading.continues = start.trainable is not None
    config.setdefault(
        "model",
        {
            "name": str(Path(language_model.name).resolve())
            if Path(language_model.name).is_dir()
            else language_model.name,
            "title": "the bundled model" if language_model.name == str(BUNDLED) else language_model.name,
            "fingerprint": language_model.fingerprint,
            "parameters": sum(parameter.numel() for parameter in language_model.model.parameters()),
            "trainable": sum(parameter.numel() for parameter in memory.parameters),
        },
    )
    config |= {
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "seed": reading.learning.seed,
    }
    return memory


def through(reading: Reading, memory: Learner, baseline: StaticModel | None) -> dict[str, Any]:
    """Drive the stream through the memory: log, checkpoint, show."""
    stream, checkpoint = reading.stream, reading.checkpoint
    progress, totals, lines = Position(), Totals(static_nats=None if baseline is None else 0.0), 0
    if checkpoint is not None:
        progress, totals, lines = checkpoint.progress, checkpoint.totals, checkpoint.lines
        memory.restore(checkpoint.memory)
        if baseline is not None and checkpoint.baseline is not None:
            baseline.restore(checkpoint.baseline)
    itself = stream.compare == "static" and not memory.parameters  # nothing learns: the static model is this one
    offsets = Offsets(reading.folder / "followed.jsonl", texts=True) if stream.follow else None
    documents, tail = source_of(stream, offsets)
    tape = Tape(documents, progress)
    expected = stream.limit if stream.follow else expected_tokens(stream.files, stream.limit, memory)
    run: Run | None = None
    step: Step | None = None
    behind = progress
    before: tuple[Position, Totals, int | None] = progress, totals, lines

    def save() -> None:
        """A checkpoint behind `step`, once it was learned from; side by side, behind the last whole document."""
        if run is None or step is None:
            return
        whole = step.window.last or not isinstance(step, RowStep)
        at, reached, held = (behind, finished(step, memory), None) if whole else before
        run.checkpoint(at, reached, memory, baseline, held)

    signals = stop_signals(tape) if tail is None else ended_by_signals(tail)
    with signals as asked, Live(expected, enabled=stream.live) as live, ExitStack() as stopping:
        due = time.monotonic() + stream.checkpoint
        if stream.batch > 1:
            steps = read_side_by_side(
                memory, tape, stream.batch, baseline is not None, stream.limit, totals, progress.document
            )
        else:
            steps = read_stream(
                memory, tape, baseline=baseline, limit=stream.limit, totals=totals, first_window=progress.window
            )
        try:
            for step in steps:
                behind = tape.after(step)  # now: asking for the next step may move the tape on
                if run is None:
                    run = begin(reading, memory, lines, expected, step.window)
                    stopping.callback(run.close)
                if offsets is not None:
                    offsets.write()  # before anything says that it was read
                if step.window.index == 0 or not isinstance(step, RowStep):
                    before = tape.at(step), step.before, run.log.tell()
                if asked or time.monotonic() >= due:
                    run.checkpoint(before[0], before[1], memory, baseline, before[2])
                    due = time.monotonic() + stream.checkpoint
                    if asked:
                        raise Interrupted(reading.folder)
                weights = {"weights": memory.weights()} if isinstance(memory, MixtureMemory) else {}
                run.append(line(step, tape.time_of(step), step.nats if itself else step.static_nats) | weights)
                live.update(step.totals, step.window.document)
        except DriftError as error:
            if run is None:
                raise
            save()
            if isinstance(error, Diverged):
                raise
            raise DriftError(
                f"{error} (saved so far; once that is mended, `driftlm read --resume {reading.folder}` goes on)"
            ) from error
        except KeyboardInterrupt:
            if run is None or not tape.waiting:
                raise
            save()
            raise Interrupted(reading.folder) from None
        stopping.pop_all()
    if step is None or run is None:
        if checkpoint is None:
            raise DriftError("the stream has no document; give a text.")
        run = Run(reading.folder, reading.config, lines)
        ended = totals
    else:
        ended = finished(step, memory)
        save()
        if asked and "-" in stream.files:  # what piped the text was perhaps stopped as well
            run.close()
            raise Interrupted(reading.folder)
    return conclude(reading, run, memory, ended)


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


def begin(reading: Reading, memory: Learner, lines: int, expected: int | None, window: Window) -> Run:
    """Make the run folder, with the learned state it begins with, and say what is to come."""
    run = Run(reading.folder, reading.config, lines)
    start, language_model = reading.folder / "start", memory.language_model
    if reading.config["start"] and not start.exists():
        formats.save(language_model, memory.trainable if reading.continues else None, start)
        if not reading.continues:
            language_model.name = str(start.resolve())  # a new adapter is one of these weights
    if not reading.stream.json or reading.stream.live:
        ahead = estimate(memory, expected, window, reading.stream.compare == "static")
        print(f"driftlm: {ahead}", file=sys.stderr)
    return run


def conclude(reading: Reading, run: Run, memory: Learner, totals: Totals) -> dict[str, Any]:
    """Write the summary, the learned weights and the report."""
    static = totals.static_nats
    if reading.stream.compare == "static" and not memory.parameters:
        static = totals.nats
    totals = replace(totals, static_nats=static)
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
        **summarized(memory, reading.folder / "windows.jsonl", totals.tokens),
        "model": reading.config["model"]["title"],
        "run": str(reading.folder),
        "finished": True,
    }
    learned = memory
    if isinstance(memory, MixtureMemory):
        summary["experts"], learned = memory.expert_weights(), memory.best()
    run.finish(summary)
    if reading.stream.save:
        formats.save(learned.language_model, learned.trainable, reading.stream.save)
        summary["saved"] = reading.stream.save
    return summary


def peak_memory(memory: Learner) -> int:
    """Most memory held, bytes: on the GPU where the model is there, else resident."""
    if memory.language_model.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return peak_resident_bytes()


def versions() -> dict[str, str]:
    """What the numbers depend on besides the settings."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "driftlm": driftlm.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }


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
