"""The queue before the engine: bounded, in order, left by who does not wait, refused when it stops."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from driftlm import Document, DriftError
from driftlm.homes.completing import Asked, Sampling
from driftlm.homes.home import Home
from driftlm.homes.prompts import continued
from driftlm.homes.tenants import Tenants
from driftlm.serving.engine import Busy, Engine, Stopping, Unusable
from tests.support.homes import KINDS, model
from tests.support.servers import Server, server


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


def question(ran: list[str], name: str, tokens: int = 3) -> Callable[[Home], Asked]:
    """The work of an answer, which says when it begins."""

    def work(home: Home) -> Asked:
        ran.append(name)
        return Asked(home.memory, continued(model(), "the sea"), Sampling(tokens, 0, alternatives=0), tokens)

    return work


def batches(one: Server) -> list[str]:
    """Those counted, and the answers in them."""
    lines = one.engine.metrics.text({}).splitlines()
    return sorted(line for line in lines if line.startswith("driftlm_answer"))


def test_answers_join_one_that_begins_but_pass_nothing_of_their_own_tenant(tmp_path: Path) -> None:
    """And what was first in the queue is next, whatever came behind it."""
    ran, known = list[str](), dict[str, int]()

    def reads(home: Home) -> None:
        ran.append("read")
        home.read(Document("a", "the sea and the ship"))

    def asks(name: str) -> Callable[[Home], Asked]:
        def work(home: Home) -> Asked:
            known[name] = len(home.history)
            return question(ran, name)(home)

        return work

    with server(tmp_path) as one:
        with one.occupied():
            jobs = [one.engine.submit("ada", asks("first"), kind="asks"), one.engine.submit("ada", reads)]
            jobs += [one.engine.submit("ada", asks("behind the read"), kind="asks")]
            jobs += [one.engine.submit("bo", asks(f"bo {n}"), kind="asks") for n in range(2)]
        made = [job.result.result(30) for job in jobs]
        assert ran == ["first", "bo 0", "bo 1", "read", "behind the read"]
        assert known == {"first": 0, "bo 0": 0, "bo 1": 0, "behind the read": 1}
        assert batches(one) == ["driftlm_answer_batches_total 2.0", "driftlm_answers_begun_total 4.0"]
        assert made[0].text == made[3].text == made[4].text


@pytest.mark.parametrize(("batch", "most", "expected"), [(1, 4, 5), (2, 4, 3), (8, 1, 3), (8, 2, 2), (8, 4, 1)])
def test_a_batch_has_so_many_answers_of_so_many_tenants(tmp_path: Path, batch: int, most: int, expected: int) -> None:
    """Of ada, bo, ada, cy and bo."""
    with server(tmp_path, most_in_memory=most) as one:
        one.engine.batch = batch
        with one.occupied():
            jobs = [
                one.engine.submit(name, question([], name), kind="asks") for name in ("ada", "bo", "ada", "cy", "bo")
            ]
        assert len({job.result.result(30).text for job in jobs}) == 1
        assert batches(one)[0] == f"driftlm_answer_batches_total {expected}.0"


def test_what_fails_among_answers_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "bo").mkdir()
    (tmp_path / "bo" / "home.json").write_text("{}")

    def fails(home: Home) -> Asked:
        raise ZeroDivisionError

    with server(tmp_path, most_in_memory=3) as one:
        with one.occupied():
            bad = one.engine.submit("bo", question([], "bo"), kind="asks")
            worse = one.engine.submit("ada", fails, kind="asks")
            long = one.engine.submit("ada", question([], "ada", 9999), kind="asks")
            left = one.engine.submit("cy", question([], "cy"), kind="asks")
            good = one.engine.submit("cy", question([], "cy"), kind="asks")
            left.leave()
        with pytest.raises(Unusable, match="damaged"):
            bad.result.result(30)
        with pytest.raises(ZeroDivisionError):
            worse.result.result(30)
        with pytest.raises(DriftError, match="positions"):
            long.result.result(30)
        assert good.result.result(30).completion_tokens == 3 and left.result.cancelled()
        assert one.engine.submit("ada", lambda home: 1).result.result(30) == 1


def test_a_batch_and_a_queue_have_room(tmp_path: Path) -> None:
    with pytest.raises(DriftError, match="`Engine.queue` was 0"):
        Engine(Tenants(tmp_path / "one", model(), KINDS["words"]), 0)
    with pytest.raises(DriftError, match="`Engine.batch` was 0"):
        Engine(Tenants(tmp_path / "other", model(), KINDS["words"]), 4, 0)
