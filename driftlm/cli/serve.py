"""The verb `serve`."""

from driftlm.memories.settings import MemorySettings
from driftlm.models.machine import Machine
from driftlm.serving.settings import Serving


def serve(memory: MemorySettings, machine: Machine, serving: Serving) -> int:
    """Serve homes over HTTP, as the OpenAI API has it, and for reading, forgetting and snapshots.

    Every tenant has a home of its own, who that is its bearer token says. SIGTERM finishes what has begun, writes
    checkpoints, and exits with 0.

    Args:
        memory: what homes that are made are made of.
        machine: which model.
        serving: whom, where, and how much at a time.
    """
    from driftlm.serving.starting import start

    start(memory, machine, serving)
    return 0
