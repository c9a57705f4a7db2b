"""The verb `serve`; heavy imports inside."""

import os
from pathlib import Path
from typing import Literal

from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learning
from driftlm.models.machine import Machine
from driftlm.streams.windows import Windows

TOKENS = "DRIFTLM_TOKENS"


def serve(
    windows: Windows,
    learning: Learning,
    machine: Machine,
    *,
    home_folder: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    sources: tuple[Literal["bank", "bm25", "dense"], ...] = (),
    networks: str = "",
    retrieved: int = 1,
    budget: int = 256,
    compare: Literal["static", "none"] = "static",
    tokens: str = "",
    queue: int = 64,
    batch: int = 16,
    most_in_memory: int = 8,
    max_tokens: int = 512,
    max_body: int = 8_000_000,
) -> int:
    """Serve homes over HTTP, as the OpenAI API has it, and for reading, forgetting and snapshots.

    Every tenant has a home of its own, who that is its bearer token says. SIGTERM finishes what has begun, writes
    checkpoints, and exits with 0.

    Args:
        windows: how documents are cut, in homes that are made.
        learning: what their weights learn, and how.
        machine: which model.
        home_folder: of all homes, one below it for every tenant.
        host: to listen on; without tokens only this machine can be served.
        port: to listen on; 0 for a free one.
        sources: memories that keep documents beside the weights: `bank`, `bm25`, `dense`.
        networks: folder of the bank's networks; empty for the bundled ones.
        retrieved: documents that `bm25` and `dense` find for a question.
        budget: most tokens of their texts together.
        compare: score the `static` model on the same windows, or `none`.
        tokens: file of lines `TENANT TOKEN`; else such lines are in the environment's DRIFTLM_TOKENS. Without any
            there is one tenant, `default`.
        queue: requests that may wait; further ones are told when to come again.
        batch: answers that are written together at most, of at most `most_in_memory` tenants; 1 writes one by one.
        most_in_memory: homes that stay in memory.
        max_tokens: tokens that are written for a request at most.
        max_body: bytes of a request at most.
    """
    from driftlm.serving.access import Tokens, is_loopback
    from driftlm.serving.middleware import Limits

    limits = Limits(max_tokens, max_body)
    known = None
    if tokens:
        known = Tokens(text_of(tokens).splitlines(), tokens)
    elif os.environ.get(TOKENS):
        known = Tokens(os.environ[TOKENS].splitlines(), TOKENS)
    if known is None and not is_loopback(host):
        raise DriftError(
            f"--host {host} can be reached from other machines; give tenants tokens with --tokens FILE or {TOKENS}, or "
            f"--host 127.0.0.1."
        )
    if not 0 <= port <= 65535:
        raise DriftError(f"--port was {port}; give one up to 65535, or 0 for a free one.")
    if learning.rule == "mixture":
        raise DriftError("a mixture of experts reads, but does not write; give another --rule.")
    try:
        from driftlm.serving.running import bound, run
    except ImportError as error:
        raise DriftError('the server needs the extra `serve`; pip install "driftlm[serve]".') from error
    from driftlm.homes.identity import locked
    from driftlm.homes.opening import loaded_for_new
    from driftlm.homes.tenants import HOMES, Tenants
    from driftlm.memories.settings import MemorySettings
    from driftlm.serving.app import application
    from driftlm.serving.engine import Engine

    place = str(Path(networks).resolve()) if networks else ""
    settings = MemorySettings(windows, learning, sources, place, retrieved, budget, compare)
    with bound(host, port) as sockets:
        if Path(home_folder).is_dir():
            os.close(locked(Path(home_folder), HOMES))  # refused before the model is loaded
        model, machine = loaded_for_new(machine)
        with Engine(Tenants(home_folder, model, settings, most_in_memory, machine=machine), queue, batch) as engine:
            run(application(engine, limits, known), engine, sockets)
    return 0


def text_of(file: str) -> str:
    """Of a file of tokens, which no message may show."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DriftError(f"--tokens {file} cannot be read as text; give a file with a line `TENANT TOKEN`.") from error
