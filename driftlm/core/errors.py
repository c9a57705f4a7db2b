"""The one exception a user is meant to read."""


class DriftError(Exception):
    """A bad input or setting, in one sentence: what was given, what was expected, what to do.

    A setting is named by its field, as in `Learning.rank`; the command line says the flag in its place. It
    prints the sentence on stderr and exits with status 2; programs catch it.
    """


class Diverged(DriftError):
    """Learning left the finite numbers with the guard off: there is no state to go on from."""
