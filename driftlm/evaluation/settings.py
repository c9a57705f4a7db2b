"""Settings of asking a memory; no heavy import, so that the command line can show them."""

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
