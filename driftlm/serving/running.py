"""The server as a process: uvicorn, told to stop as the engine needs it."""

import asyncio
import signal
import sys
from socket import socket
from types import FrameType

import uvicorn

from driftlm.serving.engine import Engine
from driftlm.serving.gate import Application

STOPPING_SECONDS = 60  # for answers under way to reach their clients; what is read is finished all the same


class Server(uvicorn.Server):
    """Stops in order: nothing is begun any more, what runs is finished and answered, then the homes are closed."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self.engine = engine
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen, and say where."""
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for server in self.servers:
            for place in server.sockets:
                host, port = place.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                print(f"driftlm: serving on http://{shown}:{port}", file=sys.stderr, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal asks to stop."""
        super().handle_exit(sig, frame)
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.engine.drain)


def run(app: Application, engine: Engine, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=STOPPING_SECONDS,
    )
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when all is done, and 0 is to be returned
    Server(config, engine).run()
