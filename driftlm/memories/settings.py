"""The settings of a memory: what learns, and what keeps documents beside it; no heavy import."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learning
from driftlm.streams.windows import Windows

SourceName = Literal["bank", "bm25", "dense"]
STATES = "states"
"""The encoder of `dense` that takes the language model's own states."""


@dataclass(frozen=True)
class MemorySettings:
    """What a memory is made of; a home writes it when it is made, and never changes it.

    Attributes:
        windows: how documents are cut.
        learning: what the weights learn, and how.
        sources: memories that keep documents beside the weights, in the order they are asked: `bank`, `bm25`, `dense`.
        networks: folder of the bank's networks; empty for the bundled ones.
        retrieved: documents that `bm25` and `dense` find for a window or a question.
        budget: most tokens of their texts together.
        compare: score the `static` model on the same windows, or `none`.
    """

    windows: Windows = field(default_factory=Windows)
    learning: Learning = field(default_factory=Learning)
    sources: tuple[SourceName, ...] = ()
    networks: str = ""
    retrieved: int = 1
    budget: int = 256
    compare: Literal["static", "none"] = "static"

    def __post_init__(self) -> None:
        for name in self.sources:
            if name not in get_args(SourceName) or self.sources.count(name) > 1:
                raise DriftError(
                    f"`MemorySettings.sources` named {name!r}; give some of {', '.join(get_args(SourceName))}, once "
                    f"each."
                )
        if self.learning.rule == "mixture" and self.sources:
            raise DriftError(
                f"`Learning.rule` mixture was given with `MemorySettings.sources` {' '.join(self.sources)}, but a "
                f"mixture reads without "
                f"sources; give another rule, or no sources."
            )
