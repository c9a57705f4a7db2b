"""The verb `demo`."""

from driftlm.cli.read import read
from driftlm.memories.settings import MemorySettings
from driftlm.models.machine import Machine
from driftlm.runs.settings import Stream


def demo(limit: int = 60_000, run: str = "", threads: int = 0) -> int:
    """Watch the bundled model read the documentation of Python's standard library and get better as it goes.

    Args:
        limit: tokens to score.
        run: folder for the run; empty for one under `runs/`.
        threads: CPU threads; 0 measures whether 1, half or all of them are fastest now.
    """
    from pathlib import Path

    from driftlm.streams.demonstration import library_documentation

    text = library_documentation(Path(run).parent if run else Path("runs"))
    stream = Stream(files=(str(text),), limit=limit, run=run)
    return read(MemorySettings(), Machine(threads=threads), stream)
