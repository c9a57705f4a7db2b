"""The verb `read`: settings to a memory, a stream through it, a run folder out of it."""

import platform
import shlex
import sys
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

import driftlm
from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learning
from driftlm.memories.weights.mixture import Learner, memory_in_weights
from driftlm.models.loading import BUNDLED
from driftlm.models.machine import Machine
from driftlm.runs import formats
from driftlm.runs.driver import Driver, Reading
from driftlm.runs.folder import latest_checkpoint, read_config
from driftlm.runs.settings import Stream
from driftlm.streams.windows import Windows


def read(windows: Windows, learning: Learning, machine: Machine, stream: Stream) -> dict[str, Any]:
    """Read a stream into a run folder and return its totals, the object that `--json` prints.

    Raises:
        DriftError: for bad input; before the first window nothing is left behind, later the run is resumable.
        Interrupted: after Ctrl-C or SIGTERM, with the run saved.
    """
    reading = (resumed if stream.resume else begun)(windows, learning, machine, stream)
    memory = memory_of(reading)
    baseline = memory.static() if reading.stream.compare == "static" and memory.parameters else None
    return Driver(reading, memory, baseline).drive()


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


def versions() -> dict[str, str]:
    """What the numbers depend on besides the settings."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "driftlm": driftlm.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
