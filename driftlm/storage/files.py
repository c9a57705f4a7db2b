"""Files that outlive a power failure, and folders: whole under their name, or not there."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from driftlm.core.errors import DriftError


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


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into that takes its name when the context ends well.

    Raises:
        DriftError: when a folder of that name is there already.
    """
    refuse_existing(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(folder)


def refuse_existing(folder: Path) -> None:
    """Refuse to write over what somebody keeps."""
    if folder.exists():
        raise DriftError(f"{folder} exists already; give a folder that does not exist, or remove it.")
    refuse_unwritable(folder)


def refuse_unwritable(place: Path) -> None:
    """Refuse a place that cannot be made, before hours are spent on what is to go there."""
    place = place.absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise DriftError(f"{place} cannot be made, because {there} is no folder to write in; give another place.")
