"""The development texts by kind, as paths below the data folder, and how they are read unless a study varies it."""

from collections.abc import Sequence
from itertools import zip_longest

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
SPEECHES, MINUTES = "drift/sotu_1790_1945.jsonl", "drift/fomc_1993_2006.jsonl"
PEPS, RECENT_PEPS = "drift/peps_1996_2015.jsonl", "drift/peps_2025_even.jsonl"
DRIFT = (RECENT_PEPS, SPEECHES, MINUTES, PEPS)
WHERE_THERE = (RECENT_PEPS,)  # left out of a study where the data folder does not hold them
SHIFT = ("shift/code_equinox.py.txt", "shift/fr_les_trois_mousquetaires.txt")

CACHED = Windows("cached", 512, 256)  # what overlapping windows reach, at a little over half their cost


def by_turns(*kinds: Sequence[str]) -> list[str]:
    """Return the first of every kind, the second of every kind, ..., so that a study that is stopped has read of each.

    Example:
        >>> by_turns("ab", "c", "de")
        ['a', 'c', 'd', 'b', 'e']
    """
    return [text for turn in zip_longest(*kinds) for text in turn if text is not None]


def first(texts: Sequence[str], most: int) -> tuple[str, ...]:
    """Return some of a kind.

    Example:
        >>> first(DRIFT, 1)
        ('drift/peps_2025_even.jsonl',)
        >>> first(SHIFT, 0) == SHIFT
        True
    """
    return tuple(texts[: most or None])
