"""Protections: what keeps what was known while weights learn. None is built in so far."""

from typing import Any, Protocol

from torch import Tensor

from driftlm.memories.weights.learning import Learning
from driftlm.memories.weights.prior import Prior
from driftlm.streams.windows import Window


class Protection(Protocol):
    """May add to the loss, change the gradient, or change the parameters after a step.

    An entry of the registry is called with the settings of learning, its own settings or None, and the prior.
    """

    def term(self, window: Window) -> Tensor | float:
        """Return what is added to the loss of a window, nats per token; 0 adds nothing."""
        ...

    def change(self, gradients: list[Tensor]) -> None:
        """Change the gradients of a step, one a parameter, in place; keep none, their storage is used again."""
        ...

    def after(self, parameters: list[Tensor]) -> None:
        """Change the parameters after a step, in place."""
        ...

    def reset(self) -> None:
        """Begin as if nothing had been read since the prior."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what a reading that goes on needs of it."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        ...


def nothing(learning: Learning, own: Any, prior: Prior) -> None:
    """Protect nothing."""
