"""The server as a process: uvicorn, told to stop as the engine needs it."""

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

import uvicorn

from driftlm.core.errors import DriftError
from driftlm.serving.engine import Engine
from driftlm.serving.middleware import Application

ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
STOPPING_SECONDS = 60  # for answers under way to reach their clients; what is read is finished all the same


class Server(uvicorn.Server):
    """Stops in order: nothing is begun any more, what runs is finished and answered, then the homes are closed."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self.engine = engine
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
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


@contextmanager
def bound(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Sockets at every address of a host, not listening yet: who comes before the model is loaded is turned away.

    Raises:
        DriftError: when the host has no address here, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise DriftError(
            f"`Serving.host` {host} is no name or address; give one of this machine, as 127.0.0.1."
        ) from error
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                one = stack.enter_context(socket.socket(family, kind, protocol))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind(address)
            except OSError as error:
                if error.errno in ABSENT and (sockets or address != found[-1][4]):
                    continue  # a name's address of a kind that is switched off
                if error.errno == errno.EADDRINUSE:
                    raise DriftError(
                        f"port {port} of {host} is taken by another program; give another `Serving.port`, or 0 for a "
                        f"free one."
                    ) from error
                reason = os.strerror(error.errno or 0)
                raise DriftError(f"{host} cannot be listened to at port {port}: {reason}; give others.") from error
            sockets.append(one)
        yield sockets


def run(app: Application, engine: Engine, sockets: list[socket.socket]) -> None:
    """Serve at sockets that are bound, until SIGTERM or Ctrl-C."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=STOPPING_SECONDS,
    )
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when all is done, and 0 is to be returned
    Server(config, engine).run(sockets)
