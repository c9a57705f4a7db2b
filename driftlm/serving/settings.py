"""Settings of the server; no heavy import, so that the command line can show them."""

from dataclasses import dataclass, field

import tyro

from driftlm.core.errors import DriftError
from driftlm.streams.windows import Windows

SHORT = Windows("cached", 512, 128)  # of homes that the server makes: an answer waits for a window at most


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        max_tokens: tokens that are written for a request at most.
        max_body: bytes of a request at most.
        body_seconds: for the body to arrive.
    """

    max_tokens: int = 512
    max_body: int = 8_000_000
    body_seconds: tyro.conf.Fixed[float] = 60.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.max_body < 1 or self.body_seconds <= 0:
            raise DriftError(
                f"`Limits.max_tokens` was {self.max_tokens} and `Limits.max_body` {self.max_body}; give at least 1 of "
                f"each."
            )


@dataclass(frozen=True)
class Serving:
    """Whom the server serves, where, and how much at a time.

    Attributes:
        home_folder: of all homes, one below it for every tenant.
        host: to listen on; without tokens only this machine can be served.
        port: to listen on; 0 for a free one.
        tokens: file of lines `TENANT TOKEN`; else such lines are in the environment's DRIFTLM_TOKENS. Without any
            there is one tenant, `default`.
        queue: requests that may wait; further ones are told when to come again.
        batch: answers that are written together at most, of at most `most_in_memory` tenants; 1 writes one by one.
        most_in_memory: homes that stay in memory.
        limits: of a request.

    Raises:
        DriftError: for a port that there is not.
    """

    home_folder: str
    host: str = "127.0.0.1"
    port: int = 8000
    tokens: str = ""
    queue: int = 64
    batch: int = 16
    most_in_memory: int = 8
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise DriftError(f"`Serving.port` was {self.port}; give one up to 65535, or 0 for a free one.")
