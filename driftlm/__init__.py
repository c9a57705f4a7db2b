"""A language model that keeps learning from the stream it reads.

Names are loaded when first used, so that `driftlm --help` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from driftlm.bank.networks import BankNetworks, load_networks
    from driftlm.bank.source import BankSource
    from driftlm.composed import BankMemory, ComposedMemory
    from driftlm.errors import DriftError
    from driftlm.evaluation.prequential import Step, Totals, read_stream
    from driftlm.models.loading import LanguageModel, load
    from driftlm.streams.documents import Document, read_documents
    from driftlm.streams.windows import Window, Windows
    from driftlm.weights.dynamic import WeightMemory
    from driftlm.weights.learning import Learning
    from driftlm.weights.mixture import MixtureMemory

PLACES = {
    "BankNetworks": "driftlm.bank.networks",
    "load_networks": "driftlm.bank.networks",
    "BankSource": "driftlm.bank.source",
    "BankMemory": "driftlm.composed",
    "ComposedMemory": "driftlm.composed",
    "DriftError": "driftlm.errors",
    "Document": "driftlm.streams.documents",
    "read_documents": "driftlm.streams.documents",
    "Window": "driftlm.streams.windows",
    "Windows": "driftlm.streams.windows",
    "LanguageModel": "driftlm.models.loading",
    "load": "driftlm.models.loading",
    "Learning": "driftlm.weights.learning",
    "WeightMemory": "driftlm.weights.dynamic",
    "MixtureMemory": "driftlm.weights.mixture",
    "read_stream": "driftlm.evaluation.prequential",
    "Step": "driftlm.evaluation.prequential",
    "Totals": "driftlm.evaluation.prequential",
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
