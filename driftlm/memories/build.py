"""From settings to a memory: the one factory."""

from collections.abc import Mapping
from typing import Any

from driftlm.memories.base import Counts, Memory, Source
from driftlm.memories.composed import ComposedMemory
from driftlm.memories.registries import MEMORIES, SOURCES
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.memories.weights.mixture import MixtureMemory
from driftlm.models.loading import LanguageModel
from driftlm.models.trainable import Trainable


def shared_by(
    settings: MemorySettings, language_model: LanguageModel, there: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what several memories of these settings around one model can share, by name of the source.

    Args:
        settings: what they are made of.
        language_model: the model.
        there: what was loaded for others of them before.
    """
    shared = dict(there or {})
    for name in (*settings.sources, *({settings.memory} & {*SOURCES.names})):
        if name not in shared:
            own = SOURCES.settings(name, settings.options)
            shared[name] = SOURCES.load(name).shared(language_model, settings, own)
    return shared


def memory_for(
    settings: MemorySettings,
    language_model: LanguageModel,
    shared: Mapping[str, Any] | None = None,
    *,
    trainable: Trainable | None = None,
    in_place: bool = False,
) -> Memory:
    """Return a memory of its own on a model that is never changed: they share every tensor but those that learn.

    Args:
        settings: what it is made of.
        language_model: the model.
        shared: what `shared_by` gave; loaded where it is not given.
        trainable: parameters that were chosen beforehand (a loaded adapter), in place alone.
        in_place: let it change the model itself, which is nobody else's.

    Raises:
        DriftError: for settings that do not go together, or do not fit the model.
    """
    shared = shared_by(settings, language_model, shared)
    if settings.memory != "weights":
        own = MEMORIES.settings(settings.memory, settings.options)
        memory: Memory = MEMORIES.load(settings.memory).build(language_model, settings, own, shared)
        return memory
    if settings.learning.rule == "mixture":  # leaves the model as it is
        learning = settings.learning
        return MixtureMemory(language_model, settings.windows, learning.strategies(), learning.share, trainable)
    if in_place:
        weights = WeightMemory(language_model, settings.windows, settings.learning, trainable)
    else:
        weights = WeightMemory.build(language_model, settings, None, shared)
    sources = [source_for(name, settings, language_model, shared) for name in settings.sources]
    return ComposedMemory(weights, sources) if sources else weights


def source_for(name: str, settings: MemorySettings, language_model: LanguageModel, shared: Mapping[str, Any]) -> Source:
    """Return an empty source by its name."""
    own, kind = SOURCES.settings(name, settings.options), SOURCES.load(name)
    held = shared[name] if name in shared else kind.shared(language_model, settings, own)
    source: Source = kind.build(language_model, settings, own, held)
    return source


def begin(memory: Memory) -> None:
    """Begin a memory as new, also in what it counted, which a reset leaves."""
    memory.reset()
    for one in memory.learners().values():
        one.counts = Counts()
