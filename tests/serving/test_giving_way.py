"""A long reading gives way at every window to the answers that wait, and ends as well."""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from driftlm import Document, DriftError
from driftlm.homes.completing import Asked, Completion, Sampling
from driftlm.homes.decoding import complete
from driftlm.homes.home import Home
from driftlm.homes.prompts import continued
from driftlm.memories.build import memory_for
from driftlm.memories.loop import read_stream
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.serving.engine import Job
from driftlm.serving.memory_routes import read
from tests.support.homes import KINDS, assert_same, model, straight
from tests.support.running import words
from tests.support.servers import Server, events, server

KIND = "learns behind words"
LONG = Document("long", words(30, 1))
PROMPT = "the sea and the"


class Gate:
    """Readings wait before they learn from a window, counted from 1, until that is let through."""

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0
        self.reached, self.go_on = threading.Event(), threading.Event()


@contextmanager
def gated(monkeypatch: pytest.MonkeyPatch, *at: int) -> Iterator[list[Gate]]:
    """Gates before some windows."""
    gates, learn, seen = [Gate(number) for number in at], WeightMemory.learn, 0

    def waits(memory: WeightMemory, window: Any) -> None:
        nonlocal seen
        seen += 1
        for gate in gates:
            if gate.at == seen:
                gate.reached.set()
                assert gate.go_on.wait(30)
        learn(memory, window)

    monkeypatch.setattr(WeightMemory, "learn", waits)
    try:
        yield gates
    finally:
        for gate in gates:
            gate.go_on.set()


def asks(home: Home) -> Asked:
    """The work of an answer."""
    return Asked(home.memory, continued(model(), PROMPT), Sampling(3, 0, alternatives=0), 3)


def reads(one: Server, *documents: Document) -> Callable[[Home], Any]:
    """The work of a reading, as the route has it."""
    reader = partial(Home.read, between=one.engine.between_windows)
    return lambda home: read(home, list(documents), reader, one.engine.give_way)


def answer(one: Server, tenant: str = "ada") -> Job:
    return one.engine.submit(tenant, asks, kind="asks")


@contextmanager
def reading(one: Server, gates: list[Gate], *documents: Document) -> Iterator["Future[Any]"]:
    """Ada reads, and waits at the first gate; inside it goes no further until that is opened."""
    result = one.engine.submit("ada", reads(one, *documents), kind="reads").result
    assert gates[0].reached.wait(30)
    yield result
    for gate in gates:
        gate.go_on.set()
    result.result(30)


def test_an_answer_during_a_long_reading_is_given_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "all adam"
    memory, expected = memory_for(KINDS[kind], model(), None), list[Completion]()

    def by_now() -> None:
        expected.append(complete(memory, continued(model(), PROMPT), Sampling(8, 0, alternatives=0), 8))

    for _ in read_stream(memory, [LONG], between=by_now):
        pass
    with server(tmp_path, kind) as one, ThreadPoolExecutor() as pool, gated(monkeypatch, 3, 5) as (third, fifth):
        whole = pool.submit(one.read, (LONG.id, LONG.text))
        assert third.reached.wait(30)
        replies = [
            pool.submit(one.complete, PROMPT, max_tokens=8, logprobs=0, stream=stream) for stream in (False, True)
        ]
        while one.engine.waiting() < 2:
            assert not whole.done()
        third.go_on.set()
        plain, streamed = (reply.result(30) for reply in replies)
        assert fifth.reached.wait(30) and not whole.done()
        assert one.client.get("/v1/reading").json()["document"]["state"] == "reading"
        fifth.go_on.set()
        assert whole.result(30).status_code == 200
        pieces = [event["choices"][0]["logprobs"] for event in events(streamed.text)]
        in_pieces = [nats for piece in pieces if piece for nats in piece["token_logprobs"]]
        for found in (plain.json()["choices"][0]["logprobs"]["token_logprobs"], in_pieces):
            near = [found == pytest.approx([token.logprob for token in one.tokens], abs=1e-5) for one in expected]
            assert near == [place == 2 for place in range(len(expected))]
        for reply in (plain, streamed):
            assert re.fullmatch(r"wait;dur=\d+\.\d", reply.headers["server-timing"])
        lines = one.client.get("/metrics").text.splitlines()
        assert {"driftlm_wait_seconds_count 2.0", f"driftlm_window_seconds_count {len(expected)}.0"} <= set(lines)
        with one.engine.tenants.using("default") as home:
            assert_same(home.memory.state(), straight(KINDS[kind], [LONG]))


def test_at_least_one_window_is_read_between_two_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where somebody asks again as soon as an answer is there."""
    happened, learn = list[str](), WeightMemory.learn

    def noted(memory: WeightMemory, window: Any) -> None:
        happened.append("window")
        learn(memory, window)

    monkeypatch.setattr(WeightMemory, "learn", noted)
    with server(tmp_path, KIND) as one:
        done = threading.Event()

        def again(result: "Future[Completion]") -> None:
            happened.append("answer")
            if not done.is_set():
                answer(one).result.add_done_callback(again)

        with one.occupied():
            job = one.engine.submit("ada", reads(one, LONG), kind="reads")
            answer(one).result.add_done_callback(again)
        job.result.result(30)
        done.set()
    story = "".join(event[0] for event in happened)
    windows = story.count("w")
    assert windows > 4 and story.startswith("wa" * windows)


def test_who_asks_another_home_waits_for_one_window_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no second home stays in memory; and each is asked by its own weights."""
    plain = complete(memory_for(KINDS[KIND], model(), None), continued(model(), PROMPT), Sampling(3, 0), 3).text
    with server(tmp_path, KIND, most_in_memory=1) as one, gated(monkeypatch, 2, 3, 4) as (second, third, fourth):
        with reading(one, [second, third, fourth], LONG) as whole:
            jobs = [answer(one, name) for name in ("bo", "ada", "cy")]
            second.go_on.set()
            assert jobs[0].result.result(30).text == plain and third.reached.wait(30)
            third.go_on.set()
            jobs[1].result.result(30)
            fourth.go_on.set()
            assert jobs[2].result.result(30).text == plain
        assert len(whole.result(0)) == 1
        assert one.engine.tenants.in_memory() == ["ada"]


def test_an_answer_passes_readings_that_wait_and_nothing_else_begins_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, short = list[str](), [Document(f"short {number}", "the sea") for number in range(3)]

    def noted(name: str, job: Job) -> Job:
        job.result.add_done_callback(lambda _: order.append(name))
        return job

    with server(tmp_path, KIND) as one, gated(monkeypatch, 2) as gates:
        with reading(one, gates, LONG) as whole:
            whole.add_done_callback(lambda _: order.append("long"))
            kept = noted("snapshot", one.engine.submit("ada", lambda home: len(home.snapshot("s").history)))
            noted("several", one.engine.submit("ada", reads(one, *short[:2]), kind="reads"))
            noted("short", one.engine.submit("ada", reads(one, short[2]), kind="reads"))
            noted("first", answer(one))
        assert kept.result.result(30) == 1
        with one.occupied():
            last = noted("last", one.engine.submit("ada", lambda home: len(home.history)))
            noted("second", answer(one, "bo"))
        assert last.result.result(30) == 4
    assert order[:2] == ["first", "long"] and order[2:] == ["snapshot", "several", "short", "last", "second"]


@pytest.mark.parametrize("requests", [[1, 1, 1], [3]])
def test_an_answer_behind_short_readings_waits_for_one_of_them(tmp_path: Path, requests: list[int]) -> None:
    """Each document is one window, whether it comes by itself or with others."""
    order, short = list[str](), [Document(f"short {number}", "the sea") for number in range(3)]

    def noted(job: Job, name: str) -> Job:
        job.result.add_done_callback(lambda _: order.append(name))
        return job

    def read_next(home: Home, document: Document) -> Any:
        order.append(document.id)
        return home.read(document)

    with server(tmp_path, KIND) as one:
        give_way = one.engine.give_way
        with one.occupied():
            for size in requests:
                some, short = short[:size], short[size:]
                one.engine.submit("ada", lambda home, some=some: read(home, some, read_next, give_way), kind="reads")  # type: ignore[misc]
            jobs = [noted(answer(one, name), f"answer of {name}") for name in ("ada", "bo")]
        for job in jobs:
            job.result.result(30)
        one.engine.submit("ada", lambda home: None).result.result(30)
    assert order == ["short 0", "answer of ada", "answer of bo", "short 1", "short 2"]


def test_an_answer_that_fails_or_is_left_does_the_reading_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(home: Home) -> Asked:
        raise ZeroDivisionError

    with server(tmp_path, KIND) as one, gated(monkeypatch, 2) as gates:
        with reading(one, gates, LONG):
            bad, left, good = one.engine.submit("ada", fails, kind="asks"), answer(one), answer(one)
            left.leave()
        with pytest.raises(ZeroDivisionError):
            bad.result.result(30)
        assert good.result.result(30).completion_tokens == 3 and left.result.cancelled()
        with one.engine.tenants.using("ada") as home:
            assert_same(home.memory.state(), straight(KINDS[KIND], [LONG]))


def test_a_reading_that_fails_behind_an_answer_leaves_the_home_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, seen = WeightMemory.learn, list[int]()

    def fails(memory: WeightMemory, window: Any) -> None:
        seen.append(window.index)
        if seen[-1] == 2:
            raise DriftError("no")
        learn(memory, window)

    with server(tmp_path, KIND) as one:
        first = Document("first", "the sea and the ship")
        one.engine.submit("ada", reads(one, first), kind="reads").result.result(30)
        monkeypatch.setattr(WeightMemory, "learn", fails)
        with one.occupied():
            whole = one.engine.submit("ada", reads(one, LONG), kind="reads")
            asked = answer(one)
        assert asked.result.result(30).completion_tokens == 3
        with pytest.raises(DriftError, match="no"):
            whole.result.result(30)
        monkeypatch.setattr(WeightMemory, "learn", learn)
        with one.engine.tenants.using("ada") as home:
            assert_same(home.memory.state(), straight(KINDS[KIND], [first]))


def test_stopping_in_the_middle_of_a_reading_ends_it_and_refuses_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(tmp_path, KIND) as one, gated(monkeypatch, 2) as gates, reading(one, gates, LONG) as whole:
        waits = answer(one)
        one.engine.drain()
        with pytest.raises(DriftError, match="stopping"):
            waits.result.result(30)
        gates[0].go_on.set()
        assert len(whole.result(30)) == 1
