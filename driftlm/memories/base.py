"""What a memory is, and the registry of memories.

A memory is added by writing a class with these verbs and naming it in `MEMORIES` (or in the entry-point group
`driftlm.memories` of another package); the conformance tests find it there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.models.modulated import Modulated
from driftlm.streams.documents import Document
from driftlm.streams.windows import Window, Windows


@dataclass(frozen=True)
class State:
    """A memory between two windows: exact, and nothing but tensors and JSON values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


@dataclass(frozen=True)
class Event:
    """Something the reader should know about the latest window: `rollback`, `prior_used` or `skipped_update`."""

    kind: str
    message: str


@dataclass(frozen=True)
class Answer:
    """What a memory says to a question.

    Attributes:
        text: the answer.
        documents: ids of documents it rests on and the share of each, the largest first.
    """

    text: str
    documents: tuple[tuple[str, float], ...] = ()


@dataclass
class Counts:
    """What a memory did since the stream began."""

    updates: int = 0
    rollbacks: int = 0
    prior_used: int = 0
    skipped_updates: int = 0


class Memory(Protocol):
    """Score, then learn. `memories.loop.read_stream` calls the verbs, and alone decides their order.

    Attributes:
        windows: the grid this memory wants its documents cut by.
        counts: updates, rollbacks and the like so far.
        events: what is to be said of the latest scored window.
        meta_trained: whether it gains by what was trained before: how it learns was learned itself, or the language
            model has learned to use its context. Examples have random weights, so what they read only changes scores.
    """

    meta_trained: bool
    windows: Windows

    @property
    def counts(self) -> Counts: ...

    @property
    def events(self) -> tuple[Event, ...]: ...

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """Return `[BOS, x1 ... xn]` and where each token ends in the source (UTF-8 bytes)."""
        ...

    def score(self, window: Window) -> Tensor:
        """Nats of each new token, (S,) float32, from what was learned before this window.

        Never looks at a later token; scoring twice gives the same. May keep its forward pass for `learn`.
        """
        ...

    def learn(self, window: Window) -> None:
        """Change the memory by the window just scored. Called after every window, so that caches advance."""
        ...

    def finish(self, document: str) -> None:
        """The document has ended."""
        ...

    def reset(self) -> None:
        """Back to the prior: afterwards the memory is as new."""
        ...

    def state(self) -> State:
        """Everything the next score depends on besides the model's files and the settings."""
        ...

    def restore(self, state: State) -> None:
        """Go on exactly where `state` was taken."""
        ...

    def forget(self, document: str) -> None:
        """Be as if the document had never been read, or refuse and say what to do instead."""
        ...

    @staticmethod
    def examples() -> "dict[str, Example]":
        """Settings that the conformance tests try, by name; the more of the memory's branches they reach, the better.

        Each makes a memory of a tiny `LanguageModel`, a grid, a folder for files it may need, and `idle`: whether the
        memory is to learn nothing (rate 0, an index that stays empty) and so to score as the static model does. When
        not idle, it must score a document that repeats itself, read twice, better than the static model; one that is
        `meta_trained` must score it otherwise.
        """
        ...


Example = Callable[[Any, Windows, Path, bool], Memory]


@dataclass(frozen=True)
class Supply:
    """What helps with R questions.

    Attributes:
        texts: to be read before each question; empty where there is none.
        modulated: what changes the model for each, or None.
        documents: per question, ids and the share of each, the largest first.
    """

    texts: list[str]
    modulated: Modulated | None
    documents: list[list[tuple[str, float]]]

    @staticmethod
    def of(several: "Sequence[Supply]", questions: int) -> "Supply":
        """What some sources supply, put together: texts one after the other, and the modulation that there is.

        Documents are those of the texts, their shares the means over the sources that give any; where there is no
        text, those of the first source that names any.
        """
        texts, documents = list[str](), list[list[tuple[str, float]]]()
        for row in range(questions):
            read = [one for one in several if one.texts[row]]
            texts.append("\n".join(one.texts[row] for one in read))
            named = [one.documents[row] for one in several if one.documents[row]]
            documents.append(pooled([one.documents[row] for one in read]) if read else named[0] if named else [])
        modulated = next((one.modulated for one in several if one.modulated is not None), None)
        return Supply(texts, modulated, documents)


def pooled(several: Sequence[list[tuple[str, float]]]) -> list[tuple[str, float]]:
    """Documents and their mean shares, the largest first.

    Example:
        >>> pooled([[("a", 1.0)], [("b", 0.75), ("a", 0.25)]])
        [('a', 0.625), ('b', 0.375)]
    """
    if len(several) == 1:
        return several[0]
    shares: dict[str, float] = {}
    for named in several:
        for document, share in named:
            shares[document] = shares.get(document, 0.0) + share / len(several)
    return sorted(shares.items(), key=lambda pair: -pair[1])


class Source(Protocol):
    """Knows the documents that were read, and supplies what helps with a question; learns by storing alone.

    Attributes:
        language_model: the frozen one that it works for.
        positions: most positions that what it supplies takes before a text.
        modulates: whether it changes the model.
        meta_trained: as of `Memory`.
        documents: ids of what it holds, the oldest first.
    """

    language_model: Any
    positions: int
    modulates: bool
    meta_trained: bool

    @property
    def documents(self) -> Sequence[str]: ...

    def add(self, document: str, text: str) -> None:
        """Keep a document as the newest, in place of an earlier one of its id."""
        ...

    def add_all(self, documents: Sequence[Document]) -> None:
        """Keep documents, in their order; where times matter, those that they name."""
        ...

    def drop(self, document: str) -> None:
        """Be as if the document had never been added."""
        ...

    def supply(self, questions: Sequence[str]) -> Supply:
        """What helps with some questions; asked only when it holds something."""
        ...

    def reset(self) -> None:
        """Hold nothing."""
        ...

    def state(self) -> State:
        """Everything that it supplies depends on besides its settings."""
        ...

    def restore(self, state: State) -> None:
        """Go on exactly where `state` was taken."""
        ...


MEMORIES = {
    "weights": "driftlm.memories.weights.dynamic:WeightMemory",
    "mixture": "driftlm.memories.weights.mixture:MixtureMemory",
    "bank": "driftlm.memories.composed:BankMemory",
    "bm25": "driftlm.memories.retrieval:BM25Memory",
    "dense": "driftlm.memories.retrieval:DenseMemory",
}


def memory_class(name: str) -> Any:
    """The class behind a memory's name, ours or another package's (entry-point group `driftlm.memories`).

    Example:
        >>> memory_class("weights").__name__
        'WeightMemory'
    """
    known = registered()
    if name not in known:
        raise DriftError(f"there is no memory {name!r}; give one of {', '.join(sorted(known))}.")
    module, attribute = known[name].split(":")
    return getattr(import_module(module), attribute)


def registered() -> dict[str, str]:
    """Every known memory: name -> module:class."""
    return dict(MEMORIES) | {entry.name: entry.value for entry in entry_points(group="driftlm.memories")}
