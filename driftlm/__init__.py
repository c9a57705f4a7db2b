"""A language model that keeps learning from the stream it reads.

Names are loaded when first used, so that `driftlm --help` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from driftlm.core.errors import DriftError
    from driftlm.memories.bank.networks import BankNetworks, load_networks
    from driftlm.memories.bank.source import BankSource
    from driftlm.memories.composed import BankMemory, ComposedMemory
    from driftlm.memories.loop import Step, Totals, read_stream
    from driftlm.memories.weights.dynamic import WeightMemory
    from driftlm.memories.weights.learning import Learning
    from driftlm.memories.weights.mixture import MixtureMemory
    from driftlm.models.loading import LanguageModel, load
    from driftlm.streams.documents import Document, read_documents
    from driftlm.streams.windows import Window, Windows

PLACES = {
    "BankNetworks": "driftlm.memories.bank.networks",
    "load_networks": "driftlm.memories.bank.networks",
    "BankSource": "driftlm.memories.bank.source",
    "BankMemory": "driftlm.memories.composed",
    "ComposedMemory": "driftlm.memories.composed",
    "DriftError": "driftlm.core.errors",
    "Document": "driftlm.streams.documents",
    "read_documents": "driftlm.streams.documents",
    "Window": "driftlm.streams.windows",
    "Windows": "driftlm.streams.windows",
    "LanguageModel": "driftlm.models.loading",
    "load": "driftlm.models.loading",
    "Learning": "driftlm.memories.weights.learning",
    "WeightMemory": "driftlm.memories.weights.dynamic",
    "MixtureMemory": "driftlm.memories.weights.mixture",
    "read_stream": "driftlm.memories.loop",
    "Step": "driftlm.memories.loop",
    "Totals": "driftlm.memories.loop",
}

__all__ = [
    "BankMemory",
    "BankNetworks",
    "BankSource",
    "ComposedMemory",
    "Document",
    "DriftError",
    "LanguageModel",
    "Learning",
    "MixtureMemory",
    "Step",
    "Totals",
    "WeightMemory",
    "Window",
    "Windows",
    "load",
    "load_networks",
    "read_documents",
    "read_stream",
]


def __getattr__(name: str) -> Any:
    if name in PLACES:
        return getattr(import_module(PLACES[name]), name)
    raise AttributeError(f"module 'driftlm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
