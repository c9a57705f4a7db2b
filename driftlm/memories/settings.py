"""The settings of a memory: what learns, and what keeps documents beside it; no heavy import."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import tyro

from driftlm.core.errors import DriftError
from driftlm.core.registry import held, kept, options_of
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.memories.registries import ENCODERS, MEMORIES, SOURCES
from driftlm.memories.weights.learning import Learning
from driftlm.streams.windows import Windows

if TYPE_CHECKING:
    MemoryName = str
    SourceName = str
    MemoryOptions = Any
else:
    # A mixture is what `Learning.rule` says.
    MemoryName, SourceName = MEMORIES.choice(but="mixture"), SOURCES.choice()
    MemoryOptions = options_of("MemoryOptions", __name__, MEMORIES, SOURCES, ENCODERS)
STATES = "states"  # the encoder that takes the language model's own states


@dataclass(frozen=True)
class MemorySettings:
    """What a memory is made of; a home writes it when it is made, and never changes it.

    Attributes:
        windows: How documents are cut.
        learning: What the weights learn, and how.
        sources: Keep documents beside the weights in these, in the order they are asked: `bank`, `bm25`, `dense`.
        networks: Read the bank's networks from this folder; empty for the bundled ones.
        retrieved: Find so many documents for a window or a question with `bm25` and `dense`.
        budget: Show at most so many tokens of their texts together.
        compare: Score the `static` model on the same windows, or `none`.
        memory: Read with `weights` that learn as the other settings say, or with another memory; the model of `bank`,
            `bm25` and `dense` is frozen.
        options: What entries of other packages bring.
        aggregation: How a bank becomes one modulation; of studies alone.
        encoder: What `dense` finds documents with; of studies alone.
    """

    windows: Windows = field(default_factory=Windows)
    learning: Learning = field(default_factory=Learning)
    sources: tuple[SourceName, ...] = ()
    networks: str = ""
    retrieved: int = 1
    budget: int = 256
    compare: Literal["static", "none"] = "static"
    memory: MemoryName = "weights"
    options: MemoryOptions = field(default_factory=lambda: MemoryOptions())
    aggregation: tyro.conf.Suppress[Aggregation] = EXACT
    encoder: tyro.conf.Suppress[str] = STATES

    def __post_init__(self) -> None:
        if self.memory not in get_args(MemoryName):
            raise DriftError(
                f"`MemorySettings.memory` was {self.memory!r}; give one of {', '.join(get_args(MemoryName))}."
            )
        object.__setattr__(self, "options", held(self.options, MemoryOptions))
        for name in self.sources:
            if name not in SOURCES.names or self.sources.count(name) > 1:
                raise DriftError(
                    f"`MemorySettings.sources` named {name!r}; give some of {', '.join(SOURCES.names)}, once each."
                )
        if self.learning.rule == "mixture" and self.sources:
            raise DriftError(
                f"`Learning.rule` mixture was given with `MemorySettings.sources` {' '.join(self.sources)}, but a "
                f"mixture reads without sources; give another rule, or no sources."
            )
        if self.memory != "weights" and self.sources:
            raise DriftError(
                f"`MemorySettings.memory` {self.memory} was given with `MemorySettings.sources` "
                f"{' '.join(self.sources)}, which stand beside weights alone; leave one of them out."
            )

    def described(self) -> dict[str, Any]:
        """Return the settings as a folder keeps them: of other packages' options, those of the entries in use."""
        facts = asdict(self)
        facts["options"] = kept(facts["options"], (self.memory, *self.sources, self.encoder.partition(":")[0]))
        facts["learning"] = self.learning.described()
        return facts
