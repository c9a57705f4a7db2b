"""Texts become tokenized parts in the order a reading asks for: the same tokens, whatever the order."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path, PurePosixPath

from driftlm.core.errors import DriftError
from driftlm.models.loading import LanguageModel
from driftlm.streams.documents import Document, read_documents
from driftlm.studies.cells import Cell


@dataclass(frozen=True)
class Part:
    """A document, or a part of one, with the tokens that it has in the whole.

    Attributes:
        id: unlike any other's.
        ids: `[BOS, x1 ... xn]`.
        byte_ends: (n,) where each token ends, in UTF-8 bytes from the part's beginning.
    """

    id: str
    ids: list[int]
    byte_ends: list[int]

    @property
    def tokens(self) -> int:
        """Return n, the number of tokens."""
        return len(self.byte_ends)

    def cut(self, start: int, stop: int) -> "Part":
        """Return the part's tokens from `start` up to `stop`, as a part that begins anew.

        >>> Part("a", [0, 7, 8, 9], [2, 4, 6]).cut(1, 3)
        Part(id='a@1', ids=[0, 8, 9], byte_ends=[2, 4])
        """
        if start <= 0 and stop >= self.tokens:
            return self
        before = self.byte_ends[start - 1] if start else 0
        ends = [end - before for end in self.byte_ends[start:stop]]
        return Part(f"{self.id}@{start}", [self.ids[0], *self.ids[1 + start : 1 + stop]], ends)


@dataclass
class Tokenized(LanguageModel):
    """A language model whose documents are parts: the text of each is the part's id.

    A cut-out text would be tokenized otherwise at its ends.
    """

    parts: dict[str, Part] = field(default_factory=dict)

    @staticmethod
    def of(language_model: LanguageModel, parts: Iterable[Part]) -> "Tokenized":
        """Return the model with the parts it is to read."""
        return Tokenized(**vars(language_model), parts={part.id: part for part in parts})

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """Return the part's tokens and where they end."""
        part = self.parts[text]
        return part.ids, part.byte_ends

    def documents(self) -> Iterator[Document]:
        """Yield what `read_stream` reads."""
        return (Document(name, name) for name in self.parts)


def parts_of(language_model: LanguageModel, reading: Cell, data: Path) -> tuple[list[Part], list[Part]]:
    """Return what a reading skips, text after text, and what it reads, in its order.

    Raises:
        DriftError: where a text cannot be read, or ends before what is to be read begins.
    """
    share = reading.tokens // len(reading.texts)
    skipped: list[Part] = []
    texts: list[list[Part]] = []
    for number, text in enumerate(reading.texts):
        stem = PurePosixPath(text).stem
        whole = tokenized(language_model, data / text, f"{number}/{stem}", reading.skip + share)
        skipped += between(whole, 0, reading.skip)
        texts.append(between(whole, reading.skip, reading.skip + share))
        if not texts[-1]:
            raise DriftError(
                f"{data / text} has {sum(part.tokens for part in whole):,} tokens, and the reading "
                f"{reading.setting!r} skips {reading.skip:,}; give a longer text."
            )
    return skipped, ordered(texts, reading)


def tokenized(language_model: LanguageModel, path: Path, name: str, tokens: int) -> list[Part]:
    """Return whole documents of a file, until they hold so many tokens."""
    parts: list[Part] = []
    held = 0
    for number, document in enumerate(read_documents([str(path)])):
        parts.append(Part(f"{name}/{number}", *language_model.encode(document.text)))
        held += parts[-1].tokens
        if held >= tokens:
            break
    return parts


def between(parts: Sequence[Part], start: int, stop: int) -> list[Part]:
    """Return what of the parts lies between two places, counted in tokens over all of them.

    >>> [part.ids for part in between([Part("a", [0, 7, 8], [1, 2]), Part("b", [0, 9], [1])], 1, 3)]
    [[0, 8], [0, 9]]
    """
    found, place = [], 0
    for part in parts:
        first, last = max(start - place, 0), min(stop - place, part.tokens)
        if first < last:
            found.append(part.cut(first, last))
        place += part.tokens
    return found


def ordered(texts: Sequence[Sequence[Part]], reading: Cell) -> list[Part]:
    """Return the parts of all texts in the order of a reading.

    >>> a, b = ([Part(f"{name}{i}", [0, 1], [1]) for i in range(3)] for name in "ab")
    >>> [part.id for part in ordered([a, b], Cell("", ("a", "b"), 9, order="documents:2"))]
    ['a0', 'a1', 'b0', 'b1', 'a2', 'b2']
    """
    word, number = reading.turns()
    if word in ("given", "shuffled"):
        parts = list(chain.from_iterable(texts))
        if word == "shuffled":
            random.Random(reading.seed).shuffle(parts)
        return parts
    turns: list[list[list[Part]]] = []
    for text in texts:
        if word == "documents":
            turns.append([list(text[i : i + number]) for i in range(0, len(text), number)])
        else:
            length = sum(part.tokens for part in text)
            turns.append([between(text, i, i + number) for i in range(0, length, number)])
    return [part for round_ in zip_longest(*turns, fillvalue=[]) for turn in round_ for part in turn]
