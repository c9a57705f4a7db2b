"""The routes: what they give, that a stream is the whole in pieces, and that everything malformed is a clear 4xx."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driftlm import Document, DriftError
from driftlm.homes.home import Home
from driftlm.homes.journal import Entry
from driftlm.serving.settings import Limits
from tests.support.homes import KINDS, home_in
from tests.support.running import words
from tests.support.servers import MODEL, Server, events, server

pytestmark = pytest.mark.long

STORM = ("a/1", "the storm was on the red sea")
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "the sea"}]}
PLAIN = {"model": MODEL, "prompt": "the sea"}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("homes"), limits=Limits(max_tokens=32, max_body=20_000)) as made:
        yield made


def test_what_was_read_can_be_asked_listed_and_forgotten(tmp_path: Path) -> None:
    with (
        server(tmp_path / "homes", "learns behind words") as one,
        home_in(tmp_path / "own", KINDS["learns behind words"]) as own,
    ):
        (read,) = one.read(STORM).json()["data"]
        expected = own.read(Document(*STORM))
        assert (read["id"], read["seq"], read["nats"]) == ("a/1", 1, expected.totals.nats)
        assert read["learned"] is True and read["stored"] == ["bm25"]
        made = one.chat("the red sea", max_tokens=24).json()
        answer = own.answer("the red sea")
        assert made["choices"][0]["message"]["content"] == answer.text
        assert made["documents"] == [{"id": id, "share": share} for id, share in answer.documents] != []
        assert one.read(STORM).json()["data"][0]["seq"] == 1  # sent again, it is not read again
        assert one.client.post("/v1/read", json={"text": "a ship"}).json()["data"][0]["id"].startswith("text-")

        first = one.client.get("/v1/memory", params={"limit": 1}).json()
        assert [row["id"] for row in first["data"]] == ["a/1"] and first["has_more"] and first["documents"] == 2
        rest = one.client.get("/v1/memory", params={"after": 1}).json()
        assert [row["seq"] for row in rest["data"]] == [2] and not rest["has_more"]
        assert one.client.get("/v1/memory/a/1").json()["text"] == STORM[1]
        planned = one.client.post("/v1/memory/forget", json={"ids": ["a/1"], "cost": True}).json()
        assert planned["forgotten"] == [] and planned["cost"]["documents"] == 1
        assert one.client.delete("/v1/memory/a/1").json()["forgotten"] == ["a/1"]
        assert one.client.get("/v1/memory/a/1").status_code == 404
        assert not any(b"storm" in path.read_bytes() for path in (tmp_path / "homes").rglob("*") if path.is_file())


def test_documents_expire_and_states_come_back(tmp_path: Path) -> None:
    rows = [{"id": f"d{year}", "text": words(6, year), "time": f"{year}-05-01"} for year in (2001, 2002, 2003)]
    with server(tmp_path) as one:
        post = one.client.post
        assert post("/v1/read", json={"documents": [*rows, {"id": "no time", "text": "the sea"}]}).status_code == 200
        made = post("/v1/snapshots", json={"name": "all"}).json()
        assert made["documents"] == 4 and post("/v1/snapshots", json={"name": "all"}).status_code == 400
        back = post("/v1/snapshots/restore", json={"before": "d2003"}).json()
        assert back["restored"] and back["documents"] == 2
        assert post("/v1/snapshots/restore", json={"as_of": "2001"}).json()["documents"] == 1
        planned = post("/v1/snapshots/restore", json={"snapshot": "all", "cost": True}).json()
        assert not planned["restored"] and planned["documents"] == 1
        assert post("/v1/snapshots/restore", json={"snapshot": "all"}).json()["documents"] == 4
        assert post("/v1/memory/expire", json={"before": "2000"}).json()["forgotten"] == []
        gone = post("/v1/memory/expire", json={"before": "2003"}).json()
        assert gone["forgotten"] == ["d2001", "d2002"] and gone["held_by"] == ["all"]
        assert one.client.get("/v1/snapshots").json()["data"][0]["holds_forgotten"] is True
        refused = post("/v1/snapshots/restore", json={"snapshot": "all"})
        assert refused.status_code == 400 and str(tmp_path) not in refused.text and "HOME" in refused.text
        assert post("/v1/memory/forget", json={"ids": ["d2003"], "purge": True}).json()["held_by"] == []


def test_what_came_before_a_document_that_cannot_be_read_is_kept(one: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Home.read

    def not_the_second(home: Home, document: Document, *more: Any) -> Entry:
        if document.id == "second":
            raise DriftError(f"{home.folder} is full; empty it.")
        return read(home, document, *more)

    monkeypatch.setattr(Home, "read", not_the_second)
    refused = one.read(("first", "the sea"), ("second", "a storm"), ("third", "a ship"))
    assert refused.status_code == 400 and refused.json()["read"] == ["first"]
    assert refused.json()["error"]["message"] == "the document 'second': HOME is full; empty it."
    assert one.client.get("/v1/memory/first").status_code == 200
    assert one.client.get("/v1/memory/third").status_code == 404


@pytest.mark.parametrize("more", [{}, {"stop": ["e", "th"]}, {"temperature": 1, "seed": 7}, {"max_tokens": 1}])
def test_a_stream_is_the_whole_in_pieces(one: Server, more: dict[str, Any]) -> None:
    whole = one.chat("the ship", logprobs=True, top_logprobs=2, **more).json()
    parts = events(one.chat("the ship", logprobs=True, top_logprobs=2, stream=True, **more).text)
    choices = [part["choices"][0] for part in parts]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    tokens = [token for choice in choices for token in (choice["logprobs"] or {"content": []})["content"]]
    assert (text, tokens) == (whole["choices"][0]["message"]["content"], whole["choices"][0]["logprobs"]["content"])
    reasons = [choice["finish_reason"] for choice in choices]
    assert reasons == [*[None] * (len(choices) - 1), whole["choices"][0]["finish_reason"]]
    assert {part["id"] for part in parts} == {parts[0]["id"]} and whole["object"] == "chat.completion"

    whole = one.complete("the ship", logprobs=2, **more).json()
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    *parts, usage = events(one.complete("the ship", logprobs=2, **asked, **more).text)
    assert "".join(part["choices"][0]["text"] for part in parts) == whole["choices"][0]["text"]
    assert usage["usage"] == whole["usage"] and usage["choices"] == []
    held = whole["choices"][0]["logprobs"]
    assert len(held["tokens"]) == len(held["top_logprobs"]) == len(held["text_offset"])
    assert not any(stop in whole["choices"][0]["text"] for stop in more.get("stop", ()))


def test_a_full_queue_says_when_to_come_again(one: Server) -> None:
    with one.occupied():
        jobs = [one.engine.submit("default", lambda home: None) for _ in range(one.engine.queue)]
        for refused in (one.chat("the sea"), one.read(STORM), one.client.get("/v1/memory")):
            assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["type"] == "rate_limit_error"
        assert one.client.get("/health").status_code == 200  # these need no turn
        assert f"driftlm_jobs_waiting {len(jobs)}" in one.client.get("/metrics").text
    jobs[-1].result.result(30)
    assert one.chat("the sea").status_code == 200


def test_who_goes_away_is_not_worked_for(one: Server) -> None:
    left = asyncio.Event()

    async def ask(stream: bool, leave_at: str) -> list[Any]:
        left.clear()
        sent, body = [], json.dumps(CHAT | {"stream": stream, "max_tokens": 30}).encode()
        waiting = [{"type": "http.request", "body": body, "more_body": False}]
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"}
        scope |= {"path": "/v1/chat/completions", "raw_path": b"", "query_string": b"", "headers": headers}

        async def receive() -> Any:
            if waiting:
                return waiting.pop()
            if leave_at == "once":
                return {"type": "http.disconnect"}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == leave_at:
                left.set()

        await one.app(scope, receive, send)
        return sent

    def written() -> float:
        lines = one.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("driftlm_completion_tokens_total"))

    before = written()
    with one.occupied():
        assert asyncio.run(ask(False, "once"))[0]["status"] == 499
        assert asyncio.run(ask(True, "once"))[0]["status"] == 499
        assert one.engine.waiting() == 0
    assert written() == before
    asyncio.run(ask(True, "http.response.body"))  # while it is written: the job ends, and the next is served
    assert one.chat("the sea", max_tokens=1).status_code == 200


def test_what_fails_in_the_server_says_nothing_of_it(one: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("driftlm.homes.completing.choose", fails)
    one.client._transport.raise_server_exceptions = False
    refused = one.chat("the sea")
    assert refused.status_code == 500 and "secret" not in refused.text and "log" in refused.json()["error"]["message"]


DEEP = b'{"model": ' + b"[" * 5000 + b"]" * 5000 + b"}"
MALFORMED: list[tuple[str, str, Any]] = [
    *[("POST", "/v1/completions", PLAIN | more) for more in (
        {"prompt": None}, {"prompt": 7}, {"prompt": []}, {"prompt": ["a", "b"]}, {"prompt": [1, "a"]},
        {"n": 2}, {"n": 0}, {"prompt": [-1]}, {"prompt": [300]}, {"prompt": [[1], [2]]}, {"prompt": [[]]},
        {"best_of": 3}, {"echo": "yes"}, {"suffix": "x"}, {"max_tokens": 0}, {"max_tokens": -1},
        {"prompt": [1.0]}, {"max_tokens": 1.5}, {"max_tokens": "8"}, {"max_tokens": True},
        {"max_tokens": 33}, {"max_tokens": 10**30}, {"temperature": -1},
        {"temperature": 3}, {"temperature": "hot"}, {"top_p": 0}, {"top_p": 1.1}, {"seed": 2**64}, {"seed": "a"},
        {"stop": ""}, {"stop": [""]}, {"stop": ["a"] * 5}, {"stop": "x" * 300}, {"stream": "yes"}, {"logprobs": 6},
        {"logprobs": -1}, {"logprobs": True}, {"model": "gpt-4"}, {"model": ""}, {"model": "../tiny-llama"},
        {"presence_penalty": 1.0}, {"frequency_penalty": -1.0}, {"logit_bias": {"5": 1.0}}, {"nonsense": 1},
        {"stream_options": {"include_usage": True}}, {"stream": True, "stream_options": {"x": 1}}, {"user": 5},
        {"prompt": "the " * 3000}, {"tenant": "bo"},
    )],
    *[("POST", "/v1/chat/completions", CHAT | more) for more in (
        {"messages": []}, {"messages": "hello"}, {"messages": [{"role": "user"}]}, {"messages": [{"content": "a"}]},
        {"messages": [{"role": "robot", "content": "a"}]}, {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": None}]}, {"messages": [{"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]},
        {"tools": [{"type": "function"}]}, {"response_format": {"type": "json_object"}}, {"top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 21}, {"logprobs": 3}, {"n": 5}, {"max_completion_tokens": 0},
        {"max_completion_tokens": 99}, {"prompt": "a"},
    )],
    *[("POST", "/v1/read", body) for body in (
        {}, {"text": ""}, {"text": 5}, {"documents": []}, {"text": "a", "documents": [{"id": "a", "text": "b"}]},
        {"documents": [{"id": "a"}]}, {"documents": [{"id": "", "text": "b"}]}, {"documents": [{"id": 1, "text": "b"}]},
        {"documents": [{"id": "a" * 513, "text": "b"}]}, {"documents": [{"id": "a", "text": "b", "path": "/etc"}]},
        {"documents": [{"id": "a", "text": "b"}] * 257}, {"documents": {"id": "a", "text": "b"}}, [], "text", 5, None,
    )],
    ("POST", "/v1/read", b'{"text": "\\ud800"}'), ("POST", "/v1/read", b"{"), ("POST", "/v1/read", b""),
    ("POST", "/v1/read", b"\xff\xfe"), ("POST", "/v1/read", DEEP), ("POST", "/v1/read", b'{"text": NaN}'),
    ("POST", "/v1/completions", b'{"model": "tiny-llama", "prompt": "a", "temperature": NaN}'),
    ("POST", "/v1/completions", b'{"model": "tiny-llama", "prompt": "a", "seed": ' + b"9" * 5000 + b"}"),
    ("POST", "/v1/memory/forget", {"ids": []}), ("POST", "/v1/memory/forget", {"ids": ["never read"]}),
    ("POST", "/v1/memory/forget", {"ids": "a"}), ("POST", "/v1/memory/expire", {"before": "soon"}),
    ("POST", "/v1/memory/expire", {}), ("GET", "/v1/memory?limit=0", None), ("GET", "/v1/memory?limit=5000", None),
    ("GET", "/v1/memory?after=x", None), ("GET", "/v1/memory/never", None), ("DELETE", "/v1/memory/never", None),
    ("GET", "/v1/memory/..%2F..%2Fetc%2Fpasswd", None), ("GET", "/v1/memory/%00", None),
    ("GET", "/v1/memory/%ff", None),
    *[("POST", "/v1/snapshots", {"name": name}) for name in ("", "../x", "/x", "a/b", "..", ".x", "a" * 65, "x\n", 5)],
    ("POST", "/v1/snapshots/restore", {}), ("POST", "/v1/snapshots/restore", {"snapshot": "never"}),
    ("POST", "/v1/snapshots/restore", {"snapshot": "../../x"}), ("POST", "/v1/snapshots/restore", {"before": "never"}),
    ("POST", "/v1/snapshots/restore", {"as_of": "soon"}),
    ("POST", "/v1/snapshots/restore", {"as_of": "1", "before": "a"}),
    ("GET", "/v1/models/gpt-4", None), ("GET", "/v1/embeddings", None), ("PUT", "/v1/memory", {}), ("GET", "/v2", None),
    ("DELETE", "/v1/memory/never?purge=maybe", None), ("GET", "/v1/completions", None), ("BREW", "/v1/read", None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_malformed_is_a_clear_refusal(one: Server, method: str, path: str, body: Any) -> None:
    one.client._transport.raise_server_exceptions = True
    sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    refused = one.client.request(method, path, content=sent, headers={"content-type": "application/json"})
    assert 400 <= refused.status_code < 500, refused.text
    message = refused.json()["error"]["message"]
    assert message.endswith(".") and len(message) < 600 and "Traceback" not in message
    assert one.client.get("/v1/snapshots").json()["data"] == []


def test_there_are_fifty() -> None:
    assert len({repr(one) for one in MALFORMED}) >= 50


def test_only_json_is_read(one: Server) -> None:
    """A page of the web can send plain text to this machine without asking it first."""
    body = json.dumps({"text": "the sea"})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert one.client.post("/v1/read", content=body, headers={"content-type": kind}).status_code == 400
    assert one.client.post("/v1/read", content=body, headers={"content-type": "application/json"}).status_code == 200


@pytest.mark.parametrize(
    ("kind", "body", "part"),
    [
        ("application/json", b"{bad", "the body is no JSON (Expecting property name"),
        ("text/plain", b'{"text": "the sea"}', "send content-type: application/json."),
        (None, b'{"text": "the sea"}', "send content-type: application/json."),
        ("application/json", b'{"documents": [{"id": "a", "text": "b", "date": "2001"}]}', "date is its `time`."),
        ("application/json", b'{"documents": [{"id": "a", "text": "b", "path": "/etc"}]}', "no such field; leave it"),
        ("application/json", b'{"text": "a", "date": "2001"}', "no such field; leave it"),
    ],
)
def test_a_refusal_says_what_to_send(one: Server, kind: str | None, body: bytes, part: str) -> None:
    headers = {} if kind is None else {"content-type": kind}
    refused = one.client.post("/v1/read", content=body, headers=headers)
    assert refused.status_code == 400 and part in refused.json()["error"]["message"], refused.text


def test_fields_that_change_no_answer_are_ignored(one: Server) -> None:
    ignored = {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": False}
    plain, made = (one.chat("the sea", max_tokens=4, **more) for more in ({}, ignored))
    assert made.status_code == 200 and made.json()["choices"] == plain.json()["choices"]
