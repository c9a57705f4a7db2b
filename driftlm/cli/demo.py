"""The verb `demo`."""

from driftlm.cli.read import read
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.learning import Learning
from driftlm.models.machine import Machine
from driftlm.runs.settings import Stream
from driftlm.streams.windows import Windows


def demo(limit: int = 60_000, run: str = "", threads: int = 0, *, real: bool = False) -> int:
    """Watch the bundled model read the documentation of Python's standard library and get better as it goes.

    Args:
        limit: tokens to score.
        run: folder for the run; empty for one under `runs/`.
        threads: CPU threads; 0 measures whether 1, half or all of them are fastest now.
        real: let SmolLM2-135M, which is fetched once (93 MB), read three Python proposals of 2025 and 2026 instead,
            and say what of its gain comes from learning.
    """
    from pathlib import Path

    from driftlm.cli.output import tell
    from driftlm.streams.demonstration import PEPS, library_documentation

    if not real:
        text = library_documentation(Path(run).parent if run else Path("runs"))
        return read(MemorySettings(), Machine(threads=threads), Stream(files=(str(text),), limit=limit, run=run))
    from driftlm.models.fetching import fetch

    fetch("smollm2", tell=tell)
    settings = MemorySettings(Windows("cached"), Learning("lora"))
    machine = Machine(model="smollm2", dtype="bfloat16", threads=threads)
    return read(settings, machine, Stream(files=(str(PEPS),), limit=limit, run=run, controls=True))
