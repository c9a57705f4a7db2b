"""A completion that is made in the engine's thread and listened to in the event loop's."""

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from driftlm.homes.completing import Asked, Completion, Piece, Sampling
from driftlm.homes.home import Home
from driftlm.homes.prompts import Prompt
from driftlm.serving.requests import Requests, unless_gone


class Spoken:
    """A completion under way.

    Attributes:
        job: that makes it.
        pieces: of its text, as they come, and None behind the last.
    """

    def __init__(self, requests: Requests, request: Any, prompt: Prompt, sampling: Sampling) -> None:
        self.request = request
        self.pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        loop, gone = asyncio.get_running_loop(), threading.Event()

        def put(piece: Piece | None) -> None:
            with suppress(RuntimeError):  # the loop was closed: nobody listens
                loop.call_soon_threadsafe(self.pieces.put_nowait, piece)

        def work(home: Home) -> Asked:
            return Asked(home.memory, prompt, sampling, requests.limits.max_tokens, put, gone.is_set)

        def ended(result: Future[Completion]) -> None:
            if not result.cancelled() and result.exception() is None:
                requests.metrics.add("driftlm_prompt_tokens_total", result.result().prompt_tokens)
                requests.metrics.add("driftlm_completion_tokens_total", result.result().completion_tokens)
            put(None)

        self.job = requests.submit(request, work, gone, "asks")
        self.job.result.add_done_callback(ended)

    def timing(self) -> dict[str, str]:
        """Return the header (W3C Server Timing) that says how long it waited before it began, in milliseconds."""
        return {"server-timing": f"wait;dur={1000 * self.job.waited:.1f}"}

    async def completion(self) -> Completion:
        """Return the whole completion."""
        whole: Completion = await unless_gone(self.request, self.job, asyncio.wrap_future(self.job.result))
        return whole

    async def first(self) -> Piece | None:
        """Return the first piece; what goes wrong before it is raised here, where it can still have a status of its
        own.
        """
        piece = await unless_gone(self.request, self.job, self.pieces.get())
        if piece is None:
            self.job.result.result()
        return piece
