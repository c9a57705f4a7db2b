"""The `ray` engine: the readings of a study on a Ray cluster. Needs the `ray` extra."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.studies.cells import Cell
from driftlm.studies.engines import Attempts, MayBegin, Measure, always, answered, one_thread
from driftlm.studies.study import Row

ADDRESS = "RAY_ADDRESS"


def ray_cluster(
    readings: Sequence[Cell], data: Path, workers: int, measure: Measure, may_begin: MayBegin = always
) -> Iterator[tuple[Cell, Row]]:
    """Measure on the cluster that RAY_ADDRESS names, or on a Ray of this machine that ends with the study.

    Every machine of the cluster needs this package and the data under the same absolute path.

    Args:
        readings: what is measured.
        data: the folder of texts.
        workers: readings at a time; 0 is what the cluster has cores for.
        measure: makes a row.
        may_begin: says before each whether it may.

    Raises:
        DriftError: when Ray is missing, or a reading cannot be measured.
    """
    ray = imported()
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing phones home
        address = os.environ.get(ADDRESS, "local")
        here: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        if address == "local" and workers:
            here["num_cpus"] = workers
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **here)
    try:
        yield from on(ray, readings, data.resolve(), workers, measure, may_begin)
    finally:
        if ours:
            ray.shutdown()


def on(
    ray: Any, readings: Sequence[Cell], data: Path, workers: int, measure: Measure, may_begin: MayBegin
) -> Iterator[tuple[Cell, Row]]:
    """Measure on a cluster that is connected to; Ray's own retries are off, so that they are counted here."""
    remote = ray.remote(num_cpus=1, max_retries=0)(task)
    attempts = Attempts.of(readings, may_begin)
    running: dict[Any, tuple[int, Cell]] = {}
    most = workers or len(readings)
    try:
        while attempts.are_left() or running:
            while attempts.are_left() and len(running) < most:
                place, reading = attempts.waiting.popleft()
                running[remote.remote(measure, reading, data)] = place, reading
            if not running:
                break
            (done, *_), _ = ray.wait(list(running))
            place, reading = running.pop(done)
            try:
                answer = ray.get(done)
            except ray.exceptions.RayError as error:
                answer = {"failed": f"its worker was lost ({type(error).__name__})"}
            row = attempts.row(place, reading, answer)
            if row is not None:
                yield reading, row
    finally:
        for one in running:
            ray.cancel(one, force=True)


def task(measure: Measure, reading: Cell, data: Path) -> dict[str, Any]:
    """Return what a worker of the cluster does."""
    one_thread()
    return answered(measure, reading, data)


def imported() -> Any:
    """Return the module."""
    try:
        import ray
    except ImportError as error:
        raise DriftError(
            'The engine ray is a package of its own, which is not installed; run: pip install "driftlm[ray]", '
            "or give `ClaimStudy.engine` local."
        ) from error
    return ray
