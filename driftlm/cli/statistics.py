"""The verb `statistics`."""

from pathlib import Path

import tyro

from driftlm.models.machine import Machine
from driftlm.streams.windows import Windows


def statistics(
    text: tyro.conf.Positional[tuple[str, ...]],
    windows: Windows,
    machine: Machine,
    *,
    out: str,
    limit: int | None = None,
) -> int:
    """Gather the gradient statistics that `--rule rms` needs.

    Args:
        text: files or folders like the ones the model was trained on.
        windows: how documents are cut.
        machine: which model.
        out: file to write.
        limit: tokens to read.
    """
    from driftlm.runs.statistics import gathered

    facts = gathered(text, windows, machine, Path(out), limit)
    print(f"{out}: statistics of {facts['windows']} windows, {facts['tokens']:,} tokens")
    return 0
