"""The one exception a user is meant to read."""


class DriftError(Exception):
    """A bad input or setting, in one sentence: what was given, what was expected, what to do.

    A setting is named by its field, as in `Learning.rank`; the command line says the flag in its place. It
    prints the sentence on stderr and exits with status 2; programs catch it.
    """


class Diverged(DriftError):
    """Learning left the finite numbers with the guard off: there is no state to go on from."""


def first_sentence(error: Exception) -> str:
    """Return the first line of a library's message, without its final full stop.

    Example:
        >>> first_sentence(OSError("No file. "))
        'No file'
    """
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
