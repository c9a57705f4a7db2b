"""What a memory is, and the registry of memories.

A memory is added by writing a class with these verbs and naming it in `MEMORIES` (or in the entry-point group
`driftlm.memories` of another package); the conformance tests find it there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from driftlm.errors import DriftError
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


@dataclass
class Counts:
    """What a memory did since the stream began."""

    updates: int = 0
    rollbacks: int = 0
    prior_used: int = 0
    skipped_updates: int = 0


class Memory(Protocol):
    """Score, then learn. `evaluation.prequential.read_stream` calls the verbs, and alone decides their order.

    Attributes:
        windows: the grid this memory wants its documents cut by.
        counts: updates, rollbacks and the like so far.
        events: what is to be said of the latest scored window.
    """

    windows: Windows
    counts: Counts
    events: tuple[Event, ...]

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """`[BOS, x1 ... xn]` and where each token ends in the source (UTF-8 bytes)."""
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
        not idle, it must score a text that repeats itself better than the static model.
        """
        ...


Example = Callable[[Any, Windows, Path, bool], Memory]


MEMORIES = {"weights": "driftlm.weights.dynamic:WeightMemory"}


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
