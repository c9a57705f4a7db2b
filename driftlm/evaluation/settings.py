"""Settings of asking memories and of studies that do; no heavy import, so that the command line can show them."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from driftlm.core.errors import DriftError
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.memories.settings import STATES

Golds = Literal["all", "shortest"]
"""Which gold answers count: the best of `all` of them (SQuAD), or the `shortest` one alone (CaMeLS, MAC)."""


@dataclass(frozen=True)
class Asking:
    """How questions are answered; `Asking().beams == 1` is greedy.

    Attributes:
        beams: of the search for an answer; 1 is greedy.
        golds: compare with the best of `all` gold answers, or with the `shortest` alone; of those that count, the first
            is the one whose nats are taken.
    """

    beams: int = 1
    golds: Annotated[Golds, tyro.conf.arg(name="gold")] = "all"

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise DriftError(f"`Asking.beams` was {self.beams}; give at least 1, which is greedy.")


GREEDY = Asking()


OF_MEMORIES = ("qa", "retention", "forgetting")
"""Studies that compare memories; the others are about a bank alone."""

COUNTS = ("documents", "sweep_documents", "retrieved", "budget")


@dataclass(frozen=True)
class QuestionStudy:
    """What a study of memories that answer questions measures.

    Attributes:
        asking: how questions are answered.
        aggregation: of the bank; what is random in it has the study's seed.
        stream: `facts`, or a file of documents with questions.
        memories: for `qa`, `retention` and `forgetting`, of `none`, `context` (the right document as text), `one` (a
            bank of the right document), `bank`, `bm25`, `dense`, and weights that learn from all tokens (`uniform`) or
            the salient ones (`spans`, `tfidf`, `camels`); `uniform+bm25` is both. Differences are from the first.
        networks: folder of the bank's networks, several for `bank`; the bundled ones by default. Only `bank` and `one`
            need any.
        documents: how many of the stream; the largest bank of `cost`.
        questions: at most so many (`qa` and `bank`); 0 for all.
        seed: of the stream of facts, and of the sample where a file has more documents, or there are more questions.
        retrieved: documents that `bm25` and `dense` find for a question, and largest shares of `bank` that count as
            found: recall is of so many.
        budget: most tokens of their texts together.
        encoder: of `dense`: `states` of the language model, `contriever:FOLDER`, `mean:FOLDER` (as all-MiniLM),
            `bge:FOLDER`, `dpr:FOLDER,QUESTION_FOLDER`, or `sentence:FOLDER` (sentence-transformers).
        salience_network: folder of the network of `camels`; empty for the bundled one.
        learning_rate: of the weights that learn; without, the best of seven on documents that are not studied.
        sweep_documents: how many of those.
        text: what `forgetting` reads, files or folders; without, documentation of Python.
        out: folder for the answers as JSON lines (`qa`) or the chart (`retention`).

    Raises:
        DriftError: for a number that makes no sense.
    """

    asking: Asking = GREEDY
    aggregation: Aggregation = EXACT
    stream: str = "facts"
    memories: tuple[str, ...] = ("bank",)
    networks: tuple[str, ...] = ()
    documents: int = 1665
    questions: int = 0
    seed: int = 0
    retrieved: int = 1
    budget: int = 256
    encoder: str = STATES
    salience_network: str = ""
    learning_rate: float | None = None
    sweep_documents: int = 64
    text: tuple[str, ...] = ()
    out: str = ""

    def __post_init__(self) -> None:
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise DriftError(f"`QuestionStudy.{name}` was {getattr(self, name)}; give at least 1.")
        if self.questions < 0:
            raise DriftError(
                f"`QuestionStudy.questions` was {self.questions}; give at most how many to ask, or 0 for all."
            )
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise DriftError(f"`QuestionStudy.learning_rate` was {self.learning_rate}; give a number above 0.")

    def refuse_unused(self, what: str) -> None:
        """Refuse settings that the study of a name does not have."""
        if what not in OF_MEMORIES and self.memories != ("bank",):
            raise DriftError(f"study {what} is about a bank alone; leave out `QuestionStudy.memories`.")
        if what not in ("qa", "retention") and self.out:
            raise DriftError(f"study {what} writes no files; leave out `QuestionStudy.out`.")
        if what != "forgetting" and self.text:
            raise DriftError(f"study {what} reads no text besides the stream; leave out `QuestionStudy.text`.")
        if what == "bank" and self.aggregation != EXACT:
            raise DriftError(f"study bank aggregates in every way; leave out `Aggregation.way` {self.aggregation.way}.")
        if what != "bank" and len(self.networks) > 1:
            raise DriftError(
                f"`QuestionStudy.networks` named {len(self.networks)} folders; study {what} takes one, study bank "
                f"several."
            )
        dense = any("dense" in name.split("+") for name in self.memories)
        if self.encoder != STATES and not (what in OF_MEMORIES and dense):
            raise DriftError(
                f"`QuestionStudy.encoder` was {self.encoder}, and no memory here has dense; add dense to "
                f"`QuestionStudy.memories` or leave it out."
            )
