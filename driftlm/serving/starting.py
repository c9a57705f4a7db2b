"""The server from its settings, until it is told to stop."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from driftlm.core.errors import DriftError
from driftlm.cost.window import window_seconds
from driftlm.homes.identity import locked
from driftlm.homes.opening import loaded_for_new
from driftlm.homes.tenants import HOMES, Tenants
from driftlm.memories.build import memory_for
from driftlm.memories.settings import MemorySettings
from driftlm.models.loading import fitted
from driftlm.models.machine import Machine
from driftlm.serving.access import Tokens, is_loopback
from driftlm.serving.app import application
from driftlm.serving.engine import Engine
from driftlm.serving.settings import SHORT, Serving

TOKENS = "DRIFTLM_TOKENS"


def start(memory: MemorySettings, machine: Machine, serving: Serving, tell: Callable[[str], None]) -> None:
    """Serve homes until SIGTERM or Ctrl-C.

    Args:
        memory: what homes that are made are made of.
        machine: which model.
        serving: whom, where, and how much at a time.
        tell: gets a sentence about how long answers wait.

    Raises:
        DriftError: for settings that cannot be served, those that do not fit the model last; without the extra `serve`.
    """
    tokens = tokens_of(serving)
    if tokens is None and not is_loopback(serving.host):
        raise DriftError(
            f"`Serving.host` {serving.host} can be reached from other machines; give tenants tokens with "
            f"`Serving.tokens` FILE or {TOKENS}, or `Serving.host` 127.0.0.1."
        )
    if memory.learning.rule == "mixture":
        raise DriftError("a mixture of experts reads, but does not write; give another `Learning.rule`.")
    try:
        from driftlm.serving.running import bound, run
    except ImportError as error:
        raise DriftError('the server needs the extra `serve`; pip install "driftlm[serve]".') from error
    folder = Path(serving.home_folder)
    with bound(serving.host, serving.port) as sockets:
        if folder.is_dir():
            os.close(locked(folder, HOMES))  # refused before the model is loaded
        model, machine = loaded_for_new(machine)
        memory = replace(memory, windows=fitted(model, memory.windows, SHORT))
        tenants = Tenants(folder, model, memory, serving.most_in_memory, machine=machine)
        with Engine(tenants, serving.queue, serving.batch) as engine:
            seconds = window_seconds(memory_for(memory, model, tenants.shared), memory.compare == "static")
            stride = memory.windows.stride
            tell(f"a window of {stride} tokens is read in {seconds:.2g} s; an answer waits for one at most")
            run(application(engine, serving.limits, tokens), engine, sockets)


def tokens_of(serving: Serving) -> Tokens | None:
    """Those of the file that was named, or else of the environment; None where there are none."""
    if serving.tokens:
        return Tokens(text_of(serving.tokens).splitlines(), serving.tokens)
    if os.environ.get(TOKENS):
        return Tokens(os.environ[TOKENS].splitlines(), TOKENS)
    return None


def text_of(file: str) -> str:
    """Of a file of tokens, which no message may show."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DriftError(
            f"`Serving.tokens` {file} cannot be read as text; give a file with a line `TENANT TOKEN`."
        ) from error
