"""Memories by name, all around the same language model, so that they can be compared.

A name is one part or several joined by `+`: at most one whose weights learn (`uniform`, `spans`, `tfidf`, `camels`),
sources (`bank`, `bm25`, `dense`), the right document itself (`context` as text, `one` as a bank of one), or `none`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.evaluation.asking import Supplying, nothing, own_bank, own_text
from driftlm.memories.bank.modulations import Modulations
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.memories.bank.source import BankSource
from driftlm.memories.base import Source, Supply
from driftlm.memories.build import memory_for, source_for
from driftlm.memories.composed import ComposedMemory
from driftlm.memories.context.dense import Encoder
from driftlm.memories.context.named_encoders import encoder_named
from driftlm.memories.loop import read_stream
from driftlm.memories.registries import MEMORIES, SALIENCES, SOURCES
from driftlm.memories.settings import STATES, MemorySettings
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.memories.weights.learning import FROZEN, Learning, Saliences
from driftlm.models.loading import LanguageModel
from driftlm.streams.documents import Document
from driftlm.streams.questions import Question
from driftlm.streams.windows import Windows

NOTHING = "none"
LEARNERS = SALIENCES.names
GIVEN = ("context", "one")
PARTS = (NOTHING, *LEARNERS, *SOURCES.names, *GIVEN, *MEMORIES.others)
MODULATING = ("bank", "one")
TRAINED = (*MODULATING, "camels")  # by networks that were trained for one model
EXCLUSIVE = ((LEARNERS, "change the weights"), (MODULATING, "modulate the model"), (GIVEN, "are the right document"))


@dataclass(frozen=True)
class Terms:
    """What all memories are compared on.

    Attributes:
        language_model: of all.
        networks: of the bank, around that model; None where no memory has one.
        aggregation: of the bank.
        retrieved: documents that each index finds for a question; of a bank, the largest shares that count as found.
        budget: most tokens of their texts together.
        salience_network: folder of the network that `camels` weighs tokens with; empty for the bundled one.
        learning_rate: of the weights that learn; None where it is to be chosen.
        encoder: that `dense` finds documents with, by a name as `memories.context.named_encoders` has it.
    """

    language_model: LanguageModel
    networks: BankNetworks | None = None
    aggregation: Aggregation = EXACT
    retrieved: int = 1
    budget: int = 256
    salience_network: str = ""
    learning_rate: float | None = None
    encoder: str = STATES

    @property
    def settings(self) -> MemorySettings:
        """Return the settings that sources are made by."""
        return MemorySettings(
            retrieved=self.retrieved, budget=self.budget, aggregation=self.aggregation, encoder=self.encoder
        )

    @property
    def bank(self) -> BankNetworks:
        """Return the networks of the bank; `DriftError` where there are none."""
        if self.networks is None:
            raise DriftError("`Terms.networks` was None, and a bank answers by networks; give those of its model.")
        return self.networks

    @property
    def modulated(self) -> int:
        """Return the positions that a modulation takes before a prompt."""
        return self.networks.positions if self.networks else 0

    def shared(self, part: str) -> dict[str, Any]:
        """Return what the sources of a kind share."""
        if part == "bank":
            return {part: self.bank}
        return {part: self.dense_encoder} if part == "dense" else {}

    @cached_property
    def dense_encoder(self) -> Encoder:
        """Return the encoder, loaded once for all memories that have it; `DriftError` where it cannot be."""
        return encoder_named(self.encoder, self.language_model)


def parts_of(name: str) -> list[str]:
    """Return the parts of a memory's name.

    Raises:
        DriftError: for an unknown part, one that is named twice, or parts that cannot be together.

    Example:
        >>> parts_of("uniform+bm25")
        ['uniform', 'bm25']
    """
    parts = name.split("+")
    if not all(parts):
        raise DriftError(
            f"`QuestionStudy.memories` named {name!r}, where a + joins nothing; leave it out, or name what it joins."
        )
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise DriftError(
            f"`QuestionStudy.memories` named {unknown[0]!r}; give some of {', '.join(PARTS)}, or several joined by +."
        )
    if (most := Counter(parts).most_common(1)[0])[1] > 1:
        raise DriftError(f"`QuestionStudy.memories` named {name}, which has {most[0]} twice; name it once.")
    alone = [part for part in parts if part in MEMORIES.others]
    if alone and len(parts) > 1:
        raise DriftError(f"`QuestionStudy.memories` named {name}, but {alone[0]} is a whole memory; name it alone.")
    if NOTHING in parts and len(parts) > 1:
        raise DriftError(
            f"`QuestionStudy.memories` named {name}, but {NOTHING} is the model without a memory; leave it out there."
        )
    for several, what in EXCLUSIVE:
        clash = [part for part in parts if part in several]
        if len(clash) > 1:
            raise DriftError(
                f"`QuestionStudy.memories` named {name}, of which {' and '.join(clash)} {what}; keep one of them."
            )
    return parts


def learner_of(name: str) -> Saliences | None:
    """Return the part whose weights learn, named as what weighs their tokens; None where none does.

    Example:
        >>> learner_of("bm25+camels"), learner_of("bank")
        ('camels', None)
    """
    parts = parts_of(name)
    return next((learner for learner in LEARNERS if learner in parts), None)


def checked(names: Sequence[str]) -> list[str]:
    """Return names as they are, one by one; several may stand in one, with commas.

    Raises:
        DriftError: for no name, one that comes twice, or one that `parts_of` refuses.
    """
    found = [name for several in names for name in several.replace(",", " ").split()]
    if not found:
        raise DriftError(
            f"`QuestionStudy.memories` was empty; give some of {', '.join(PARTS)}, or several joined by +."
        )
    if (most := Counter(found).most_common(1)[0])[1] > 1:
        raise DriftError(f"`QuestionStudy.memories` named {most[0]} twice; name it once.")
    for name in found:
        parts_of(name)
    return found


class Candidate:
    """A memory that is compared: it adapts to documents, then supplies what helps with questions.

    Args:
        name: its parts.
        terms: what it is compared on.
        documents: all that it will adapt to; the longest of them is one window where the model's positions hold it.
        learning_rate: of its weights, where they learn.
    """

    def __init__(self, name: str, terms: Terms, documents: Sequence[Document], learning_rate: float = 0.0) -> None:
        self.name, self.terms, self.parts = name, terms, parts_of(name)
        self.language_model = terms.language_model
        sources = [
            source_for(part, terms.settings, self.language_model, terms.shared(part))
            for part in self.parts
            if part in SOURCES.names
        ]
        learning = learning_of(learner_of(name), terms, learning_rate)
        windows = self.one_window(documents)
        weights = WeightMemory(self.language_model, windows, learning)
        self.memory = ComposedMemory(weights, sources, keeps=False)
        # A memory of another package reads as a whole, and what it supplies stands beside nothing else.
        self.whole = None
        if name in MEMORIES.others:
            self.whole = memory_for(MemorySettings(windows, Learning(), memory=name), self.language_model)
            self.language_model = self.whole.language_model
        self.own: list[Document] = []  # that questions will be about
        self.given: Supplying = nothing

    def one_window(self, documents: Sequence[Document]) -> Windows:
        """Return the grid on which every document that fits the model's positions is one window."""
        longest = max(len(self.language_model.encode(document.text)[1]) for document in documents)
        positions = self.language_model.positions
        longest = longest if positions is None else min(longest, positions - self.terms.modulated)
        return Windows("overlapping", longest, longest, sink=0)

    @property
    def positions(self) -> int:
        """Return the positions that what modulates the model takes before a prompt."""
        return self.terms.modulated if {*self.parts} & {*MODULATING} else 0

    @property
    def encoder(self) -> str | None:
        """Return what `dense` finds documents with; None where it takes no part."""
        return self.terms.encoder if "dense" in self.parts else None

    @property
    def retrieved(self) -> int | None:
        """Return the documents of each source that count as found for a question; None where no source takes part."""
        return self.terms.retrieved if self.memory.sources else None

    def adapt(self, documents: Sequence[Document], asked: Sequence[Question] = ()) -> None:
        """Learn documents, after those of earlier calls: the weights a window a step, the sources in batches.

        Args:
            documents: in their order.
            asked: all questions, whose own documents are what `context` and `one` give; others are not prepared.
        """
        if self.whole is not None:
            for _ in read_stream(self.whole, documents):
                pass
        if self.memory.weights.parameters:
            for _ in read_stream(self.memory.weights, documents):
                pass
        if self.memory.sources:
            self.memory.add_all(documents)
        wanted = {question.document for question in asked}
        self.own += [document for document in documents if document.id in wanted]
        if self.own and "context" in self.parts:
            self.given = own_text(self.own)
        elif self.own and "one" in self.parts:
            with self.memory.weights.prior.in_force():
                self.given = own_bank(self.terms.bank, self.own)

    def supply(self, questions: Sequence[Question]) -> Supply:
        """Return what helps with some questions."""
        found = (self.whole or self.memory).supplied([question.text for question in questions])
        with self.memory.weights.prior.in_force():
            given = self.given(questions)
        return Supply.of([given, found], len(questions))

    def bytes_kept(self) -> float:
        """Return the bytes of what the sources keep: vectors and keys of the bank that is attended to, texts and
        vectors else.
        """
        if self.whole is not None:
            return float(sum(one.numel() * one.element_size() for one in self.whole.state().tensors.values()))
        return sum(bytes_of(source) for source in self.memory.sources)


@contextmanager
def taking_part(
    name: str, terms: Terms, documents: Sequence[Document], learning_rate: float = 0.0
) -> Iterator[Candidate]:
    """Yield a candidate; afterwards the language model that all share is as it was."""
    candidate = Candidate(name, terms, documents, learning_rate)
    try:
        yield candidate
    finally:
        candidate.memory.reset()
        terms.language_model.model.requires_grad_(False)


def learning_of(learner: Saliences | None, terms: Terms, learning_rate: float) -> Learning:
    """Return all weights by Adam, as the online baselines of CaMeLS do; none where no part learns."""
    if learner is None:
        return FROZEN
    network = terms.salience_network if learner == "camels" else ""
    return Learning("all", rule="adam", learning_rate=learning_rate, salience=learner, salience_network=network)


def bytes_of(source: Source) -> float:
    """Return the bytes of what a source keeps."""
    if isinstance(source, BankSource):
        return bank_bytes(source.bank, source.aggregation)
    state = source.state()
    texts = sum(len(text.encode()) for _, text in state.values.get("documents", ()))
    return float(texts + sum(tensor.numel() * tensor.element_size() for tensor in state.tensors.values()))


def bank_bytes(bank: Modulations, aggregation: Aggregation) -> float:
    """Return the vectors and keys of the bank that is attended to."""
    kept = min(1.0, aggregation.size / max(1, len(bank.keys))) if aggregation.reduces else 1.0
    return kept * sum(tensor.numel() * tensor.element_size() for tensor in (bank.vectors, bank.keys))
