"""Gradient statistics of a text, gathered into a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.memories.weights.statistics import gather
from driftlm.models.machine import Machine
from driftlm.storage.files import refuse_unwritable
from driftlm.streams.documents import read_documents
from driftlm.streams.windows import Windows


def gathered(text: Sequence[str], windows: Windows, machine: Machine, out: Path, limit: int | None) -> dict[str, Any]:
    """Read a text with fixed parameters and write the statistics that `Learning.rule` rms needs.

    Args:
        text: sources, as `read_documents` takes them.
        windows: how documents are cut.
        machine: which model.
        out: file, which must be new.
        limit: tokens to read at most.

    Returns:
        What the file says of itself: windows, tokens, and the settings.

    Raises:
        DriftError: for a file that exists or cannot be written, or a text that cannot be read.
    """
    if out.exists():
        raise DriftError(f"`gathered.out` {out} exists already; give another file, or remove it.")
    if limit is not None and limit < 1:
        raise DriftError(f"`gathered.limit` was {limit}; give the number of tokens to read, at least 1.")
    refuse_unwritable(out)
    statistics = gather(machine.load(), read_documents(text), windows, limit)
    out.parent.mkdir(parents=True, exist_ok=True)
    statistics.save(out)
    return statistics.facts
