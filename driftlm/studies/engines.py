"""Engines: what measures the readings of a study, several at a time; here, processes on this machine."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, Protocol

from driftlm.core.errors import DriftError
from driftlm.studies.cells import Cell
from driftlm.studies.study import Row

EngineName = Literal["local", "ray"]
ENGINES = {"local": "driftlm.studies.engines:local", "ray": "driftlm.studies.ray_engine:ray_cluster"}
TRIES = 3  # of a reading whose worker was lost, or that failed for no reason that a user can mend

Measure = Callable[[Cell, Path], Row]
MayBegin = Callable[[], bool]


def always() -> bool:
    """Let every reading begin."""
    return True


class Engine(Protocol):
    """Measures readings and gives each with its row as soon as it is there; the order is not promised.

    A reading whose worker is lost, or that fails, is tried again, `TRIES` times in all; one that is refused (a
    `DriftError`) ends the study at once. Before each it is asked whether one may begin. Every worker uses one thread,
    so that rows do not depend on the engine.
    """

    def __call__(
        self, readings: Sequence[Cell], data: Path, workers: int, measure: Measure, may_begin: MayBegin = always
    ) -> Iterator[tuple[Cell, Row]]: ...


def engine_of(name: str) -> Engine:
    """Return the engine of a name."""
    if name not in ENGINES:
        raise DriftError(f"`ClaimStudy.engine` was {name!r}; give {' or '.join(ENGINES)}.")
    module, attribute = ENGINES[name].split(":")
    engine: Engine = getattr(import_module(module), attribute)
    return engine


def cores() -> int:
    """Return CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread() -> None:
    """Let this worker compute on one core."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


# ---- answers of a worker --------------------------------------------------------------------------------------------


def answered(measure: Measure, reading: Cell, data: Path) -> dict[str, Any]:
    """Return what a worker sends back: `row`, or `refused` with its sentence, or `failed` with what happened."""
    try:
        return {"row": measure(reading, data)}
    except DriftError as error:
        return {"refused": str(error)}
    except Exception:
        return {"failed": traceback.format_exc()}


@dataclass
class Attempts:
    """Readings that wait for a worker, and what happened to those that failed.

    Attributes:
        waiting: with their place in the study.
        may_begin: says whether another may.
        failures: by place, what happened each time.
    """

    waiting: deque[tuple[int, Cell]]
    may_begin: MayBegin
    failures: dict[int, list[str]] = field(default_factory=dict)

    @staticmethod
    def of(readings: Sequence[Cell], may_begin: MayBegin) -> "Attempts":
        """Return the attempts of which none was tried yet."""
        return Attempts(deque(enumerate(readings)), may_begin)

    def are_left(self) -> bool:
        """Return whether a reading may begin."""
        return bool(self.waiting) and self.may_begin()

    def row(self, place: int, reading: Cell, answer: Mapping[str, Any]) -> Row | None:
        """Return the row of an answer; None where the reading is to be tried again.

        Raises:
            DriftError: where it was refused, or was tried often enough.
        """
        if "row" in answer:
            row: Row = answer["row"]
            return row
        named = f"the reading {reading.setting!r} of {reading.text} (seed {reading.seed})"
        if "refused" in answer:
            raise DriftError(f"{named} is impossible: {answer['refused']}")
        failures = self.failures.setdefault(place, [])
        failures.append(answer["failed"].strip().splitlines()[-1])
        if len(failures) == TRIES:
            raise DriftError(
                f"{named} failed {TRIES} times, at last with {failures[-1]!r}; "
                f"the finished ones are kept: mend that, then go on with `ClaimStudy.resume`."
            )
        self.waiting.append((place, reading))
        return None


# ---- processes on this machine --------------------------------------------------------------------------------------


@dataclass
class Worker:
    """A process, and the reading that it is at."""

    process: BaseProcess
    connection: Connection
    at: tuple[int, Cell] | None = None

    @staticmethod
    def start(data: Path, measure: Measure) -> "Worker":
        """Return a process that waits for readings."""
        context = multiprocessing.get_context("spawn")
        ours, its = context.Pipe()
        process = context.Process(target=work, args=(its, data, measure), daemon=True)
        process.start()
        its.close()
        return Worker(process, ours)

    def give(self, one: tuple[int, Cell]) -> bool:
        """Hand it a reading; False where it has died meanwhile."""
        self.at = one
        try:
            self.connection.send(one[1])
        except OSError:
            return False
        return True

    def answer(self) -> dict[str, Any]:
        """Return what it found; that it was lost is a failure."""
        try:
            received: dict[str, Any] = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return {"failed": f"its worker was lost (exit code {self.process.exitcode})"}
        return received

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def local(
    readings: Sequence[Cell], data: Path, workers: int, measure: Measure, may_begin: MayBegin = always
) -> Iterator[tuple[Cell, Row]]:
    """Yield the `local` engine: processes on this machine; `workers` 0 is one a core."""
    attempts = Attempts.of(readings, may_begin)
    running: list[Worker] = []
    most = min(workers or cores(), len(readings))
    try:
        while attempts.are_left() or any(worker.at for worker in running):
            while len(running) < most:
                running.append(Worker.start(data, measure))
            for worker in running:
                if worker.at is None and attempts.are_left():
                    worker.give(attempts.waiting.popleft())
            busy = [worker.connection for worker in running if worker.at]
            if not busy:  # none may begin any more
                break
            ready = wait(busy)
            for worker in [one for one in running if one.connection in ready]:
                assert worker.at is not None
                place, reading = worker.at
                answer, worker.at = worker.answer(), None
                if not worker.process.is_alive():
                    running.remove(worker)
                    worker.stop()
                row = attempts.row(place, reading, answer)
                if row is not None:
                    yield reading, row
    finally:
        for worker in running:
            worker.stop()


def work(connection: Connection, data: Path, measure: Measure) -> None:
    """Do what a worker's process does: measure what comes in, until its parent has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal ends the parent, which ends this
    threading.Thread(target=end_with_parent, daemon=True).start()
    one_thread()
    while True:
        try:
            reading = connection.recv()
        except EOFError:
            return
        connection.send(answered(measure, reading, data))


def end_with_parent() -> None:
    """End this process when its parent does, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
