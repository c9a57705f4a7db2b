"""The verb `tune`."""

from typing import Literal

import tyro

from driftlm.cli.output import show
from driftlm.memories.settings import MemoryName
from driftlm.models.machine import Machine


def tune(
    text: tyro.conf.Positional[tuple[str, ...]],
    machine: Machine,
    *,
    budget: float = 2.0,
    unit: Literal["flops", "seconds"] = "flops",
    limit: int = 8000,
    memory: MemoryName = "weights",
    json: bool = False,
) -> int:
    """Choose rule, rate, windows and cadence for a budget on a development text, and print the command to read with.

    Args:
        text: files or folders like the ones to be read.
        machine: which model.
        budget: how many times the cost of static reading with the default windows may be spent on a token.
        unit: operations by formula (`flops`, the same on every machine), or `seconds` measured on this one.
        limit: tokens of the text that are read; the first of it.
        memory: try this memory on every grid, in place of weights that learn; its cost is known in `seconds` alone.
        json: one JSON object on stdout.
    """
    from driftlm.report.tables import show_rows
    from driftlm.runs.tuning import tuned

    found = tuned(text, machine, budget=budget, unit=unit, limit=limit, memory=memory)
    if json:
        show(found)
        return 0
    longest = max(row["tokens"] for row in found["tried"])
    whole = [row for row in found["tried"] if row["tokens"] == longest]
    show_rows(sorted(whole, key=lambda row: float(row["bits_per_byte"])))
    print(
        f"{found['bits_per_byte']:.4f} bits per byte at {found['cost']:.2f} x static reading; "
        f"{found['static_bits_per_byte']:.4f} by the static model in the same windows"
    )
    print(found["command"])
    return 0
