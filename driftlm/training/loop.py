"""The loop of every training: steps, a log, held-out checks, checkpoints; it goes on where it was stopped."""

import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from driftlm.core.errors import DriftError
from driftlm.storage.files import write_atomically
from driftlm.streams.questions import QuestionStream, read_questions

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
HELD_OUT = 20  # one document in so many

Losses = TypeVar("Losses")
Made = TypeVar("Made", covariant=True)
Line = dict[str, Any]


class Counted(Protocol):
    """How far a training is."""

    step: int


class Planned(Protocol):
    """How far it is to go."""

    @property
    def steps(self) -> int: ...


class Trainer(Protocol[Made]):
    """What learns; `state` and `restore` are exact."""

    @property
    def progress(self) -> Counted: ...

    @property
    def settings(self) -> Planned: ...

    def step(self) -> Made: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


@dataclass
class Loop(Generic[Losses]):
    """A training in a folder.

    Attributes:
        trainer: what learns.
        out: folder of the log and the checkpoint.
        log: steps between lines.
        check: steps between checkpoints, with held-out checks.
        means: of some steps, as a line of the log has them; `nats` is among them.
        checked: held-out results, for the line.
        shown: a line as a person reads it.
        written: called after every checkpoint.
        done: whether the training is to end before its steps are over; asked after a check.
        threads: CPU threads that were asked for; 0 for those that the checkpoint was trained on.
        spent: seconds before a stop.
    """

    trainer: Trainer[Losses]
    out: Path
    log: int
    check: int
    means: Callable[[Sequence[Losses]], Line]
    checked: Callable[[], Line]
    shown: Callable[[Line], str]
    written: Callable[[], object] = lambda: None
    done: Callable[[], bool] = lambda: False
    threads: int = 0
    spent: float = 0.0

    def resume(self, device: torch.device) -> bool:
        """Go on where the folder's checkpoint was taken, if there is one; what came after it leaves the log."""
        if not (self.out / CHECKPOINT).exists():
            return False
        state = torch.load(self.out / CHECKPOINT, weights_only=True, map_location=device)
        torch.set_num_threads(self.threads or state.get("threads", torch.get_num_threads()))
        self.trainer.restore(state)
        return True

    def trim(self) -> None:
        """Let the log end where the training goes on."""
        step = self.trainer.progress.step
        kept = [line for line in lines_of(self.out / LOG) if line["step"] <= step]
        (self.out / LOG).write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.spent = kept[-1]["seconds"] if kept else 0.0
        say(f"going on at step {step} of {self.trainer.settings.steps}")

    def run(self) -> Line:
        """Take the steps; returns the last line of the log. Seconds count on from those spent before a stop.

        Raises:
            DriftError: when the loss is not a number.
        """
        began, losses, trainer = time.monotonic() - self.spent, list[Losses](), self.trainer
        line = next(iter(lines_of(self.out / LOG)[-1:]), Line())
        while trainer.progress.step < trainer.settings.steps and not self.done():
            losses.append(trainer.step())
            step = trainer.progress.step
            checks = step % self.check == 0 or step == trainer.settings.steps
            if step % self.log == 0 or checks:
                line = {"step": step, "seconds": round(time.monotonic() - began, 1), **self.means(losses)}
                if not math.isfinite(line["nats"]):
                    raise DriftError(
                        f"the loss is not a number at step {step}; go on from {self.out} with a lower "
                        f"`BankTraining.rate`."
                    )
                line |= self.checked() if checks else {}
                with (self.out / LOG).open("a") as file:
                    file.write(json.dumps(line) + "\n")
                say(self.shown(line))
                losses = []
            if checks:
                state = trainer.state() | {"threads": torch.get_num_threads()}
                write_atomically(self.out / CHECKPOINT, partial(torch.save, state))
                self.written()
        return line


def divided(source: str, seed: int) -> tuple[QuestionStream, QuestionStream]:
    """Divide a file of documents and questions into what is learned and what is held out, one document in twenty."""
    whole = read_questions(source)
    documents = list(whole.documents)
    random.Random(seed).shuffle(documents)
    kept_out = {document.id for document in documents[: max(1, len(documents) // HELD_OUT)]}
    learned, watched = (
        replace(
            whole,
            documents=tuple(d for d in whole.documents if (d.id in kept_out) == out),
            questions=tuple(q for q in whole.questions if (q.document in kept_out) == out),
        )
        for out in (False, True)
    )
    return learned, watched


def lines_of(path: Path) -> list[Line]:
    """Return a log's lines, a torn last one left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def say(text: str) -> None:
    """Say a line on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
