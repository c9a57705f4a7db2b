"""Engines: every reading once, lost workers replaced, bugs not tried for ever, refusals at once."""

import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learning
from driftlm.streams.windows import Windows
from driftlm.studies.cells import Cell
from driftlm.studies.engines import TRIES, Measure, engine_of
from driftlm.studies.measuring import measure
from tests.support import working
from tests.support.running import tiny_model, words, written

pytestmark = pytest.mark.process

needs_ray = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(params=["local", pytest.param("ray", marks=needs_ray)])
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Any:
    """A Ray for all these tests: to start one takes seconds."""
    if find_spec("ray") is None:
        yield
        return
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def measured(engine: str, readings: list[Cell], data: Path, measure: Measure) -> dict[str, Any]:
    return {reading.setting: row for reading, row in engine_of(engine)(readings, data, 2, measure)}


def test_every_reading_is_measured_once(engine: str, tmp_path: Path) -> None:
    readings = working.many(7)
    rows = measured(engine, readings, tmp_path, working.noted)
    assert rows == {reading.setting: working.row_of(reading) for reading in readings}
    assert sorted(working.calls(tmp_path)) == sorted(rows)


def test_no_reading_begins_that_may_not(engine: str, tmp_path: Path) -> None:
    found = engine_of(engine)(working.many(3), tmp_path, 1, working.noted, lambda: not working.calls(tmp_path))
    assert [reading.setting for reading, _ in found] == working.calls(tmp_path) == ["0"]  # what has begun is finished
    assert not list(engine_of(engine)(working.many(3), tmp_path, 1, working.noted, lambda: False))
    assert working.calls(tmp_path) == ["0"]


def test_time_that_runs_out_while_workers_start_ends_the_study(engine: str, tmp_path: Path) -> None:
    answers = iter([True])
    begun = engine_of(engine)(working.many(2), tmp_path, 1, working.noted, lambda: next(answers, False))
    assert len(list(begun)) <= 1


def test_a_lost_worker_loses_no_reading(engine: str, tmp_path: Path) -> None:
    readings = working.many(4)
    rows = measured(engine, readings, tmp_path, working.dying_once)
    assert rows == {reading.setting: working.row_of(reading) for reading in readings}
    assert (tmp_path / "died").exists()
    assert sorted(working.calls(tmp_path)) == sorted(rows)  # those that were done are not done again


def test_what_failed_is_tried_again(engine: str, tmp_path: Path) -> None:
    assert set(measured(engine, working.many(2), tmp_path, working.failing_once)) == {"0", "1"}
    assert sorted(working.calls(tmp_path)) == ["0", "0", "1", "1"]


@pytest.mark.parametrize(("cell", "why"), [(working.failing, "a bug"), (working.dying, "lost")])
def test_what_always_fails_is_named(engine: str, cell: Measure, why: str, tmp_path: Path) -> None:
    with pytest.raises(DriftError, match=f"'0' of a \\(seed 0\\) failed {TRIES} times.*{why}.*`ClaimStudy.resume`"):
        measured(engine, working.many(1), tmp_path, cell)
    assert working.calls(tmp_path) == ["0"] * TRIES


def test_a_refusal_is_not_tried_again(engine: str, tmp_path: Path) -> None:
    with pytest.raises(DriftError, match="'0' of a .*this text is too short"):
        measured(engine, working.many(1), tmp_path, working.refusing)
    assert working.calls(tmp_path) == ["0"]


def test_engines_give_the_rows_that_this_process_gives(engine: str, tmp_path: Path) -> None:
    written(tmp_path, a=words(60))
    reading = Cell(
        "lora",
        ("a.txt",),
        100,
        Windows(context=64, stride=32),
        learning=Learning("lora", rank=2),
        model=str(tiny_model(tmp_path)),
    )
    (row,) = measured(engine, [reading], tmp_path, working.measured_and_threads).values()
    assert row.pop("threads") == 1
    assert without_time(row) == without_time(measure(reading, tmp_path))


def without_time(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "seconds"}


def test_a_worker_ends_when_its_study_is_left(tmp_path: Path) -> None:
    running = engine_of("local")(working.many(2), tmp_path, 2, working.ended_then_endless)
    next(running)
    while not (tmp_path / "worker").exists():
        time.sleep(0.01)
    running.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "worker").read_text()), 0)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(DriftError, match="`ClaimStudy.engine` was 'dask'; give local or ray"):
        engine_of("dask")


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_its_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(DriftError, match=r'pip install "driftlm\[ray\]"'):
        measured("ray", working.many(1), tmp_path, working.noted)
