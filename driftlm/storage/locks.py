"""Locks that keep a folder to one process: `fcntl`, which Linux and macOS have."""

import os

from driftlm.core.errors import DriftError


def refuse_without_locks() -> None:
    """Refuse platforms on which no folder can be locked.

    Raises:
        DriftError: where the module `fcntl` is missing.
    """
    try:
        import fcntl  # noqa: F401
    except ImportError as error:
        raise DriftError(
            "driftlm locks its folders with fcntl, which this platform does not have; run it on Linux or macOS (on "
            "Windows, in WSL)."
        ) from error


def locked(folder: str | os.PathLike[str], what: str) -> int:
    """A descriptor of the folder that no other has while it is open; a refusal says what it is the folder of.

    Raises:
        DriftError: when somebody has it, or this platform has no locks.
    """
    refuse_without_locks()
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DriftError(f"{what} {folder} is open already, here or in another process; close it there.") from error
    return descriptor
