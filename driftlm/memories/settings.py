"""The settings of a home; no heavy import."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learning
from driftlm.streams.windows import Windows

SourceName = Literal["bank", "bm25", "dense"]


@dataclass(frozen=True)
class HomeSettings:
    """What a home's memory is made of; written when the home is made, and never changed.

    Attributes:
        windows: how documents are cut.
        learning: what the weights learn, and how.
        sources: memories that keep documents beside the weights, in the order they are asked: `bank`, `bm25`, `dense`.
        networks: folder of the bank's networks; empty for the bundled ones.
        retrieved: documents that `bm25` and `dense` find for a window.
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
                    f"--sources named {name!r}; give some of {', '.join(get_args(SourceName))}, once each."
                )
        if self.learning.rule == "mixture" and self.sources:
            raise DriftError(
                f"--rule mixture was given with --sources {' '.join(self.sources)}, but a mixture reads without "
                f"sources; give another rule, or no sources."
            )
