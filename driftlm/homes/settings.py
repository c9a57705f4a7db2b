"""Settings of talking to a home; no heavy import, so that the command line can show them."""

from dataclasses import dataclass

from driftlm.core.errors import DriftError


@dataclass(frozen=True)
class Talk:
    """How a home answers.

    Attributes:
        tokens: longest answer; shorter where the model's positions leave less room.
        temperature: 0 takes the likeliest token every time.
        system: what stands before the conversation, for the model.
    """

    tokens: int = 512
    temperature: float = 0.0
    system: str = ""

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 0 <= self.temperature < float("inf"):
            raise DriftError(
                f"`Talk.tokens` was {self.tokens} and `Talk.temperature` {self.temperature}; give at least 1 and at "
                f"least 0."
            )
