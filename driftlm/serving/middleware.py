"""What every request passes first: who asks, how much, and how long it took (ASGI 3, without a framework)."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from driftlm.serving.access import Tokens, bearer, is_loopback
from driftlm.serving.metrics import Metrics
from driftlm.serving.settings import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]

TENANT = "default"  # where there are no tokens
OPEN = {"/health", "/", "/page.js", "/page.css", "/vega.js"}  # need no token: nothing in them is of a tenant


def failure(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return the body of an answer that refuses, as the OpenAI API has it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Refused(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.headers = status, kind, headers or {}


class Middleware:
    """Lets requests through to an application, with their tenant and their whole body.

    Without tokens only requests for a name of this machine pass: no page of the web, whose name was made to lead here,
    can use the server through a browser.
    """

    def __init__(self, app: Application, limits: Limits, tokens: Tokens | None, metrics: Metrics) -> None:
        self.app, self.limits, self.tokens, self.metrics = app, limits, tokens, metrics

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            else:
                await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            scope.setdefault("state", {})["tenant"] = self.tenant(scope)
            body = await self.body(scope, receive)
            await self.app(scope, replayed(body, receive), noted)
        except Refused as refused:
            await answer(noted, refused)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.add("driftlm_requests_total", route=route, method=method_of(scope), status=str(status))
            self.metrics.observe("driftlm_request_seconds", time.perf_counter() - began, route=route)

    def tenant(self, scope: Any) -> str:
        """Return the tenant who asks."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self.tokens is None:
            host = headers.get(b"host", "")
            name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
            if not is_loopback(name):
                message = f"without tokens only this machine is served, not {host[:80]!r}; ask for localhost."
                raise Refused(403, message, "forbidden")
            return TENANT
        found = self.tokens.tenant(bearer(headers.get(b"authorization", "")))
        if found is None and scope["path"] not in OPEN:
            raise Refused(
                401,
                "the request has no valid token; send the header `Authorization: Bearer TOKEN`.",
                "authentication_error",
                {"www-authenticate": "Bearer"},
            )
        return found or ""

    async def body(self, scope: Any, receive: Receive) -> bytes:
        """Return all of a body, or refuse it as soon as it is too long."""
        most = self.limits.max_body
        too_long = Refused(413, f"the body is longer than {most:,} bytes; send less at once.", "request_too_large")
        sizes = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        if any(size.isdigit() and (len(size) > 18 or int(size) > most) for size in sizes):
            raise too_long
        parts, length, more = list[bytes](), 0, True
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(499, "the client went away.", "disconnected")
                    parts.append(message.get("body", b""))
                    length, more = length + len(parts[-1]), message.get("more_body", False)
                    if length > most:
                        raise too_long
        except TimeoutError:
            raise Refused(408, "the body did not arrive in time; send it again.", "timeout") from None
        return b"".join(parts)


def method_of(scope: Any) -> str:
    """Return one of few methods, so that nobody can make up labels."""
    method = str(scope["method"])
    return method if method in {"GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS", "PATCH"} else "other"


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a body that was received already, then whatever comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def answer(send: Send, refused: Refused) -> None:
    """Say no; what may still come of the body is not waited for."""
    body = json.dumps(failure(str(refused), refused.kind)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    raw = [(name.encode(), value.encode()) for name, value in (headers | refused.headers).items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
