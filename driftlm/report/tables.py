"""Rows of a study as tables for a person; a program takes them as JSON."""

import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

MISSING = "–"
INTERVAL = "_interval"  # of the measure before it, shown beside it


def show_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table for every run of rows with the same keys.

    Where it is too wide for the terminal, measures stand below each other, as long as that is narrower. Elsewhere a
    table is as wide as it needs.
    """
    for _, group in groupby(rows, key=list):
        alike = list(group)
        console = Console(file=sys.stdout, highlight=False)
        shown, turned = table(alike), table(alike, turned=True)
        if not console.is_terminal:
            unlimited = console.options.update(max_width=10_000)
            console.width = Measurement.get(console, unlimited, shown).maximum
        elif narrowest(turned) < narrowest(shown) > console.width:
            shown = turned
        console.width = max(console.width, narrowest(shown))
        console.print(shown, crop=False)


def narrowest(shown: Table) -> int:
    """Return the width of a table of which no word is cut."""
    return sum(2 + (column.min_width or 0) for column in shown.columns) - 2


def table(rows: Sequence[dict[str, Any]], turned: bool = False) -> Table:
    """Return the rows of the same keys: what is alike in all of several stands below, what is unknown in all is left
    out.

    >>> shown = table([{"memory": "none", "questions": 9, "em": 0.5}, {"memory": "bank", "questions": 9, "em": 0.75}])
    >>> [str(column.header) for column in shown.columns], str(shown.caption)
    (['memory', 'em'], 'questions 9')
    """
    names = [name for name in rows[0] if not name.endswith(INTERVAL) and not isinstance(rows[0][name], dict)]
    names = [name for name in names if any(row[name] is not None for row in rows)]
    alike = [name for name in names if len(rows) > 1 and all(row[name] == rows[0][name] for row in rows)]
    lines = [[name.replace("_", " "), *(cell(row, name) for row in rows)] for name in names if name not in alike]
    caption = ", ".join(f"{name.replace('_', ' ')} {cell(rows[0], name)}" for name in alike)
    shown = Table(box=None, pad_edge=False, header_style="bold", caption=Text(caption), caption_justify="left")
    columns = [list(column) for column in zip(*lines, strict=True)] if turned else lines
    for place, (header, *values) in enumerate(columns):
        left = place == 0 if turned else all(value[:1].isalpha() or value == MISSING for value in values)
        longest = max(len(word) for text in (header, *values) for word in text.split())
        shown.add_column(Text(header), justify="left" if left else "right", vertical="bottom", min_width=longest)
    for row in zip(*(column[1:] for column in columns), strict=True):
        shown.add_row(*map(Text, row))
    return shown


def cell(row: dict[str, Any], name: str) -> str:
    """Return a value, with its interval where it has one.

    >>> cell({"em": 0.5, "em_interval": [0.41, 0.6]}, "em"), cell({"bytes": 8448.0}, "bytes")
    ('0.500 (0.410–0.600)', '8,448')
    """
    interval = row.get(name + INTERVAL)
    return number(row[name]) + (f" ({number(interval[0])}–{number(interval[1])})" if interval else "")


def number(value: Any) -> str:
    """Return a value in few characters.

    >>> number(0.89812), number(1665), number(2.5e-05), number(None), number("bank")
    ('0.898', '1,665', '2.5e-05', '–', 'bank')
    """
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}"
