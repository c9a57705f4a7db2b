"""JSON files that say by a hash of their own whether they are what was written."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.storage.files import write_atomically

FORMAT = 1
SEAL = "sha256"  # the field that holds the hash of all others


def write_sealed(path: Path, facts: dict[str, Any]) -> str:
    """Write facts, whole or not at all; their hash."""
    body: dict[str, Any] = {"format": FORMAT, **facts}
    body[SEAL] = seal_of(body)
    write_atomically(path, lambda partial: partial.write_text(json.dumps(body, indent=1), encoding="ascii"))
    return str(body[SEAL])


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what `write_sealed` wrote, its hash included.

    Raises:
        DriftError: when it is not that, byte by byte, or of another version.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.json")
        ...     _ = write_sealed(path, {"read": 3})
        ...     read_sealed(path)["read"]
        3
    """
    damaged = f"{path} is damaged; put it back from a copy."
    try:
        if path.is_symlink():
            raise DriftError(f"{path} is a link, and could lead anywhere; put a plain file there.")
        facts = json.loads(path.read_text(encoding="ascii"))
        version = facts["format"]
        if version != FORMAT:
            raise DriftError(
                f"{path} has format {version!r}, and this driftlm reads {FORMAT}; give it to the driftlm that wrote it."
            )
        if facts[SEAL] != seal_of({name: value for name, value in facts.items() if name != SEAL}):
            raise DriftError(damaged)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DriftError(damaged) from error
    return dict(facts)


def seal_of(facts: dict[str, Any]) -> str:
    """Return the SHA-256 of JSON facts, whatever their order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("ascii")).hexdigest()


def ranges(history: Iterable[int]) -> list[list[int]]:
    """Return rising numbers as first and last of each run.

    Example:
        >>> ranges([1, 2, 3, 7])
        [[1, 3], [7, 7]]
    """
    found: list[list[int]] = []
    for seq in history:
        if found and found[-1][1] == seq - 1:
            found[-1][1] = seq
        else:
            found.append([seq, seq])
    return found


def unranged(runs: Sequence[Sequence[int]]) -> list[int]:
    """Return the numbers that `ranges` was given."""
    return [seq for first, last in runs for seq in range(first, last + 1)]
