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
        beams: of the search for an answer.
        golds: which gold answers count; of those, the first is the one whose nats are taken.
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
        stream: `facts`, or a file of documents with questions.
        memories: names of what is compared, as `checked` takes them; differences are from the first.
        networks: folders of networks of a bank; without one, the bundled ones.
        documents: how many of the stream; the largest bank where costs are measured.
        questions: at most so many; 0 for all.
        seed: of the stream of facts, and of what is drawn from a file.
        retrieved: documents that are found for a question, and shares of attention that count as found.
        budget: most tokens of their texts together.
        encoder: of dense retrieval, a name that `encoder_named` knows.
        salience_network: folder of the network of `camels`; empty for the bundled one.
        learning_rate: of the weights that learn; without, the best of several on documents that are not studied.
        sweep_documents: how many of those.
        text: files or folders that the study of forgetting reads; without, texts about other things.
        out: folder for what is written; empty for none.
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
