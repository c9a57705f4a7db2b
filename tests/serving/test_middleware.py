"""Who gets in, and how much of a request."""

import asyncio
from typing import Any

import pytest

from driftlm import DriftError
from driftlm.serving.access import Tokens
from driftlm.serving.metrics import Metrics
from driftlm.serving.middleware import Middleware
from driftlm.serving.settings import Limits

ADA = "ada-0123456789abcdef"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says whose request it is and how long its body."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{scope['state']['tenant']} {len(body)}".encode()})


def ask(
    headers: dict[str, str],
    parts: list[bytes],
    tokens: Tokens | None = None,
    path: str = "/v1/read",
    arrives: bool = True,
    limits: Limits = Limits(max_body=10, body_seconds=0.2),  # noqa: B008 - frozen
) -> tuple[int, bytes]:
    """Status and body of an answer; a body that does not arrive never ends."""
    sent, left = list[Any](), list(parts)

    async def receive() -> Any:
        if not left:
            await asyncio.sleep(60)
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left) or not arrives}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": raw}
    asyncio.run(Middleware(echo, limits, tokens, Metrics())(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


def test_bodies_are_bounded() -> None:
    here = {"host": "localhost"}
    assert ask(here, [b"x" * 4, b"x" * 6]) == (200, b"default 10")
    assert ask(here, [b"x" * 4, b"x" * 7])[0] == 413
    assert ask(here, [b"x" * 6] * 1000, arrives=False)[0] == 413  # without a length, as soon as it is too much
    assert ask(here | {"content-length": "11"}, [], arrives=False)[0] == 413  # before any of it came
    assert ask(here | {"content-length": "9" * 5000}, [], arrives=False)[0] == 413
    assert ask(here, [b"x"], arrives=False)[0] == 408


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *[(host, 200) for host in ("localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000")],
        *[(host, 403) for host in ("evil.example", "localhost.evil.example:8000", "10.0.0.1", "", "\xff")],
    ],
)
def test_without_tokens_only_this_machine_is_served(host: str, status: int) -> None:
    assert ask({"host": host}, [b""])[0] == status


def test_with_tokens_who_has_one_is_its_tenant() -> None:
    tokens = Tokens([f"ada {ADA}"], "here")
    host = {"host": "example.org"}
    assert ask(host | {"authorization": f"Bearer {ADA}"}, [b""], tokens) == (200, b"ada 0")
    for wrong in ("", "Bearer", f"Bearer {ADA}x", f"Basic {ADA}", ADA, "Bearer \xe9"):
        status, body = ask(host | {"authorization": wrong}, [b"x" * 99], tokens)
        assert status == 401 and ADA.encode() not in body
    assert ask(host, [b""], tokens)[0] == 401
    assert ask(host, [b""], tokens, "/health") == (200, b" 0")  # open, and nobody's
    assert ask(host, [b""], tokens, "/metrics")[0] == 401


def test_limits_have_room() -> None:
    with pytest.raises(DriftError, match="`Limits.max_tokens` was 0"):
        Limits(max_tokens=0)
