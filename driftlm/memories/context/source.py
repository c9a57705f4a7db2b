"""Retrieval as a source: the documents that an index finds for a question, as text to be read before it."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.base import State, Supply
from driftlm.memories.context.bm25 import BM25Index
from driftlm.memories.context.dense import DenseIndex, Encoder
from driftlm.memories.context.named_encoders import encoder_named
from driftlm.memories.context.prompt import laid_out
from driftlm.models.loading import LanguageModel
from driftlm.streams.documents import Document


class Index(Protocol):
    """Finds documents; keeps what it needs for that, not their texts.

    Attributes:
        fingerprint: of what decides what is found, besides the documents.
        documents: ids of what it holds, the oldest first.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def documents(self) -> Sequence[str]: ...

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        """Keep documents as the newest, each in the place of an earlier one of its id."""

    def drop(self, *ids: str) -> None:
        """Be as if they had never been added."""

    def search(self, query: str, k: int) -> list[tuple[str, float]]:
        """Return at most k documents and their scores, the best first; of equal ones the oldest."""

    def reset(self) -> None:
        """Hold nothing."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what cannot be had again from the texts alone, exactly."""

    def restore(self, ids: Sequence[str], texts: Sequence[str], tensors: dict[str, Tensor]) -> None:
        """Hold these documents, in this order."""


class RetrievalSource:
    """The texts of the k best documents, the best first.

    Shares are the softmax of the k scores, also of documents whose text the budget left out.

    Args:
        index: finds the documents; empty, or holding those of `texts`.
        language_model: that reads the texts.
        k: documents a question.
        budget: most tokens of their texts together.
        texts: of documents that the index holds already, by id.

    Raises:
        DriftError: for k or a budget below 1, or when the index holds other documents.

    Example:
        >>> from driftlm import load
        >>> from driftlm.memories.context.bm25 import BM25Index
        >>> source = RetrievalSource(BM25Index(), load())
        >>> source.add("news", "Ada lives in Lisbon.")
        >>> source.supply(["Where does Ada live?"]).texts
        ['Ada lives in Lisbon.']
    """

    modulates = False
    meta_trained = True  # a model has to have learned to use what its context says

    def __init__(
        self,
        index: Index,
        language_model: LanguageModel,
        k: int = 1,
        budget: int = 256,
        texts: dict[str, str] | None = None,
    ) -> None:
        if min(k, budget) < 1:
            raise DriftError(f"retrieval was given k = {k} and a budget of {budget} tokens; give 1 or more of each.")
        self.texts = dict(texts or {})
        if list(index.documents) != list(self.texts):
            raise DriftError("the index holds other documents than were given with it; give it empty, or their texts.")
        self.index, self.language_model, self.k, self.budget = index, language_model, k, budget
        self.positions = budget + 1  # and the token before every text

    @property
    def documents(self) -> Sequence[str]:
        """Return the ids, the oldest first."""
        return list(self.texts)

    def reset(self) -> None:
        """Hold nothing."""
        self.index.reset()
        self.texts = {}

    def add(self, document: str, text: str) -> None:
        """Keep a document, in place of an earlier one of its id."""
        self.add_all([Document(document, text)])

    def add_all(self, documents: Sequence[Document]) -> None:
        """Keep documents, in their order, each in place of an earlier one of its id."""
        self.index.add([document.id for document in documents], [document.text for document in documents])
        for document in documents:
            self.texts.pop(document.id, None)
            self.texts[document.id] = document.text

    def drop(self, document: str) -> None:
        """Hold it no longer, whether or not it was held."""
        if document in self.texts:
            self.index.drop(document)
            del self.texts[document]

    def supply(self, questions: Sequence[str]) -> Supply:
        """Return texts within the budget, and the documents found."""
        found = [self.index.search(question, self.k) for question in questions]
        texts = [laid_out(self.language_model, [self.texts[id] for id, _ in some], self.budget) for some in found]
        return Supply(texts, None, [softmax_of(some) for some in found])

    def state(self) -> State:
        """Return documents, and what the index made of them."""
        tensors = {name: value.clone() for name, value in self.index.tensors().items()}
        documents = [[id, text] for id, text in self.texts.items()]
        return State(tensors, {"documents": documents, "index": self.index.fingerprint})

    def restore(self, state: State) -> None:
        """Go on exactly where `state` was taken.

        Raises:
            DriftError: when it was taken with another index.
        """
        if state.values["index"] != self.index.fingerprint:
            raise DriftError("the state was taken with another index or encoder; give the one it was taken with.")
        texts: dict[str, str] = dict(state.values["documents"])
        self.index.restore(list(texts), list(texts.values()), state.tensors)
        self.texts = texts


class BM25Source(RetrievalSource):
    """Documents found by the words they share with a question."""

    @staticmethod
    def shared(language_model: LanguageModel, settings: Any, own: Any) -> None:
        """Share nothing."""

    @classmethod
    def build(cls, language_model: LanguageModel, settings: Any, own: Any, shared: Any) -> "BM25Source":
        """Make an empty one by settings; arguments as of `Memory.build`."""
        return cls(BM25Index(), language_model, settings.retrieved, settings.budget)


class DenseSource(RetrievalSource):
    """Documents found by the product of their vectors with a question's."""

    @staticmethod
    def shared(language_model: LanguageModel, settings: Any, own: Any) -> Encoder:
        """Load the encoder."""
        return encoder_named(settings.encoder, language_model)

    @classmethod
    def build(cls, language_model: LanguageModel, settings: Any, own: Any, shared: Any) -> "DenseSource":
        """Make an empty one of the encoder that the settings name; arguments as of `Memory.build`."""
        encoder = shared or cls.shared(language_model, settings, own)
        return cls(DenseIndex(encoder), language_model, settings.retrieved, settings.budget)


def softmax_of(found: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the documents with the softmax of their scores.

    Example:
        >>> softmax_of([("a", 3.0), ("b", 3.0)])
        [('a', 0.5), ('b', 0.5)]
    """
    shares = torch.tensor([score for _, score in found], dtype=torch.float64).softmax(0).tolist()
    return [(id, share) for (id, _), share in zip(found, shares, strict=True)]
