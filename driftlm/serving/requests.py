"""What the routes of the server share: jobs for their requests, and what becomes of them."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from driftlm.core.errors import DriftError
from driftlm.homes.home import Home
from driftlm.models.loading import LanguageModel
from driftlm.serving.engine import Engine, Job, Kind
from driftlm.serving.metrics import Metrics
from driftlm.serving.progress import Progress
from driftlm.serving.settings import Limits

Result = TypeVar("Result")


class Gone(Exception):
    """The client did not wait."""


class Missing(DriftError):
    """What was asked for is not there."""


class PartlyRead(DriftError):
    """A document could not be read; those before it in the request were, and are kept."""

    def __init__(self, message: str, read: list[str]) -> None:
        super().__init__(message)
        self.read = read


@dataclass(frozen=True)
class Requests:
    """What the routes share.

    Attributes:
        engine: that computes.
        limits: of a request.
        progress: of what is read.
        created: when the server began, in seconds since 1970.
    """

    engine: Engine
    limits: Limits
    progress: Progress = field(default_factory=Progress)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def language_model(self) -> LanguageModel:
        """Return the frozen language model, of all tenants."""
        return self.engine.tenants.language_model

    @property
    def metrics(self) -> Metrics:
        """Return the metrics that are counted."""
        return self.engine.metrics

    @property
    def name(self) -> str:
        """Return the name of the model, without the folders it lies in."""
        return Path(self.language_model.name).name

    def submit(
        self, request: Any, work: Callable[[Home], Any], gone: threading.Event | None = None, kind: Kind = "other"
    ) -> Job:
        """Return a job on the home of whom the request's token belongs to."""
        return self.engine.submit(request.state.tenant, said_without_folders(work), gone, kind)

    async def done(self, request: Any, work: Callable[[Home], Any], kind: Kind = "other") -> Any:
        """Return what work on the home gives; left where the client goes away first."""
        job = self.submit(request, work, kind=kind)
        return await unless_gone(request, job, asyncio.wrap_future(job.result))


def said_without_folders(work: Callable[[Home], Any]) -> Callable[[Home], Any]:
    """Work whose errors do not say where the home is."""

    def quietly(home: Home) -> Any:
        try:
            return work(home)
        except DriftError as error:
            error.args = (str(error).replace(str(home.folder), "HOME"),)
            raise

    return quietly


async def unless_gone(request: Any, job: Job, awaited: Awaitable[Result]) -> Result:
    """Return what is awaited of a job, which is left where the client goes away before that.

    Raises:
        Gone: in that case.
    """
    waiting = asyncio.ensure_future(awaited)
    leaving = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            job.leave()
            raise Gone
        return waiting.result()
    finally:
        leaving.cancel()
        waiting.cancel()


async def disconnected(request: Any) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
