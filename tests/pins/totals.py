"""Compute a table of totals that pin what the package does: what readings score and learn, what memories answer.

    python -m tests.pins.totals --out FILE [--group NAME ...]

A row has a few numbers (nats, counts), texts where something answers, and a digest of every bit behind them. Numbers
agree between machines to about 1e-6, answers of a few tokens to 2e-5 nats, digests on one machine alone.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import torch

from tests.pins.answers import banks, retrieval, states, training
from tests.pins.readings import Row, Rows, bundled, cadences, families, mixtures, rows_side_by_side, rules, sinks

Table = dict[str, Row]

GROUPS: dict[str, Callable[[], Rows]] = {
    "families": families,
    "sinks": sinks,
    "rules": rules,
    "cadences": cadences,
    "bundled": bundled,
    "mixtures": mixtures,
    "side by side": rows_side_by_side,
    "states": states,
    "banks": banks,
    "retrieval": retrieval,
    "training": training,
}


def computed(groups: Iterable[str] = GROUPS) -> Table:
    """The rows of some groups, named `group: what`."""
    torch.set_num_threads(1)
    table: Table = {}
    for group in groups:
        for name, found in GROUPS[group]():
            assert f"{group}: {name}" not in table, f"two rows are named {group}: {name}"
            table[f"{group}: {name}"] = found
    return table


def main() -> None:
    """Write the table to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the table")
    parser.add_argument("--group", nargs="+", choices=GROUPS, default=list(GROUPS), help="rows to compute")
    arguments = parser.parse_args()
    table = computed(arguments.group)
    lines = [f" {json.dumps(name)}: {json.dumps(table[name], ensure_ascii=False)}" for name in sorted(table)]
    arguments.out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
