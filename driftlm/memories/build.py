"""The memory that a home's settings ask for, on a model that other homes use as well."""

from driftlm.core.errors import DriftError
from driftlm.memories.bank.networks import BankNetworks, load_networks
from driftlm.memories.bank.source import BankSource
from driftlm.memories.base import Counts, Source
from driftlm.memories.composed import ComposedMemory
from driftlm.memories.context.bm25 import BM25Index
from driftlm.memories.context.dense import DenseIndex
from driftlm.memories.context.encoders import StatesOfModel
from driftlm.memories.context.source import Index, RetrievalSource
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.memories.weights.mixture import MixtureMemory, learner, memory_in_weights
from driftlm.models.loading import LanguageModel

Living = WeightMemory | MixtureMemory | ComposedMemory


def networks_for(settings: MemorySettings, language_model: LanguageModel) -> BankNetworks | None:
    """Return the bank's networks around a model, None where no bank is asked for; several homes can share them."""
    return load_networks(settings.networks or None, language_model) if "bank" in settings.sources else None


def memory_for(settings: MemorySettings, language_model: LanguageModel, networks: BankNetworks | None) -> Living:
    """Return a memory of its own on a model that is never changed: they share every tensor but those that learn."""
    learning = settings.learning
    if learning.rule == "mixture" or learning.learn == "none":  # these leave the model as it is
        memory = memory_in_weights(language_model, settings.windows, learning)
    else:
        memory = learner(language_model, settings.windows, learning, None)
    if not settings.sources or not isinstance(memory, WeightMemory):
        return memory
    return ComposedMemory(memory, [source(name, settings, language_model, networks) for name in settings.sources])


def source(name: str, settings: MemorySettings, language_model: LanguageModel, networks: BankNetworks | None) -> Source:
    """Return an empty source by its name."""
    if name == "bank":
        if networks is None:
            raise DriftError("a bank was asked for without its networks; give those of `networks_for`.")
        return BankSource(networks)
    index: Index = BM25Index() if name == "bm25" else DenseIndex(StatesOfModel(language_model))
    return RetrievalSource(index, language_model, settings.retrieved, settings.budget)


def learns(memory: Living) -> bool:
    """Tell whether reading changes more than sources, so that one document cannot be taken out alone."""
    return isinstance(memory, MixtureMemory) or any(one.parameters for one in learners(memory).values())


def learners(memory: Living) -> dict[str, WeightMemory]:
    """Return the memories in weights within a memory, by the prefix of their tensors in its state."""
    if isinstance(memory, MixtureMemory):
        return {f"{place}/": one for place, one in enumerate(memory.active)}
    return {"weights/": memory.weights} if isinstance(memory, ComposedMemory) else {"": memory}


def begin(memory: Living) -> None:
    """Begin a memory as new, also in what it counted, which a reset leaves."""
    memory.reset()
    for one in learners(memory).values():
        one.counts = Counts()
