"""What may change a frozen language model for the time of a forward pass, and what may stand before its text."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from transformers import DynamicCache

from driftlm.models.loading import LanguageModel


class Modulated(Protocol):
    """What changes the frozen language model while it reads R rows, each in its own way."""

    def rows(self, chosen: Sequence[int]) -> Self:
        """Return that of the chosen rows, in their order; one may be chosen more than once."""

    def to(self, dtype: torch.dtype) -> Self:
        """Return the same in another floating-point type."""

    def on(self, model: Any) -> AbstractContextManager[DynamicCache]:
        """Return the model changed, until the context ends, and a fresh cache for what it reads; its P positions are
        taken.
        """


@contextmanager
def modulating(language_model: LanguageModel, modulated: Modulated | None) -> Iterator[DynamicCache]:
    """Yield the model under a modulation, in the type it computes in, or as it is without one; gives a fresh cache."""
    if modulated is None:
        yield DynamicCache()
        return
    kind = language_model.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else language_model.model.dtype
    with modulated.to(dtype).on(language_model.model) as cache:
        yield cache


@dataclass(frozen=True)
class Before:
    """What stands before the text of a window.

    Attributes:
        tokens: read before it, as if a document of their own.
        modulated: what changes the model for it, for a single row.
    """

    tokens: tuple[int, ...] = ()
    modulated: Modulated | None = None
