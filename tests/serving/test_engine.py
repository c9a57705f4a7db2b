"""The queue before the engine: bounded, in order, left by who does not wait, refused when it stops."""

import threading
from pathlib import Path

import pytest

from driftlm import Document, DriftError
from driftlm.live.tenants import Tenants
from driftlm.serving.engine import Busy, Engine, Stopping, Unusable
from tests.live.homes import KINDS, model
from tests.serving.servers import server


def test_jobs_run_in_order_and_as_many_wait_as_may(tmp_path: Path) -> None:
    with server(tmp_path, queue=2) as one:
        ran = list[int]()
        with one.occupied():
            first, second = (one.engine.submit("ada", lambda home, n=n: ran.append(n)) for n in range(2))
            with pytest.raises(Busy, match="2 requests are waiting") as busy:
                one.engine.submit("ada", lambda home: ran.append(9))
            assert busy.value.seconds >= 1
            first.leave()  # makes room
            third = one.engine.submit("ada", lambda home: ran.append(3))
        third.result.result(30)
        assert ran == [1, 3] and first.result.cancelled() and second.result.done()


def test_what_fails_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "bo").mkdir()
    (tmp_path / "bo" / "home.json").write_text("{}")

    def fails(home: object) -> None:
        raise ZeroDivisionError

    with server(tmp_path) as one:
        with pytest.raises(ZeroDivisionError):
            one.engine.submit("ada", fails).result.result(30)
        with pytest.raises(Unusable, match="damaged"):
            one.engine.submit("bo", fails).result.result(30)
        assert one.engine.submit("ada", lambda home: home.read(Document("a", "the sea")).seq).result.result(30) == 1


def test_stopping_finishes_what_began_and_refuses_the_rest(tmp_path: Path) -> None:
    begun, end = threading.Event(), threading.Event()

    def slow(home: object) -> int:
        begun.set()
        end.wait(30)
        return home.read(Document("a", "the sea")).seq  # type: ignore[attr-defined, no-any-return]

    with Engine(Tenants(tmp_path, model(), KINDS["words"]), 4) as engine:
        running = engine.submit("ada", slow)
        assert begun.wait(30)
        waiting = engine.submit("ada", slow)
        engine.drain()
        with pytest.raises(Stopping):
            waiting.result.result(30)
        with pytest.raises(Stopping):
            engine.submit("ada", slow)
        end.set()
    assert running.result.result(0) == 1
    assert engine.tenants.in_memory() == [] and (tmp_path / "ada" / "state").exists()


def test_homes_that_cannot_be_closed_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(tenants: Tenants) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Tenants, "close", fails)
    with pytest.raises(OSError, match="full"), server(tmp_path):
        pass


def test_a_queue_has_room(tmp_path: Path) -> None:
    with pytest.raises(DriftError, match="--queue was 0"):
        Engine(Tenants(tmp_path, model(), KINDS["words"]), 0)
