"""Settings of what is trained beforehand; no heavy import, so that the command line can show them."""

from dataclasses import dataclass
from typing import Literal

from driftlm.core.errors import DriftError

WARM_UP = 100  # steps


@dataclass(frozen=True)
class TrainingRun:
    """What is trained on, where it is kept, and how often it is looked at.

    Attributes:
        out: folder for checkpoints, the log and what was trained.
        stream: `facts`, or a file of documents with questions (SQuAD JSON, JSONL, CSV).
        log: steps between lines.
        check: steps between checkpoints, with answers to held-out questions.
    """

    out: str
    stream: str = "facts"
    log: int = 25
    check: int = 100

    def __post_init__(self) -> None:
        if min(self.log, self.check) < 1:
            raise DriftError(
                f"`TrainingRun.log` was {self.log} and `TrainingRun.check` {self.check}; give at least 1 of each."
            )


@dataclass(frozen=True)
class BankRun(TrainingRun):
    """A training of a bank's networks.

    Attributes:
        reader: a PEFT adapter that teaches the model to answer from a document; part of the networks from then on.
        start: a folder of networks to begin with instead of random ones.
        autocast: compute encoders and model in bfloat16.
    """

    reader: str = ""
    start: str = ""
    autocast: bool = False


@dataclass(frozen=True)
class SalienceRun(TrainingRun):
    """A training of a network that weighs tokens.

    Attributes:
        reader: a PEFT adapter that teaches the model to answer, as `driftlm train qa` makes it.
    """

    log: int = 10
    check: int = 50
    reader: str = ""


@dataclass(frozen=True)
class AnswerRun(TrainingRun):
    """A training of a model to answer; the adapter is OUT/adapter, for `--reader OUT` and `--from`.

    Attributes:
        autocast: compute in bfloat16.
    """

    autocast: bool = False


@dataclass(frozen=True)
class AnswerTraining:
    """How a model is tuned to answer.

    Attributes:
        steps: Take so many steps of the optimizer.
        batch: Read so many documents a step.
        context: Put this share of them before their questions; the questions of the others are asked closed-book.
        distracting: Put at most so many other documents beside one.
        text: Weigh the nats of a token of what is no answer by this.
        rank: Give the LoRA this rank.
        target_modules: Change `attention`, `mlp`, `all-linear` or module names separated by commas.
        rate: Learn at this rate with AdamW; it rises over the first 100 steps and falls to nothing over the last two
            thirds.
        longest: Leave out a document that does not fit whole, with its questions, into so many tokens.
        patience: End after so many held-out checks in a row without a new best; 0 for never.
        seed: Seed everything random.
    """

    steps: int = 1200
    batch: int = 32
    context: float = 0.8
    distracting: int = 0
    text: float = 0.0
    rank: int = 32
    target_modules: str = "all-linear"
    rate: float = 2e-3
    longest: int = 512
    patience: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 1, "distracting": 0, "rank": 1, "longest": 16, "patience": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise DriftError(f"`AnswerTraining.{name}` was {getattr(self, name)}; give at least {bound}.")
        if not 0 <= self.context <= 1:
            raise DriftError(
                f"`AnswerTraining.context` was {self.context}; give the share of documents in the context, from 0 to 1."
            )
        if self.rate <= 0 or self.text < 0:
            raise DriftError(
                f"`AnswerTraining.rate` was {self.rate} and `AnswerTraining.text` {self.text}; give a positive rate "
                f"and a weight of at least 0."
            )

    def rate_at(self, step: int) -> float:
        """Return the rate of a step: it rises over the first steps, and falls to nothing over the last two thirds."""
        return self.rate * min((step + 1) / WARM_UP, 1.5 * (self.steps - step) / self.steps, 1.0)


@dataclass(frozen=True)
class SalienceTraining:
    """How the network that weighs tokens is meta-trained.

    Attributes:
        steps: Take so many steps of the optimizer.
        documents: Read K documents in a row by one inner SGD step each, before their questions are asked.
        inner_rate: Take the inner steps at the rate η; it is also the rate to read with later.
        rate: Learn at this rate with Adam, on the network.
        locality: Weigh by c the divergence of the model before from the model after on an unrelated text.
        reset: Go back to the start of the inner model after so many documents.
        order: Let the `second` order follow how an inner step changes the gradients of later ones; `first` leaves that
            out.
        learn: Change `all`, `lora` or `norms` by the inner steps.
        hidden: Give the network so many units.
        longest: Read so many tokens of a document.
        memory: Let the graph of a step hold so many MiB; 0 for no limit.
        seed: Seed everything random.
    """

    steps: int = 300
    documents: int = 6
    inner_rate: float = 0.05
    rate: float = 1e-3
    locality: float = 0.1
    reset: int = 24
    order: Literal["second", "first"] = "second"
    learn: Literal["all", "lora", "norms"] = "all"
    hidden: int = 128
    longest: int = 512
    memory: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("documents", 1), ("reset", 1), ("hidden", 1), ("longest", 2), ("memory", 0)):
            if getattr(self, name) < least:
                raise DriftError(f"`SalienceTraining.{name}` was {getattr(self, name)}; give at least {least}.")
        if min(self.rate, self.inner_rate) <= 0 or self.locality < 0:
            raise DriftError(
                f"`SalienceTraining.rate` {self.rate}, `SalienceTraining.inner_rate` {self.inner_rate} and "
                f"`SalienceTraining.locality` {self.locality} were given; give "
                f"positive rates, and a weight of at least 0."
            )
        for name, choices in (("order", ("second", "first")), ("learn", ("all", "lora", "norms"))):
            if getattr(self, name) not in choices:
                raise DriftError(
                    f"`SalienceTraining.{name}` was {getattr(self, name)!r}; give one of {', '.join(choices)}."
                )
