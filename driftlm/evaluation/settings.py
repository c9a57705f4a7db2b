"""Settings of asking and of studies of it; no heavy import, so that the command line can show them."""

from dataclasses import dataclass
from typing import Literal

from driftlm.core.errors import DriftError

Golds = Literal["all", "shortest"]
"""Which gold answers count: the best of `all` of them (SQuAD), or the `shortest` one alone (CaMeLS, MAC)."""


@dataclass(frozen=True)
class Asking:
    """How questions are answered; `Asking().beams == 1` is greedy.

    Attributes:
        beams: Search for an answer with so many beams; 1 is greedy.
        golds: Compare with `all` gold answers or the `shortest`; the first of these is the one whose nats are taken.
    """

    beams: int = 1
    golds: Golds = "all"

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise DriftError(f"`Asking.beams` was {self.beams}; give at least 1, which is greedy.")


GREEDY = Asking()


@dataclass(frozen=True)
class QuestionStudy:
    """What is measured on which questions.

    Attributes:
        stream: Ask about `facts`, or about a file of documents with questions.
        memories: Compare the memories of these names, as `checked` takes them; differences are from the first.
        networks: Read networks of a bank from these folders; without one, use the bundled ones.
        documents: Take so many documents of the stream; where costs are measured, the largest bank holds so many.
        questions: Ask at most so many questions; 0 for all.
        seed: Seed the stream of facts, and what is drawn from a file.
        retrieved: Find so many documents for a question, and count so many of the largest shares of attention as found.
        budget: Show at most so many tokens of their texts together.
        encoder: Find with this encoder in dense retrieval, a name that `encoder_named` knows.
        salience_network: Read the network of `camels` from this folder; empty for the bundled one.
        learning_rate: Learn at this rate; without, at the best of several on documents that are not studied.
        sweep_documents: Choose the rate on so many of those.
        text: Read these files or folders after adapting; without, texts about other things.
        out: Write answers or charts into this folder; empty for none.
    """

    stream: str = "facts"
    memories: tuple[str, ...] = ("bank",)
    networks: tuple[str, ...] = ()
    documents: int = 1665
    questions: int = 0
    seed: int = 0
    retrieved: int = 1
    budget: int = 256
    encoder: str = "states"
    salience_network: str = ""
    learning_rate: float | None = None
    sweep_documents: int = 64
    text: tuple[str, ...] = ()
    out: str = ""

    def __post_init__(self) -> None:
        for name in ("documents", "sweep_documents", "retrieved", "budget"):
            if getattr(self, name) < 1:
                raise DriftError(f"`QuestionStudy.{name}` was {getattr(self, name)}; give at least 1.")
        if self.questions < 0:
            raise DriftError(
                f"`QuestionStudy.questions` was {self.questions}; give at most how many to ask, or 0 for all."
            )
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise DriftError(f"`QuestionStudy.learning_rate` was {self.learning_rate}; give a number above 0.")
