"""The verb `read`: settings to a memory, a stream through it, a run folder out of it."""

import platform
import shlex
import sys
from dataclasses import asdict, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

import driftlm
from driftlm.core.errors import DriftError
from driftlm.memories.bank.settings import Aggregation
from driftlm.memories.base import Memory
from driftlm.memories.build import memory_for
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.learning import Learning
from driftlm.models.catalogue import BUNDLED
from driftlm.models.loading import fitted
from driftlm.models.machine import Machine
from driftlm.runs import formats
from driftlm.runs.driver import Driver, Reading
from driftlm.runs.folder import latest_checkpoint, read_config
from driftlm.runs.settings import Stream
from driftlm.storage.files import refuse_existing, refuse_unwritable
from driftlm.streams.windows import Windows


def read(settings: MemorySettings, machine: Machine, stream: Stream) -> dict[str, Any]:
    """Read a stream into a run folder and return its totals, the object that `--json` prints.

    Raises:
        DriftError: for bad input; before the first window nothing is left behind, later the run is resumable.
        Interrupted: after Ctrl-C or SIGTERM, with the run saved.
    """
    reading = (resumed if stream.resume else begun)(settings, machine, stream)
    reading.most_threads = torch.get_num_threads()
    try:
        memory = memory_of(reading)
        baseline = memory.static() if reading.settings.compare == "static" and not memory.is_static else None
        return Driver(reading, memory, baseline).drive()
    finally:
        torch.set_num_threads(reading.most_threads)


def begun(settings: MemorySettings, machine: Machine, stream: Stream) -> Reading:
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
    refuse_unwritable(folder)
    if stream.save:
        refuse_existing(Path(stream.save))
        if folder.absolute().is_relative_to(Path(stream.save).absolute()):
            raise DriftError(f"`Stream.save` {stream.save} would hold `Stream.run` {folder}; give one place to each.")
    settings = replace(settings, learning=settings.learning.settled())  # the run says what its rule's default was
    config: dict[str, Any] = {
        "driftlm": driftlm.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["driftlm", *sys.argv[1:]]),
        **described(settings),
        "machine": asdict(machine),
        "stream": asdict(stream),
        "start": stream.start_from,
    }
    return Reading(settings, machine, stream, folder, config)


def resumed(settings: MemorySettings, machine: Machine, stream: Stream) -> Reading:
    """A stopped reading, with the settings of its run; only what is shown may be another."""
    folder = Path(stream.resume)
    if stream.files or stream.run or stream.start_from:
        raise DriftError("`Stream.resume` takes files and settings from the run; give `Stream.resume` RUN alone.")
    config = read_config(folder)
    stream_then = {**config["stream"], "files": tuple(config["stream"]["files"])}
    compare = stream_then.pop("compare", "static")  # where runs had it before they had other memories
    then = Stream(**{**stream_then, "controls": False})  # which were said when it began
    saved = not then.save or Path(then.save).exists()  # one that was killed while it saved is not done
    if (folder / "summary.json").exists() and saved and (then.save or not then.follow):
        raise DriftError(
            f"the run {folder} is finished; read on from what it learned with `Stream.start_from` {folder}."
        )
    reading = Reading(
        settings_of({"memory": {"compare": compare}} | config),
        replace(Machine(**config["machine"]), threads=config["threads"]),
        replace(then, **{name: getattr(stream, name) for name in ("resume", "json", "live", "report", "checkpoint")}),
        folder,
        config,
        latest_checkpoint(folder),
    )
    for given, kept in (
        (settings.windows, reading.settings.windows),
        (settings.learning, reading.settings.learning),
        (settings, reading.settings),
        (settings.options, reading.settings.options),
        (settings.learning.options, reading.settings.learning.options),
        (machine, reading.machine),
        (stream, replace(reading.stream, files=(), run="", start_from="")),
    ):
        refuse_others(given, kept, folder)
    return reading


def refuse_others(given: Any, kept: Any, folder: Path) -> None:
    """Refuse a setting that is neither left at its default nor the run's own."""
    for field in fields(given):
        value, own = getattr(given, field.name), getattr(kept, field.name)
        if is_dataclass(value):  # has a turn of its own
            continue
        if field.name == "rule" and value == Learning(learning_rate=given.learning_rate).rule:  # nobody asked for it
            continue
        if value not in (field.default, own):
            raise DriftError(
                f"`{type(given).__name__}.{field.name}` was {value} but the run {folder} has {own!r}, and "
                f"`Stream.resume` goes on with the run's own "
                f"settings; leave it out, or start a new run."
            )


def described(settings: MemorySettings) -> dict[str, Any]:
    """Return settings as a run's configuration has them: windows, learning, and the rest as `memory`."""
    rest = settings.described()
    return {"windows": rest.pop("windows"), "learning": rest.pop("learning"), "memory": rest}


def settings_of(config: dict[str, Any]) -> MemorySettings:
    """Return the settings in a run's configuration."""
    rest: dict[str, Any] = dict(config["memory"])
    rest["sources"] = tuple(rest.get("sources", ()))
    if "aggregation" in rest:
        rest["aggregation"] = Aggregation(**rest["aggregation"])
    return MemorySettings(Windows.of(config["windows"]), Learning(**config["learning"]), **rest)


def memory_of(reading: Reading) -> Memory:
    """Load the model and build the memory; complete the configuration by what was loaded."""
    machine, config = reading.machine, reading.config
    if config["start"]:
        model = config["model"]["name"] if "model" in config else machine.model
        start = formats.start_from(config["start"], reading.settings.learning, replace(machine, model=model))
    else:
        start = formats.Start(machine.load())
    language_model = start.language_model
    if "model" in config and not language_model.goes_by(config["model"]["fingerprint"]):
        raise DriftError(
            f"the model {language_model.name!r} changed since this run began; give the old one back at that place, "
            f"or start a new run."
        )
    learning = reading.settings.learning
    if learning.rule == "rms" and not learning.statistics and language_model.name == str(BUNDLED):
        # by name: what goes on from RUN/start is no longer beside them
        learning = replace(learning, statistics=str(BUNDLED / "statistics.safetensors"))
        reading.settings = replace(reading.settings, learning=learning)
        config["learning"] = learning.described()
    windows = fitted(language_model, reading.settings.windows)
    if windows != reading.settings.windows:
        reading.settings = replace(reading.settings, windows=windows)
        config["windows"] = asdict(windows)
        say = f"driftlm: windows of {windows.context} tokens, {windows.stride} of them new, for a model of"
        print(f"{say} {language_model.positions} positions", file=sys.stderr)
    memory = memory_for(reading.settings, language_model, trainable=start.trainable, in_place=True)
    learner = next(iter(memory.learners().values()), None)
    reading.continues = start.trainable is not None
    config.setdefault(
        "model",
        {
            "name": language_model.place,
            "title": "the bundled model" if language_model.name == str(BUNDLED) else language_model.name,
            "fingerprint": language_model.fingerprint,
            **({"sha256": language_model.sha256} if language_model.sha256 else {}),
            "parameters": sum(parameter.numel() for parameter in language_model.model.parameters()),
            "trainable": sum(parameter.numel() for parameter in learner.parameters) if learner else 0,
        },
    )
    config |= {
        "versions": versions(),
        "seed": learning.seed,
    }
    config.setdefault("threads", torch.get_num_threads())
    if not machine.threads:  # they were measured, and may change
        config["thread_changes"] = []
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
