"""The application: routes, and what errors become. FastAPI is the extra `serve`, and pydantic stays in `schemas`."""

import logging
from typing import Any

from driftlm import __version__
from driftlm.core.errors import DriftError
from driftlm.homes.prompts import PLAIN
from driftlm.serving.access import Tokens
from driftlm.serving.engine import Busy, Engine, Stopping, Unusable
from driftlm.serving.middleware import Application, Middleware, failure
from driftlm.serving.requests import Gone, Missing, PartlyRead, Requests
from driftlm.serving.settings import Limits

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
LOG = logging.getLogger("driftlm.serving")


def application(engine: Engine, limits: Limits = Limits(), tokens: Tokens | None = None) -> Application:  # noqa: B008
    """Return the server as an ASGI application.

    Args:
        engine: that computes; who began it ends it.
        limits: of a request.
        tokens: of the tenants; None for a single one, on this machine.

    Raises:
        DriftError: without the extra `serve`.
    """
    try:
        from fastapi import FastAPI, Request
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import JSONResponse, PlainTextResponse, Response
        from starlette.exceptions import HTTPException
        from starlette.routing import Match
    except ImportError as error:
        raise DriftError('the server needs the extra `serve`; pip install "driftlm[serve]".') from error
    from driftlm.serving.completion_routes import completion_routes
    from driftlm.serving.memory_routes import memory_routes
    from driftlm.serving.page_routes import page_routes
    from driftlm.serving.schemas import Refusal

    requests = Requests(engine, limits)
    refusals: dict[int | str, dict[str, Any]] = {
        "4XX": {"model": Refusal, "description": "Refused, with a sentence that says what to do."},
        "5XX": {"model": Refusal, "description": "Failed, or about to stop."},
    }
    app = FastAPI(title="driftlm", version=__version__, docs_url=None, redoc_url=None, responses=refusals)

    def said(status: int, message: str, kind: str, **more: Any) -> JSONResponse:
        headers = more.pop("headers", None)
        return JSONResponse(failure(message, kind, **more), status, headers)

    def methods(path: str) -> list[str]:
        scopes = ({"type": "http", "method": method, "path": path, "headers": []} for method in METHODS)
        there = (one["method"] for one in scopes if any(route.matches(one)[0] is Match.FULL for route in app.routes))
        return [str(method) for method in there]

    @app.exception_handler(DriftError)
    async def refused(request: Request, error: DriftError) -> Response:
        if isinstance(error, Busy):
            return said(429, str(error), "rate_limit_error", headers={"retry-after": str(error.seconds)})
        if isinstance(error, Stopping):
            return said(503, str(error), "unavailable", headers={"retry-after": "5"})
        if isinstance(error, Unusable):
            LOG.error("%s", error)
            return said(500, "the tenant's home cannot be opened; the server's log says why.", "server_error")
        refusal = failure(str(error), "invalid_request_error")
        if isinstance(error, PartlyRead):
            refusal["read"] = error.read
        return JSONResponse(refusal, 404 if isinstance(error, Missing) else 400)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:])) or "the body"
        what = first["type"]
        message = first["msg"] if what == "unsupported" else f"{where}: {first['msg']}; correct it."
        if what == "json_invalid":
            where, message = "the body", f"the body is no JSON ({first['ctx']['error']}); send one JSON object."
        elif first["loc"] == ("body",) and isinstance(first["input"], bytes):  # it was not taken for JSON
            message = "the body is not said to be JSON; send content-type: application/json."
        elif what == "extra_forbidden":
            is_time = first["loc"][1] == "documents" and first["loc"][-1] == "date"
            hint = "a document's date is its `time`." if is_time else "leave it out."
            message = f"{where}: there is no such field; {hint}"
        return said(400, message, "invalid_request_error", param=where, code=what)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        known = error.status_code in (404, 405)
        hint = "; GET /openapi.json lists what there is." if known else "; send one JSON object."
        headers = error.headers
        if error.status_code == 405:  # of all routes that lead there, not of the first alone (RFC 9110, section 10.2.1)
            headers = {"allow": ", ".join(methods(request.scope["path"]))}
        return said(error.status_code, f"{error.detail}{hint}", "invalid_request_error", headers=headers)

    @app.exception_handler(Gone)
    async def left(request: Request, error: Gone) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return said(500, "the server failed; its log says how.", "server_error")

    @app.get("/health", responses={503: {"description": "It is about to stop."}})
    async def health() -> Response:
        alive = engine.thread.is_alive() and not engine.stopping
        return JSONResponse({"status": "ok" if alive else "stopping"}, 200 if alive else 503)

    text = {"content": {"text/plain": {}}, "description": "In Prometheus's text format."}

    @app.get("/metrics", response_class=Response, responses={200: text})
    async def metrics() -> Response:
        gauges = {
            "driftlm_jobs_waiting": engine.waiting(),
            "driftlm_tenants_in_memory": len(engine.tenants.in_memory()),
        }
        return PlainTextResponse(requests.metrics.text(gauges), media_type="text/plain; version=0.0.4")

    def model() -> dict[str, Any]:
        chat = "template" if requests.language_model.tokenizer.chat_template else PLAIN
        return {
            "id": requests.name,
            "object": "model",
            "created": requests.created,
            "owned_by": "driftlm",
            "chat": chat,
            "max_tokens": limits.max_tokens,
        }

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [model()]})

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> Response:
        if name != requests.name:
            raise Missing(f"there is no model {name!r}; this server has {requests.name!r}.")
        return JSONResponse(model())

    app.include_router(completion_routes(requests))
    app.include_router(memory_routes(requests))
    app.include_router(page_routes())
    return Middleware(app, limits, tokens, requests.metrics)
