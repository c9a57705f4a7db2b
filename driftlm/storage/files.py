"""Files that outlive a power failure: whole under their name, or not there."""

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file; until this returns `path` is the old one or none, then it is the new one, on disk.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.json")
    ...     write_atomically(path, lambda partial: partial.write_text("{}"))
    ...     [file.name for file in Path(folder).iterdir()]
    ['a.json']
    """
    partial = path.with_name(path.name + ".partial")
    write(partial)
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
