"""The verb `serve`."""

from dataclasses import dataclass

from driftlm.cli.output import tell
from driftlm.memories.settings import MemorySettings
from driftlm.models.machine import Machine
from driftlm.serving.settings import SHORT, Serving
from driftlm.streams.windows import Windows


@dataclass(frozen=True)
class ServedMemory(MemorySettings):
    """The settings of a memory, in short windows unless others are asked for."""

    windows: Windows = SHORT


def serve(serving: Serving, machine: Machine, memory: ServedMemory) -> int:
    """Serve homes over HTTP, as the OpenAI API has it, and for reading, forgetting and snapshots.

    Every tenant has a home of its own, who that is its bearer token says. SIGTERM finishes what has begun, writes
    checkpoints, and exits with 0.

    Args:
        serving: whom, where, and how much at a time.
        machine: which model.
        memory: what homes that are made are made of.
    """
    from driftlm.serving.starting import start

    start(MemorySettings(**vars(memory)), machine, serving, tell)
    return 0
