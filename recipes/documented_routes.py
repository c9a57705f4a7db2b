"""The page of the server's routes, from its OpenAPI schema and from requests sent to one in this process."""

import json
from tempfile import TemporaryDirectory
from typing import Any

ABOUT = {  # where the schema says no more than a function's name
    "GET /health": "Whether the server takes requests; needs no token.",
    "GET /metrics": "Counters and gauges, in the format of Prometheus.",
    "GET /v1/models": "The one model that is served.",
    "GET /v1/models/{name}": "The model, by its name.",
    "POST /v1/completions": "Continue a text, as the OpenAI API does; with `stream`, as events.",
    "POST /v1/chat/completions": (
        "Answer the last message of a conversation, as the OpenAI API does; with `stream`, as events. `documents` says "
        "what the answer rests on."
    ),
    "POST /v1/read": (
        "Read documents, or one text: each is scored, learned from and stored, and is on disk before the next begins. "
        "A document whose read was answered is kept. One that was read before under the same id, with the same text, "
        "is not read again."
    ),
    "GET /v1/reading": "What is being read at this moment.",
    "GET /v1/memory": "The documents behind the present state, in the order they were read, without their texts.",
    "POST /v1/memory/forget": (
        "Forget documents: the state becomes the one in which they were never read. `cost` only says what that takes; "
        "`purge` makes the snapshots that hold them anew; without ids, those that hold what was forgotten before."
    ),
    "POST /v1/memory/expire": (
        "Forget the documents whose newest version is from before a time, also those that are not behind the present "
        "state. `purge` makes the snapshots that hold them, or what was forgotten before, anew."
    ),
    "GET /v1/memory/{id}": "The newest version of a document, with its text.",
    "DELETE /v1/memory/{id}": "Forget one document.",
    "GET /v1/snapshots": "All snapshots, the oldest first.",
    "POST /v1/snapshots": "Keep the present state under a name that is free.",
    "DELETE /v1/snapshots/{name}": "Remove a snapshot.",
    "POST /v1/snapshots/restore": (
        "Go back to a snapshot, to before a document was read, or to a day; exactly one of the three. Later documents "
        "stay in the journal, but are not behind the state. `left` says how many leave it, and `kept_by` which "
        "snapshots hold the present state, to come back to."
    ),
}
NEWS = [
    {"id": "lowell", "time": "2024-05-06", "text": "Ada Lowell lives in Lisbon. She is a painter."},
    {"id": "thorne", "time": "2024-05-07", "text": "Otto Thorne is a baker. He owns a pigeon."},
]
ASKED = {"model": "bundled", "temperature": 0, "messages": [{"role": "user", "content": "Where does Ada Lowell live?"}]}
EXAMPLES: list[tuple[str, str, Any]] = [  # in the order they are sent
    ("GET /health", "/health", None),
    ("GET /v1/models", "/v1/models", None),
    ("POST /v1/read", "/v1/read", {"documents": NEWS}),
    ("POST /v1/completions", "/v1/completions", {"model": "bundled", "prompt": "It was a", "max_tokens": 4, "seed": 1}),
    ("POST /v1/chat/completions", "/v1/chat/completions", ASKED),
    ("GET /v1/memory", "/v1/memory?limit=1", None),
    ("GET /v1/memory/{id}", "/v1/memory/lowell", None),
    ("POST /v1/snapshots", "/v1/snapshots", {"name": "may"}),
    ("GET /v1/snapshots", "/v1/snapshots", None),
    ("POST /v1/memory/forget", "/v1/memory/forget", {"ids": ["thorne"], "cost": True}),
    ("DELETE /v1/memory/{id}", "/v1/memory/thorne", None),
    ("POST /v1/memory/expire", "/v1/memory/expire", {"before": "2024-05-07", "cost": True}),
    ("POST /v1/snapshots/restore", "/v1/snapshots/restore", {"before": "lowell", "cost": True}),
]
BEFORE = """# HTTP API

What `driftlm serve` answers; [the tutorial](feed.md#ask) starts one. The page is made from the server's OpenAPI
schema, which it gives itself at `GET /openapi.json`, and the examples were sent to a server with the bundled model.

Bodies are JSON objects. A field that is not listed is refused, and so is a value of another type. Where the server has
tokens of tenants, every request carries `Authorization: Bearer TOKEN`.

## Errors

An error is a JSON object `{"error": {"message": …, "type": …, "param": …, "code": …}}`; its message says what was
given, what was expected, and what to do.

| status | when |
|---|---|
| 400 | the request is malformed, or asks for what cannot be done |
| 401 | the token is missing or unknown |
| 403 | the server has no tokens, so that only its own machine may ask, and this is another |
| 404 | there is no such route, model or document |
| 405 | the route is there, but not for this method |
| 408 | the body did not arrive in time |
| 413 | the body is longer than `--max-body` |
| 429 | the queue is full; `Retry-After` says when to come again |
| 499 | the client went away before its answer was made |
| 500 | the server failed, or the tenant's home cannot be opened; its log says how |
| 503 | the server is stopping |
"""


def routes_page() -> str:
    """Every route: what it takes, what it gives, and an example."""
    schema, answers = sent()
    parts = [BEFORE.rstrip()]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts.append(route(f"{method.upper()} {path}", operation, schema, answers))
    return "\n\n".join(parts) + "\n"


def sent() -> tuple[dict[str, Any], dict[str, str]]:
    """The schema of a server with the bundled model and an empty home, and what it answers to the examples."""
    from starlette.testclient import TestClient

    from driftlm import Windows, load
    from driftlm.homes.tenants import Tenants
    from driftlm.memories.settings import MemorySettings
    from driftlm.memories.weights.learning import FROZEN
    from driftlm.serving.app import application
    from driftlm.serving.engine import Engine

    settings = MemorySettings(Windows("overlapping", 128, 64), FROZEN, ("bank",))
    with TemporaryDirectory() as folder, Engine(Tenants(folder, load(), settings), 8) as engine:
        client = TestClient(application(engine), base_url="http://localhost")
        answers = {}
        for name, path, body in EXAMPLES:
            given = client.request(name.split()[0], path, json=body)
            assert given.status_code == 200, f"{name}: {given.text}"
            answers[name] = example(name.split()[0], path, body, given.json())
        return client.get("/openapi.json").json(), answers


def example(method: str, path: str, body: Any, given: Any) -> str:
    """A request and its answer."""
    asked = "" if body is None else f"\n{json.dumps(body, indent=2, ensure_ascii=False)}"
    answer = json.dumps(given, indent=2, ensure_ascii=False)
    return f"```http\n{method} {path} HTTP/1.1{asked}\n```\n\n```json\n{answer}\n```"


def route(name: str, operation: dict[str, Any], schema: dict[str, Any], answers: dict[str, str]) -> str:
    """A section of the page."""
    about = operation.get("description") or ABOUT.get(name) or f"{operation['summary']}."
    parts = [f"## {name}", about]
    rows = [row(one["name"], one["schema"], one["required"], schema) for one in operation.get("parameters", ())]
    if rows:
        parts.append(table("parameter", rows))
    if "requestBody" in operation:
        body = resolved(operation["requestBody"]["content"]["application/json"]["schema"], schema)
        needed = body.get("required", ())
        fields = [row(field, one, field in needed, schema) for field, one in body["properties"].items()]
        parts.append(table("field", fields))
        for part, inner in nested(body, schema).items():
            inside = inner.get("required", ())
            rows = [row(field, one, field in inside, schema) for field, one in inner["properties"].items()]
            parts += [f"A *{part}* has", table("field", rows)]
    return "\n\n".join([*parts, *([answers[name]] if name in answers else [])])


def table(what: str, rows: list[str]) -> str:
    """Of parameters or fields."""
    return "\n".join([f"| {what} | | type | limits |", "|---|---|---|---|", *rows])


def row(name: str, one: dict[str, Any], required: bool, schema: dict[str, Any]) -> str:
    """A parameter or a field."""
    default = one.get("default")
    need = "required" if required else "" if default is None else f"default `{json.dumps(default)}`"
    kinds, limits = shape(one, schema)
    return f"| `{name}` | {need} | {' or '.join(dict.fromkeys(kinds))} | {', '.join(dict.fromkeys(limits))} |"


def shape(one: dict[str, Any], schema: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The types that a value may have, and its limits."""
    if "$ref" in one:
        return [f"*{one['$ref'].rsplit('/', 1)[1]}*"], []
    if "anyOf" in one:
        several = [shape(part, schema) for part in one["anyOf"] if part.get("type") != "null"]
        return [kind for kinds, _ in several for kind in kinds], [limit for _, limits in several for limit in limits]
    if one.get("type") == "array":
        kinds, limits = shape(one["items"], schema)
        return [f"list of {' or '.join(kinds) or 'anything'}"], [*bounds(one, "Items", "items"), *limits]
    if "enum" in one or "const" in one:
        return [" or ".join(f"`{json.dumps(value)}`" for value in one.get("enum", [one.get("const")]))], []
    kind = one.get("type", "anything")
    numbers = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {whole(one[key])}" for key, sign in numbers.items() if key in one]
    return [kind], [*limits, *bounds(one, "Length", "characters")]


def whole(number: float) -> str:
    """A limit, which is a whole number.

    >>> whole(1000.0), whole(-(2.0**63))
    ('1,000', '−2⁶³')
    """
    return ("−" * (number < 0) + "2⁶³") if abs(number) == 2**63 else f"{number:,.0f}"


def bounds(one: dict[str, Any], suffix: str, what: str) -> list[str]:
    """How long a text or a list may be."""
    least, most = one.get(f"min{suffix}"), one.get(f"max{suffix}")
    if least is None and most is None:
        return []
    return [f"{least or 0} to {most:,} {what}" if most is not None else f"at least {least} {what}"]


def resolved(one: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """What a reference refers to."""
    return schema["components"]["schemas"][one["$ref"].rsplit("/", 1)[1]] if "$ref" in one else one


def nested(body: dict[str, Any], schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The objects inside of a body, by name."""
    names = json.dumps(body).split('"#/components/schemas/')[1:]
    found = {}
    for name in (one.split('"')[0] for one in names):
        inner = schema["components"]["schemas"][name]
        found |= {name: inner} | nested(inner, schema)
    return found
