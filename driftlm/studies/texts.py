"""The development texts by kind, as paths below the data folder, and how they are read unless a study varies it."""

from collections.abc import Sequence

from driftlm.streams.windows import Windows

DEVELOPMENT_BOOKS = ("books/pg19_349.txt", "books/pg19_2021.txt")  # rates and defaults were chosen on these
OTHER_BOOKS = tuple(
    f"books/{name}.txt"
    for name in (
        "pg19_1684",
        "pg19test_10146",
        "pg19_22094",
        "pg19_6081",
        "pg19_5274",
        "pg19test_10356",
        "pg19_33452",
        "pg19_44329",
        "pg19_50031",
        "pg19_50797",
    )
)
BOOKS = (*OTHER_BOOKS, *DEVELOPMENT_BOOKS)
DRIFT = ("drift/sotu_1790_1945.jsonl", "drift/fomc_1993_2006.jsonl", "drift/peps_1996_2015.jsonl")
SHIFT = ("shift/code_equinox.py.txt", "shift/fr_les_trois_mousquetaires.txt")

CACHED = Windows("cached", 512, 256)  # what overlapping windows reach, at a little over half their cost


def first(texts: Sequence[str], most: int) -> tuple[str, ...]:
    """Return some of a kind.

    Example:
        >>> first(DRIFT, 1)
        ('drift/sotu_1790_1945.jsonl',)
        >>> first(SHIFT, 0) == SHIFT
        True
    """
    return tuple(texts[: most or None])
