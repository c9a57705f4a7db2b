"""Settings of a bank's networks and of their training; no heavy import, so that the command line can show them."""

from dataclasses import dataclass

from driftlm.errors import DriftError


@dataclass(frozen=True)
class NetworksSettings:
    """Shapes of a bank's networks.

    Attributes:
        vectors: T, kept of every document part.
        encoder_width: inside the two encoders.
        encoder_layers: of each encoder.
        encoder_heads: of each encoder.
        blocks: of the aggregator.
        heads: of the aggregator.
        head_width: of the aggregator.
        key_width: Q, of the document score.
        document_score: whether documents are scored as a whole.
        longest: tokens of a document part.
    """

    vectors: int = 8
    encoder_width: int = 192
    encoder_layers: int = 3
    encoder_heads: int = 4
    blocks: int = 3
    heads: int = 4
    head_width: int = 48
    key_width: int = 64
    document_score: bool = True
    longest: int = 512


@dataclass(frozen=True)
class BankTraining:
    """How the networks learn.

    Attributes:
        steps: of the optimizer.
        batch: questions a step.
        rate: of AdamW.
        warm_up: steps until the rate is reached; over the last third it falls to a twentieth.
        contrast: weight of the contrastive loss on document scores.
        readout: weight of reading the answer's tokens off the modulation itself.
        kept: share of the documents that gradients flow through; below 1, backpropagation dropout.
        remembered: modulations of earlier steps that join the bank once it outgrows the batch.
        bank: documents a question may see at first, its own included.
        grow: running accuracy at which the bank doubles.
        accumulate: batches a step.
        seed: of everything random.
    """

    steps: int = 3000
    batch: int = 64
    rate: float = 7e-4
    warm_up: int = 100
    contrast: float = 0.2
    readout: float = 0.3
    kept: float = 1.0
    remembered: int = 1024
    bank: int = 1
    grow: float = 0.7
    accumulate: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2 or self.accumulate < 1 or self.rate <= 0:
            raise DriftError(
                f"--steps {self.steps}, --batch {self.batch}, --accumulate {self.accumulate} and --rate {self.rate} "
                f"were given; give at least 1, 2, 1 and a positive rate."
            )
        if self.bank < 1 or self.remembered < 0:
            raise DriftError(
                f"--bank was {self.bank} and --remembered {self.remembered}; give at least 1 and at least 0."
            )
        if not 0 < self.kept <= 1:
            raise DriftError(f"--kept was {self.kept}; give a share of the documents, above 0 and at most 1.")

    def rate_at(self, step: int) -> float:
        """Rises, stays, and falls to a twentieth over the last third."""
        falling = min(1.0, max(0.0, (self.steps - step) / (self.steps / 3)))
        return self.rate * min(1.0, (step + 1) / self.warm_up) * (0.05 + 0.95 * falling)
