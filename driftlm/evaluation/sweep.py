"""Learning rates of memories in weights, each chosen on a stream that is not the one they are compared on."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from driftlm.core.errors import DriftError
from driftlm.evaluation.asking import gold_nats
from driftlm.evaluation.candidates import Terms, checked, learner_of, parts_of, taking_part
from driftlm.streams.questions import QuestionStream

# The four that CaMeLS sweeps (arXiv 2305.15076, appendix), and larger ones, which small models need.
RATES = (3e-3, 1e-3, 3e-4, 1e-4, 2.5e-5, 6.25e-6, 1.5625e-6)


class Chosen(NamedTuple):
    """A learning rate, None where nothing learns, and the nats per answer token of every rate that was tried."""

    rate: float | None = None
    tried: dict[str, float | None] = {}  # noqa: RUF012 - never changed


def comparable(memories: Sequence[str], terms: Terms, validation: QuestionStream | None) -> list[str]:
    """Return names as `checked` gives them, none of which lacks a learning rate or an encoder: refused before a
    measure.
    """
    names = checked(memories)
    for name in names:
        refuse_without_rate(name, terms, validation)
    if any("dense" in parts_of(name) for name in names):
        _ = terms.dense_encoder  # loaded here, so that one that cannot be is refused
    return names


def refuse_without_rate(name: str, terms: Terms, validation: QuestionStream | None) -> None:
    """Refuse a memory whose learning rate is neither given nor can be chosen."""
    if learner_of(name) is None or terms.learning_rate is not None:
        return
    if validation is None or not validation.questions:
        raise DriftError(
            f"no questions are left to choose the learning rate of {name} on; give `QuestionStudy.learning_rate` or "
            f"fewer documents."
        )


def chosen_rate(name: str, terms: Terms, validation: QuestionStream | None) -> Chosen:
    """Return the learning rate of a memory: the one given, or of `RATES` the one after which the answers cost least.

    Every rate adapts once to the whole validation stream; of equal ones the smallest is taken.

    Raises:
        DriftError: where a rate is to be chosen without a stream, or none gives a finite cost.
    """
    if learner_of(name) is None:
        return Chosen()
    if terms.learning_rate is not None:
        return Chosen(terms.learning_rate)
    refuse_without_rate(name, terms, validation)
    assert validation is not None
    tried = {rate: cost_of(name, terms, validation, rate) for rate in sorted(RATES)}
    best = min(tried, key=lambda rate: tried[rate])
    if not math.isfinite(tried[best]):
        raise DriftError(f"{name} diverged at every learning rate from {min(RATES)} to {max(RATES)}; give a lower one.")
    return Chosen(best, {str(rate): cost if math.isfinite(cost) else None for rate, cost in tried.items()})


def cost_of(name: str, terms: Terms, validation: QuestionStream, rate: float) -> float:
    """Return the nats per answer token after adapting at a rate; infinite where that is no number."""
    with taking_part(name, terms, validation.documents, rate) as candidate:
        candidate.adapt(validation.documents, validation.questions)
        nats = gold_nats(candidate.language_model, validation.questions, candidate.supply, candidate.positions)
    return nats if math.isfinite(nats) else math.inf
