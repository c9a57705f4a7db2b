"""What tests of the server are built from: one over a tiny model, in this process, and clients of it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from driftlm.homes.tenants import Tenants
from driftlm.serving.access import Tokens
from driftlm.serving.app import application
from driftlm.serving.engine import Engine
from driftlm.serving.settings import Limits
from tests.support.homes import KINDS, model

pytest.importorskip("fastapi", reason="needs the extra serve")

from starlette.testclient import TestClient

MODEL = "tiny-llama"


class Server:
    """A server in this process."""

    def __init__(self, engine: Engine, app: Any) -> None:
        self.engine, self.app = engine, app
        self.client = TestClient(app, base_url="http://localhost")

    def chat(self, text: str, **more: Any) -> Any:
        asked = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0} | more
        return self.client.post("/v1/chat/completions", json=asked)

    def complete(self, prompt: str, **more: Any) -> Any:
        asked = {"model": MODEL, "prompt": prompt, "temperature": 0} | more
        return self.client.post("/v1/completions", json=asked)

    def read(self, *documents: tuple[str, str], **headers: str) -> Any:
        rows = [{"id": id, "text": text} for id, text in documents]
        return self.client.post("/v1/read", json={"documents": rows}, headers=headers)

    @contextmanager
    def occupied(self, tenant: str = "default") -> Iterator[None]:
        """The engine has something to do that does not end inside."""
        begun, end = threading.Event(), threading.Event()

        def wait(home: object) -> None:
            begun.set()
            end.wait(30)

        job = self.engine.submit(tenant, wait)
        assert begun.wait(30)
        try:
            yield
        finally:
            end.set()
            job.result.result(30)


@contextmanager
def server(
    folder: Path,
    kind: str = "words",
    queue: int = 8,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    tokens: Tokens | None = None,
    most_in_memory: int = 2,
) -> Iterator[Server]:
    """One over homes in a folder."""
    with Engine(Tenants(folder, model(), KINDS[kind], most_in_memory), queue) as engine:
        yield Server(engine, application(engine, limits, tokens))


def events(text: str) -> list[Any]:
    """Of a stream that is whole."""
    lines = text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
