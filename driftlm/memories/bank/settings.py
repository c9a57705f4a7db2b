"""Settings of a bank's networks and of their training; no heavy import, so that the command line can show them."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from driftlm.core.errors import DriftError


@dataclass(frozen=True)
class NetworksSettings:
    """Shapes of a bank's networks.

    Attributes:
        vectors: Keep T vectors of every document part.
        encoder: Read documents and questions with the hidden `states` of the language model and a small network on top
            of them, or with a pretrained encoder-decoder each, `t5`, as in the paper.
        t5: Load the T5 from this folder, or by its hub name from the local cache.
        encoder_width: Make the two encoders over hidden states so wide inside.
        encoder_layers: Give each of these so many layers.
        encoder_heads: Give each of these so many heads.
        blocks: Give the aggregator so many blocks.
        heads: Give the aggregator so many heads.
        head_width: Make the heads of the aggregator so wide.
        key_width: Score documents with keys of width Q.
        document_score: Score documents as a whole.
        longest: Cut documents into parts of at most so many tokens.
        modulation: Make of a question's modulation a `prefix` of keys and values, or a `lora`.
        rank: Give that LoRA this rank.
        target_modules: Change with it `attention`, `mlp`, `all-linear` or module names separated by commas; empty for
            the attention's queries and values.
    """

    vectors: int = 8
    encoder: Literal["states", "t5"] = "states"
    t5: str = ""
    encoder_width: int = 192
    encoder_layers: int = 3
    encoder_heads: int = 4
    blocks: int = 3
    heads: int = 4
    head_width: int = 48
    key_width: int = 64
    document_score: bool = True
    longest: int = 512
    modulation: Literal["prefix", "lora"] = "prefix"
    rank: int = 8
    target_modules: str = ""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 2 if name == "longest" else 1
            if type(value) is int and value < least:
                raise DriftError(f"the networks' {name} was {value}; give at least {least}.")
        if self.encoder not in ("states", "t5") or self.modulation not in ("prefix", "lora"):
            raise DriftError(
                f"the networks' encoder was {self.encoder!r} and their modulation {self.modulation!r}; "
                f"give states or t5, and prefix or lora."
            )
        if (self.encoder == "t5") != bool(self.t5):
            raise DriftError(
                f"the networks' encoder was {self.encoder!r} and their t5 {self.t5!r}; "
                f"name a folder of a T5 with the encoder t5, and none with states."
            )
        if self.encoder_width % self.encoder_heads:
            raise DriftError(
                f"the networks' encoder_width was {self.encoder_width} and their encoder_heads {self.encoder_heads}; "
                f"give a width that the heads divide."
            )


@dataclass(frozen=True)
class BankTraining:
    """How the networks learn.

    Attributes:
        steps: Take so many steps of the optimizer.
        batch: Ask so many questions a step, of all processes together.
        rate: Learn at this rate with AdamW.
        warm_up: Rise to the rate over so many steps; over the last third it falls to a twentieth.
        contrast: Weigh the contrastive loss on document scores by this.
        readout: Weigh reading the answer's tokens off the modulation itself by this.
        distill: Weigh by this the divergence from the model with the question's newest document as text in its context;
            a document that does not fit there whole teaches nothing this way.
        hierarchical: Aggregate the bank in groups, as the paper does for large banks, in this share of the batches.
        group: Put so many entries into such a group.
        kept: Let gradients flow through this share of the document parts; below 1 it is backpropagation dropout.
        remembered: Let so many modulations of earlier steps join the bank once it outgrows the batch.
        bank: Show a question so many document parts at first, its own included.
        grow: Double the bank at this running accuracy.
        accumulate: Take so many batches a step.
        seed: Seed everything random.
    """

    steps: int = 3000
    batch: int = 64
    rate: float = 7e-4
    warm_up: int = 100
    contrast: float = 0.2
    readout: float = 0.3
    distill: float = 0.0
    hierarchical: float = 0.0
    group: int = 16
    kept: float = 1.0
    remembered: int = 0
    bank: int = 1
    grow: float = 0.7
    accumulate: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2 or self.accumulate < 1 or self.rate <= 0:
            raise DriftError(
                f"`BankTraining.steps` {self.steps}, `BankTraining.batch` {self.batch}, `BankTraining.accumulate` "
                f"{self.accumulate} and `BankTraining.rate` {self.rate} "
                f"were given; give at least 1, 2, 1 and a positive rate."
            )
        if self.bank < 1 or self.remembered < 0:
            raise DriftError(
                f"`BankTraining.bank` was {self.bank} and `BankTraining.remembered` {self.remembered}; give at least 1 "
                f"and at least 0."
            )
        if not 0 < self.kept <= 1:
            raise DriftError(
                f"`BankTraining.kept` was {self.kept}; give a share of the document parts, above 0 and at most 1."
            )
        if not 0 <= self.hierarchical <= 1 or self.group < 2:
            raise DriftError(
                f"`BankTraining.hierarchical` was {self.hierarchical} and `BankTraining.group` {self.group}; give a "
                f"share of the batches, from 0 "
                f"to 1, and groups of at least 2."
            )
        if min(self.contrast, self.readout, self.distill) < 0:
            raise DriftError(
                f"`BankTraining.contrast` {self.contrast}, `BankTraining.readout` {self.readout} and "
                f"`BankTraining.distill` {self.distill} were given; give "
                f"weights of at least 0."
            )

    def rate_at(self, step: int) -> float:
        """Return the rate of a step: it rises, stays, and falls to a twentieth over the last third."""
        falling = min(1.0, max(0.0, (self.steps - step) / (self.steps / 3)))
        return self.rate * min(1.0, (step + 1) / self.warm_up) * (0.05 + 0.95 * falling)


Way = Literal["exact", "nearest", "hierarchical", "pruned", "averaged", "nearest-averaged"]


@dataclass(frozen=True)
class Aggregation:
    """How a bank becomes one modulation; `Aggregation("nearest", 8)` attends to the 8 best entries alone.

    Attributes:
        way: Attend to every entry (`exact`), to the `size` of the best document scores (`nearest`), or to groups of
            `size` and then to groups of their aggregates (`hierarchical`); the others make a bank of at most `size`
            entries first: `pruned` and `averaged` at random, `nearest-averaged` by likeness.
        size: Attend to so many entries; 0 for `exact`, which has no size.
        seed: Seed what is random.

    Raises:
        DriftError: for a way that there is not, or a size that it cannot have.
    """

    way: Annotated[Way, tyro.conf.arg(name="aggregation")] = "exact"
    size: int = 0
    seed: tyro.conf.Fixed[int] = 0  # on the command line, that of the study

    def __post_init__(self) -> None:
        if self.way not in get_args(Way):
            raise DriftError(f"`Aggregation.way` was {self.way!r}; give one of {', '.join(get_args(Way))}.")
        if self.way == "exact" and self.size:
            raise DriftError(
                f"`Aggregation.size` was {self.size}, but exact aggregation has no size; give an `Aggregation.way` too."
            )
        least = {"exact": 0, "hierarchical": 2}.get(self.way, 1)
        if self.size < least:
            raise DriftError(
                f"`Aggregation.size` was {self.size}; {self.way} aggregation needs one of at least {least}: give it."
            )

    @property
    def reduces(self) -> bool:
        """Tell whether the bank itself becomes smaller; `Aggregation("pruned", 8).reduces`."""
        return self.way in ("pruned", "averaged", "nearest-averaged")


EXACT = Aggregation()
