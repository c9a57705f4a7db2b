"""Settings of the tuning of a model to answer; no heavy import, so that the command line can show them."""

from dataclasses import dataclass

from driftlm.errors import DriftError

WARM_UP = 100  # steps


@dataclass(frozen=True)
class AnswerTraining:
    """How a model is tuned to answer.

    Attributes:
        steps: of the optimizer.
        batch: documents a step.
        context: share of them that stand before their questions; the questions of the others are asked closed-book.
        distracting: most other documents that stand beside one.
        text: weight of the nats of a token of what is no answer.
        rank: of the LoRA.
        target_modules: what it changes: `attention`, `mlp`, `all-linear` or module names separated by commas.
        rate: of AdamW; it rises over the first 100 steps and falls to nothing over the last two thirds.
        longest: tokens of a document with its questions. A document that does not fit whole is left out.
        patience: held-out checks in a row without a new best after which the training ends; 0 for none.
        seed: of everything random.
    """

    steps: int = 1200
    batch: int = 32
    context: float = 0.8
    distracting: int = 0
    text: float = 0.0
    rank: int = 32
    target_modules: str = "all-linear"
    rate: float = 2e-3
    longest: int = 512
    patience: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 1, "distracting": 0, "rank": 1, "longest": 16, "patience": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise DriftError(f"--{name} was {getattr(self, name)}; give at least {bound}.")
        if not 0 <= self.context <= 1:
            raise DriftError(f"--context was {self.context}; give the share of documents in the context, from 0 to 1.")
        if self.rate <= 0 or self.text < 0:
            raise DriftError(
                f"--rate was {self.rate} and --text {self.text}; give a positive rate and a weight of at least 0."
            )

    def rate_at(self, step: int) -> float:
        """Rises over the first steps, falls to nothing over the last two thirds."""
        return self.rate * min((step + 1) / WARM_UP, 1.5 * (self.steps - step) / self.steps, 1.0)
