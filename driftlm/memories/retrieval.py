"""Retrieval as a memory: documents that were read are found again and put before what is read next."""

from pathlib import Path
from typing import Any

from driftlm.memories.base import Example
from driftlm.memories.composed import ComposedMemory
from driftlm.memories.context.bm25 import BM25Index
from driftlm.memories.context.dense import DenseIndex, Encoder
from driftlm.memories.context.encoders import StatesOfModel
from driftlm.memories.context.named_encoders import encoder_named
from driftlm.memories.context.source import Index, RetrievalSource
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.memories.weights.learning import FROZEN
from driftlm.models.loading import LanguageModel
from driftlm.streams.windows import Windows


class RetrievalMemory(ComposedMemory):
    """A frozen language model behind the documents that an index finds for the text so far.

    Args:
        model: the language model.
        index: finds the documents.
        windows: how documents are cut. What is found takes its tokens out of the context C; where C = S there is no
            room for any.
        k: documents that are found.
        budget: most tokens of their texts together.
        keeps: whether finished documents enter the index.
    """

    def __init__(
        self, model: LanguageModel, index: Index, windows: Windows, k: int = 1, budget: int = 256, keeps: bool = True
    ) -> None:
        super().__init__(WeightMemory(model, windows, FROZEN), [RetrievalSource(index, model, k, budget)], keeps)


class BM25Memory(RetrievalMemory):
    """Documents are found by the words they share with the question.

    Example (with the bundled networks' language model, which has learned to answer from its context):
        >>> from driftlm import Document, load, read_stream
        >>> from driftlm.memories.bank.networks import load_networks
        >>> memory = BM25Memory(load_networks().language_model, Windows(context=128, stride=64))
        >>> news = Document("1", "Ada Lowell lives in Lisbon. She is a painter. She plays the harp. She owns a cat.")
        >>> _ = list(read_stream(memory, [news]))
        >>> memory.answer("Where does Ada Lowell live?")
        Answer(text='Lisbon', documents=(('1', 1.0),))
    """

    def __init__(
        self,
        model: LanguageModel,
        windows: Windows = Windows(),  # noqa: B008
        k: int = 1,
        budget: int = 256,
        keeps: bool = True,
    ) -> None:
        super().__init__(model, BM25Index(), windows, k, budget, keeps)

    @classmethod
    def build(cls, language_model: LanguageModel, settings: Any, own: Any, shared: Any) -> "BM25Memory":
        """Make one that finds as many documents as the settings say; arguments as of `Memory.build`."""
        return BM25Memory(language_model, settings.windows, settings.retrieved, settings.budget)

    @staticmethod
    def examples() -> dict[str, Example]:
        """Return the settings that the conformance tests try, by name."""

        def make(model: LanguageModel, windows: Windows, folder: Path, idle: bool) -> BM25Memory:
            return BM25Memory(model, windows, k=2, budget=6, keeps=not idle)

        return {"two": make}


class DenseMemory(RetrievalMemory):
    """Documents are found by the product of their vectors with the question's; of the model's own states by default."""

    def __init__(
        self,
        model: LanguageModel,
        windows: Windows = Windows(),  # noqa: B008
        k: int = 1,
        budget: int = 256,
        keeps: bool = True,
        encoder: Encoder | None = None,
    ) -> None:
        super().__init__(model, DenseIndex(encoder or StatesOfModel(model)), windows, k, budget, keeps)

    @classmethod
    def build(cls, language_model: LanguageModel, settings: Any, own: Any, shared: Any) -> "DenseMemory":
        """Make one of the encoder that the settings name; arguments as of `Memory.build`."""
        encoder = shared.get("dense") or encoder_named(settings.encoder, language_model)
        return DenseMemory(language_model, settings.windows, settings.retrieved, settings.budget, encoder=encoder)

    @staticmethod
    def examples() -> dict[str, Example]:
        """Return the settings that the conformance tests try, by name."""

        def make(model: LanguageModel, windows: Windows, folder: Path, idle: bool) -> DenseMemory:
            return DenseMemory(model, windows, budget=8, keeps=not idle)

        return {"states": make}
