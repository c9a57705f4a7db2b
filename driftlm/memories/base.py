"""What a memory is, and what its sources are.

A memory is added by writing a class with these verbs and naming it in `memories/registries.py` (or in the entry-point
group `driftlm.memories` of another package); the conformance tests find it there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.models.modulated import Modulated
from driftlm.streams.documents import Document
from driftlm.streams.windows import Window, Windows

if TYPE_CHECKING:
    from driftlm.memories.weights.dynamic import WeightMemory
    from driftlm.models.loading import LanguageModel


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


class Memory(ABC):
    """Score, then learn. `memories.loop.read_stream` calls the verbs, and alone decides their order.

    Attributes:
        language_model: that it reads with.
        windows: the grid this memory wants its documents cut by.
        counts: updates, rollbacks and the like so far.
        events: what is to be said of the latest scored window.
        meta_trained: whether it gains by what was trained before: how it learns was learned itself, or the language
            model has learned to use its context. Examples have random weights, so what they read only changes scores.
        can_generate: whether its language model, as it is, can continue a prompt.
    """

    language_model: "LanguageModel"
    windows: Windows
    kind: ClassVar[str] = "memory"  # as errors call it
    counts: Counts
    events: tuple[Event, ...] = ()
    meta_trained: bool = False
    can_generate: bool = False

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """Return `[BOS, x1 ... xn]` and where each token ends in the source (UTF-8 bytes)."""
        return self.language_model.encode(text)

    # ---- score, then learn ------------------------------------------------------------------------------------------

    @abstractmethod
    def score(self, window: Window) -> Tensor:
        """Return nats of each new token, (S,) float32, from what was learned before this window.

        Never looks at a later token; scoring twice gives the same. May keep its forward pass for `learn`.
        """

    @abstractmethod
    def learn(self, window: Window) -> None:
        """Change the memory by the window just scored. Called after every window, so that caches advance."""

    @abstractmethod
    def finish(self, document: str) -> None:
        """End the document."""

    @abstractmethod
    def reset(self) -> None:
        """Go back to the prior: afterwards the memory is as new."""

    @abstractmethod
    def state(self) -> State:
        """Return everything the next score depends on besides the model's files and the settings."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Go on exactly where `state` was taken."""

    @abstractmethod
    def forget(self, document: str) -> None:
        """Be as if the document had never been read, or refuse and say what to do instead."""

    @abstractmethod
    def static(self) -> "Baseline":
        """Return a memory that reads the same windows with the prior and never changes."""

    # ---- what callers ask of it -------------------------------------------------------------------------------------

    @property
    def is_static(self) -> bool:
        """Whether nothing it reads changes what it scores."""
        return False

    @property
    def forgets(self) -> bool:
        """Whether `forget` takes one document out exactly."""
        return False

    @property
    def documents(self) -> Sequence[str]:
        """Ids of the documents that it can forget, the oldest first."""
        return ()

    def learners(self) -> "dict[str, WeightMemory]":
        """Return the memories in weights within it, by the prefix of their tensors in its state."""
        return {}

    def priors(self) -> dict[str, Tensor]:
        """Return the parameters before the stream, by their names in its state."""
        return {
            f"{prefix}parameters/{name}": value
            for prefix, one in self.learners().items()
            for name, value in zip(one.trainable.parameters, one.prior.values, strict=True)
        }

    def readers(self) -> "Sequence[WeightMemory]":
        """Return the memories in weights whose passes a window costs, the frozen ones first.

        Raises:
            DriftError: where passes are not all there is to count.
        """
        raise DriftError(f"what a {self.kind} costs is not counted by formula.")

    def supplied(self, questions: Sequence[str]) -> "Supply":
        """Return what is to stand before some questions."""
        return Supply.of([], len(questions))

    def line(self) -> dict[str, Any]:
        """Return what a run's log says of the window that was scored last, besides its scores."""
        return {}

    def summary(self) -> dict[str, Any]:
        """Return what a run's summary says of it, besides the totals."""
        return {}

    def learned(self) -> "WeightMemory":
        """Return the memory in weights whose parameters are what was learned, to be looked at or saved.

        Raises:
            DriftError: where no weights learn.
        """
        raise DriftError(f"a {self.kind} learns no weights that could be saved; leave `Stream.save` out.")

    @classmethod
    def build(cls, language_model: "LanguageModel", settings: Any, own: Any, shared: Any) -> "Memory":
        """Make one by settings.

        Args:
            language_model: which stays as it is: what changes has tensors of its own.
            settings: `MemorySettings`.
            own: the settings that its entry in the registry brings, None where it brings none.
            shared: by name of a source, what several memories around one model can share.

        Raises:
            DriftError: where it has no such form.
        """
        raise DriftError(f"a {cls.__name__} is made in Python alone; give another `MemorySettings.memory`.")

    @staticmethod
    @abstractmethod
    def examples() -> "dict[str, Example]":
        """Return settings that the conformance tests try, by name; the more of its branches they reach, the better.

        Each makes a memory of a tiny `LanguageModel`, a grid, a folder for files it may need, and `idle`: whether the
        memory is to learn nothing (rate 0, an index that stays empty) and so to score as the static model does. When
        not idle, it must score a document that repeats itself, read twice, better than the static model; one that is
        `meta_trained` must score it otherwise.
        """


class Baseline(Protocol):
    """A memory that is only compared with: it reads the same windows."""

    def score(self, window: Window) -> Tensor: ...
    def learn(self, window: Window) -> None: ...
    def finish(self, document: str) -> None: ...
    def reset(self) -> None: ...
    def state(self) -> State: ...
    def restore(self, state: State) -> None: ...


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

    def rows(self, chosen: "Sequence[int]") -> "Supply":
        """Return what helps with the chosen questions, in their order."""
        if list(chosen) == list(range(len(self.texts))):
            return self
        modulated = None if self.modulated is None else self.modulated.rows(chosen)
        return Supply([self.texts[row] for row in chosen], modulated, [self.documents[row] for row in chosen])

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

    An entry of the registry has two verbs more: `shared(language_model, settings, own)` loads what several of its kind
    around one model can share, and `build(language_model, settings, own, shared)` makes an empty one; arguments as of
    `Memory.build`.

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
