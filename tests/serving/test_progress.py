"""What is being read: the sums of an own reading, in the middle of it, for nobody else, and gone when forgotten."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from driftlm import Document, DriftError, read_stream
from driftlm.memories.build import memory_for
from driftlm.memories.loop import Totals
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.serving import progress
from driftlm.serving.access import Tokens
from driftlm.serving.progress import DocumentProgress, Progress
from tests.support.homes import KINDS, model
from tests.support.running import words
from tests.support.servers import Server, server

pytestmark = pytest.mark.long

ADA, BO = "ada-0123456789abcdef", "bo-0123456789abcdef"
TOKENS = Tokens([f"ada {ADA}", f"bo {BO}"], "here")
LONG = ("long", words(60, 1))  # several windows of 16 tokens
KIND = "learns behind words"


def reading(one: Server, token: str = "") -> Any:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    reply = one.client.get("/v1/reading", headers=headers)
    assert reply.status_code == 200
    return reply.json()


@contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[threading.Event]:
    """Readings wait behind a number of windows, until the context ends; the event is set when one does."""
    learn, reached, go_on, seen = WeightMemory.learn, threading.Event(), threading.Event(), 0

    def waits(memory: WeightMemory, window: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == after:
            reached.set()
            assert go_on.wait(30)
        learn(memory, window)

    monkeypatch.setattr(WeightMemory, "learn", waits)
    try:
        yield reached
    finally:
        go_on.set()
        monkeypatch.undo()


def test_the_lines_are_the_sums_of_every_window(tmp_path: Path) -> None:
    memory, static = memory_for(KINDS[KIND], model(), None), memory_for(KINDS[KIND], model(), None).static()
    expected, tokens, size, nats, fixed = [], 0, 0, 0.0, 0.0
    for step in read_stream(memory, [Document(*LONG)], baseline=static):
        tokens, size = tokens + len(step.nats), size + step.window.bytes
        nats, fixed = nats + math.fsum(step.nats.tolist()), fixed + math.fsum(step.static_nats.tolist())
        expected.append((tokens, size, nats / size / math.log(2), fixed / size / math.log(2)))
    assert len(expected) > 3 and expected[-1][2] != expected[-1][3]

    with server(tmp_path, KIND) as one:
        assert reading(one) == {"object": "reading", "tenant": "default", "changes": 0, "document": None}
        one.read(LONG)
        found = reading(one)["document"]
    assert (found["id"], found["state"], found["seq"]) == ("long", "read", 1)
    assert found["of"] == found["tokens"] == expected[-1][0] and found["bytes"] == len(LONG[1])
    points = [tuple(point.values()) for point in found["points"]]
    assert [point[:2] for point in points] == [row[:2] for row in expected]
    for point, row in zip(points, expected, strict=True):
        assert point[2:] == pytest.approx(row[2:], rel=1e-6)


def test_a_reading_can_be_followed_by_its_tenant_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(tmp_path, KIND, tokens=TOKENS) as one:
        before = reading(one, ADA)["changes"]
        thread = threading.Thread(target=lambda: one.read(LONG, authorization=f"Bearer {ADA}"))
        with stopped(monkeypatch, after=2) as reached:
            thread.start()
            assert reached.wait(30)
            found = reading(one, ADA)  # while the thread that computes is busy
            others = reading(one, BO)
            assert one.client.get("/v1/reading").status_code == 401
        thread.join()
        assert found["tenant"] == "ada" and found["changes"] == before
        assert (found["document"]["state"], found["document"]["seq"]) == ("reading", None)
        assert found["document"]["tokens"] == 32 < found["document"]["of"] and len(found["document"]["points"]) == 2
        assert others == {"object": "reading", "tenant": "bo", "changes": 0, "document": None}
        after = reading(one, ADA)
        assert after["document"]["state"] == "read" and after["changes"] == before + 1
        assert reading(one, BO) == others


def test_of_what_is_left_behind_nothing_stays(tmp_path: Path) -> None:
    with server(tmp_path, KIND) as one:
        post = one.client.post
        one.read(LONG)
        post("/v1/snapshots", json={"name": "one"})
        assert reading(one)["document"]["id"] == "long"  # a snapshot changes what can be listed, not what was read
        assert post("/v1/memory/forget", json={"ids": ["long"], "cost": True}).status_code == 200
        first = reading(one)
        assert first["document"]["id"] == "long" and first["changes"] == 2
        assert one.client.delete("/v1/memory/long").status_code == 200
        second = reading(one)
        assert second["document"] is None and second["changes"] == 3
        one.read(("short", "the sea"))
        post("/v1/snapshots", json={"name": "two"})
        assert reading(one)["document"]["id"] == "short"
        assert post("/v1/snapshots/restore", json={"snapshot": "two"}).status_code == 200
        assert reading(one)["document"] is None
        changes = reading(one)["changes"]
        one.read(("short", "the sea"))  # read already: nothing begins
        assert reading(one) == {"object": "reading", "tenant": "default", "changes": changes, "document": None}
        assert one.client.delete("/v1/snapshots/two").status_code == 200
        assert reading(one)["changes"] == changes + 1


def test_a_reading_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn, seen = WeightMemory.learn, list[int]()

    def fails(memory: WeightMemory, window: Any) -> None:
        seen.append(window.index)
        if len(seen) == 2:
            raise DriftError("no")
        learn(memory, window)

    monkeypatch.setattr(WeightMemory, "learn", fails)
    with server(tmp_path, KIND) as one:
        assert one.read(LONG).status_code == 400
        found = reading(one)["document"]
        assert (found["state"], found["seq"], found["tokens"]) == ("failed", None, 32)
        assert one.client.get("/v1/memory").json()["documents"] == 0


def test_the_memory_it_takes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    long = DocumentProgress("a", 10**6)
    for window in range(1, 5001):
        long.add(Totals(tokens=window, bytes=window, nats=1.0, windows=window))
    points = [point["tokens"] for point in long.facts()["points"]]
    steps = {later - earlier for earlier, later in pairwise(points[:-1])}
    assert len(points) <= progress.POINTS + 1 and steps == {points[0]} and points[-1] == 5000

    monkeypatch.setattr(progress, "TENANTS", 2)
    held = Progress()
    for tenant in ("ada", "bo", "ada", "cy"):
        held.begin(tenant, DocumentProgress("a", 1))
    assert list(held.tenants) == ["ada", "cy"]


def test_what_is_not_finite_is_none() -> None:
    lost = DocumentProgress("a", 2)
    lost.add(Totals(tokens=2, bytes=2, nats=math.nan, windows=1))
    found = lost.facts()
    assert found["bits_per_byte"] is None and found["static_bits_per_byte"] is None
