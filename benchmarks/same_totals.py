"""Whether an earlier commit and the present tree compute the same totals, to the last bit, on this machine.

    python -m benchmarks.same_totals [--commit REV] [--group NAME ...]

Each computes the table of `tests.pins.totals` with its own code; by default the commit is the one that wrote the pinned
table last.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PINNED = "tests/pins/totals.json"

Table = dict[str, dict[str, Any]]


def git(*arguments: str) -> str:
    """What a git command in this repository prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit; it goes at the end."""
    with TemporaryDirectory() as folder:
        place = Path(folder) / "tree"
        git("worktree", "add", "--detach", "--quiet", str(place), commit)
        try:
            yield place
        finally:
            git("worktree", "remove", "--force", str(place))


def totals_of(tree: Path, groups: list[str]) -> Table:
    """The table that the code of a tree computes."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "totals.json"
        command = [sys.executable, "-m", "tests.pins.totals", "--out", str(out)]
        command += ["--group", *groups] if groups else []
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=tree, env=environment, check=True, stderr=subprocess.DEVNULL)
        table: Table = json.loads(out.read_bytes())
        return table


def differing(before: Table, after: Table) -> list[str]:
    """A line for every row that is not the same in both tables, with what it holds in each.

    Example:
        >>> differing({"a": {"numbers": [1.0]}, "b": {"numbers": []}}, {"a": {"numbers": [2.0]}, "b": {"numbers": []}})
        ['a: numbers [1.0] -> [2.0]']
    """
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            lines.append(f"{name}: only {'after' if name in after else 'before'}")
            continue
        one, other = before[name], after[name]
        changes = [
            f"{key} {one.get(key)} -> {other.get(key)}"
            for key in sorted(one.keys() | other.keys())
            if repr(one.get(key)) != repr(other.get(key))
        ]
        if changes:
            lines.append(f"{name}: {'; '.join(changes)}")
    return lines


def main() -> None:
    """Compare, and say so; ends with 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default="", help="revision to compare with; that which wrote the pinned table last")
    parser.add_argument("--group", nargs="+", default=[], help="rows to compute; all of them")
    arguments = parser.parse_args()
    commit = arguments.commit or git("log", "-1", "--format=%H", "--", PINNED)
    if not commit:
        sys.exit(f"no commit holds {PINNED}; name one with --commit")
    with checked_out(commit) as tree:
        before = totals_of(tree, arguments.group)
    after = totals_of(ROOT, arguments.group)
    lines = differing(before, after)
    if lines:
        print("\n".join(lines))
        sys.exit(f"{len(lines)} of {len(before.keys() | after.keys())} totals differ from those of {commit[:10]}")
    print(f"{len(after)} totals, all bit-equal to those of {commit[:10]}")


if __name__ == "__main__":
    main()
