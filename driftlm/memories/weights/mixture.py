"""A mixture that needs no learning rate: several learners read the same stream, and all of them predict every token.

p = Σ_k w_k ((1 − ε) p_k + ε p_prior), p_k by expert k, ε = 1e-3. Weights follow Bayes' rule token by token, so that the
whole never loses more than ln K nats to the best expert, and one that diverges costs next to nothing.

Sources: Cesa-Bianchi & Lugosi 2006, "Prediction, Learning, and Games", ch. 9 (mixtures under log loss); Herbster &
Warmuth 1998, "Tracking the Best Expert" (fixed share). Letters: K experts, S new tokens, n tokens so far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from driftlm.core.errors import DriftError
from driftlm.memories.base import Counts, Event, Example, Memory, State
from driftlm.memories.weights.dynamic import WeightMemory, learner
from driftlm.memories.weights.learning import FROZEN, Learning
from driftlm.memories.weights.one_pass import one_pass
from driftlm.memories.weights.prior import StaticModel
from driftlm.models.loading import LanguageModel, load
from driftlm.models.trainable import Trainable
from driftlm.streams.windows import Window, Windows

EPSILON = 1e-3  # of the prior in every expert's probability, so that none is ever zero
MOST = 16  # experts
DEFAULT = tuple(Learning(rule="mixture").strategies())
# For the conformance tests; the rates suit the small random models there.
EXAMPLES = {
    "sgd": ((0.0, 0.2, 1e4), Learning(rule="sgd"), False),
    "shared lora adam": (
        (0.0, 1e-2, 3e-3),
        Learning("lora", rank=4, rule="adam", every=2, cadence="accumulate", reset="document"),
        True,
    ),
}


@dataclass(frozen=True)
class Mixing:
    """Weights of K experts after n tokens, and what was lost so far; all in float64.

    On every prefix, `loss` ≤ min_k `losses`[k] + ln K; with `share`, ≤ min_k `losses`[k] + ln K + ln n.

    Attributes:
        logs: (K,) logarithms of the weights.
        losses: (K,) nats of each expert over all tokens, its probabilities smoothed by the prior's.
        loss: nats of the mixture over all tokens.
        tokens: n.
        share: fixed share: before token t + 1, each weight gives 1 / (t + 1) of itself to all alike, so that another
            expert can take over later in the stream.

    Example (a coin that the second expert knows):
        >>> nats = torch.tensor([[0.7, 0.7, 0.7], [0.1, 0.1, 0.1]])
        >>> scores, after = Mixing.of(2).read(nats, prior=nats[0])
        >>> [round(score, 2) for score in scores.tolist()], [round(weight, 2) for weight in after.weights.tolist()]
        ([0.36, 0.27, 0.21], [0.14, 0.86])
    """

    logs: Tensor
    losses: Tensor
    loss: float
    tokens: int
    share: bool

    @staticmethod
    def of(experts: int, share: bool = False) -> "Mixing":
        """K equal weights before the first token."""
        logs = torch.full((experts,), -math.log(experts), dtype=torch.float64)
        return Mixing(logs, torch.zeros_like(logs), 0.0, 0, share)

    @property
    def weights(self) -> Tensor:
        """Return the weights (K,), in sum 1."""
        return self.logs.exp()

    def read(self, nats: Tensor, prior: Tensor) -> tuple[Tensor, "Mixing"]:
        """Experts' nats (K, S) and the prior's (S,) -> the mixture's (S,) float64, and the weights behind them.

        The score of a token depends on earlier tokens alone. An expert may give a token no probability at all (nats of
        infinity), the prior may not.
        """
        losses = smoothed(nats, prior)
        logs, scores = self.logs, []
        for place, lost in enumerate(losses.T):
            read = self.tokens + place
            if self.share and read:
                given = 1 / (read + 1)
                logs = torch.logaddexp(logs + math.log1p(-given), torch.full_like(logs, math.log(given / len(logs))))
            joint = logs - lost
            score = -joint.logsumexp(0)
            logs = joint + score
            scores.append(score.clamp(min=0.0))  # below zero by rounding alone
        total = torch.stack(scores)
        loss = self.loss + total.sum().item()
        return total, Mixing(logs, self.losses + losses.sum(1), loss, self.tokens + len(scores), self.share)


def smoothed(nats: Tensor, prior: Tensor) -> Tensor:
    """Nats of (1 − ε) p + ε p_prior in float64, from those of p (K, S) and p_prior (S,)."""
    return -torch.logaddexp(math.log1p(-EPSILON) - nats.double(), math.log(EPSILON) - prior.double())


class MixtureMemory(Memory):
    """Several memories in weights that read the same stream, weighed by what they have predicted so far.

    An expert is a whole strategy, its restarts included: a restart takes its parameters back to the prior, and leaves
    its weight. All experts share the tensors of one language model and add those that they change: their values, the
    guard's copy of them, and the state of their rule. The forward passes of all that learn are kept until `learn`, so
    activations take K times the memory of one. Experts with a LoRA each share their passes over the frozen weights. A
    rate of 0 costs no more than the prior, which is read anyway.

    Args:
        model: a loaded model, a folder or hub name, or None for the bundled model. Never changed, and nothing else may
            change it meanwhile.
        windows: how documents are cut.
        experts: at most 16; they may differ in anything.
        share: whether another expert may take over later in the stream (fixed share).
        trainable: parameters that were chosen beforehand (a loaded adapter); they stand in for the experts' choice.

    Raises:
        DriftError: for no expert, too many, or one without its guard.

    Example (needs nothing but the installed package):
        >>> from driftlm import Document, Windows, read_stream
        >>> rates = [Learning(learning_rate=rate) for rate in (0, 1e-3)]
        >>> memory = MixtureMemory(windows=Windows("cached", 64, 16), experts=rates)
        >>> _ = list(read_stream(memory, [Document("a", "tick tock " * 40)]))
        >>> [expert["name"] for expert in memory.expert_weights() if expert["weight"] > 0.5]
        ['adam:0.001']
    """

    kind = "mixture"

    def __init__(
        self,
        model: LanguageModel | str | Path | None = None,
        windows: Windows = Windows(),  # noqa: B008 - frozen
        experts: Sequence[Learning] = DEFAULT,
        share: bool = False,
        trainable: Trainable | None = None,
    ) -> None:
        if not 1 <= len(experts) <= MOST:
            raise DriftError(f"`Learning.experts` named {len(experts)} experts; give 1 to {MOST}.")
        if any(expert.guard == "off" for expert in experts):
            raise DriftError(
                "`Learning.guard` was off, but a mixture goes on when an expert diverges; leave the guard on."
            )
        self.language_model = model if isinstance(model, LanguageModel) else load(model)
        self.windows, self.experts, self.share = windows, tuple(experts), share
        # None stands for an expert that never leaves the prior
        self.members = [
            None
            if expert.learn == "none" or expert.rate() == 0
            else learner(self.language_model, windows, expert, trainable)
            for expert in experts
        ]
        self.active = [one for one in self.members if one is not None]
        self.frozen = WeightMemory(
            self.language_model, windows, FROZEN, Trainable({}, None if trainable is None else trainable.adapter)
        )
        self.trainable, self.scorer = self.frozen.trainable, self.frozen.scorer
        self.prior = self.static()
        self.parts: list[WeightMemory | StaticModel] = [*self.active, self.prior]
        self.together = one_pass(self.active)
        self.start_fresh()

    def start_fresh(self) -> None:
        """Equal weights."""
        self.mixing = Mixing.of(len(self.experts), self.share)
        self.scored: tuple[Window, Tensor, Mixing] | None = None

    @property
    def parameters(self) -> list[Parameter]:
        """Those that the first expert changes; none where no expert learns."""
        return self.active[0].parameters if self.active else []

    @property
    def counts(self) -> Counts:  # type: ignore[override]  # sums cannot be set
        """Sums over the experts."""
        each = [vars(one.counts) for one in self.active]
        return Counts(**{name: sum(counts[name] for counts in each) for name in vars(Counts())})

    @property
    def events(self) -> tuple[Event, ...]:  # type: ignore[override]
        """Of all experts, by name."""
        pairs = zip(self.experts, self.members, strict=True)
        return tuple(
            Event(event.kind, f"expert {expert.name()}: {event.message}")
            for expert, one in pairs
            if one is not None
            for event in one.events
        )

    def static(self) -> StaticModel:
        """A memory that reads the same windows with the prior and never learns."""
        return self.frozen.static()

    # ---- score, then learn ------------------------------------------------------------------------------------------

    def score(self, window: Window) -> Tensor:
        """Nats of each new token, (S,) float32 (rounded at the end); the weights move from token to token."""
        if self.scored is None or self.scored[0] != window:
            prior = self.prior.score(window)
            if not bool(prior.isfinite().all()):
                raise DriftError(
                    f"the model's own score of {window.document} at token {window.position} is not a number; "
                    f"give `Machine.dtype` float32, or another model."
                )
            if self.together is not None:
                for expert, forward in zip(self.active, self.together.forwards(window), strict=True):
                    expert.score(window, forward=forward)
            nats = torch.stack([prior if one is None else one.score(window) for one in self.members]).cpu()
            scores, after = self.mixing.read(nats, prior.cpu())
            self.scored = window, scores.to(prior), after
        return self.scored[1]

    def learn(self, window: Window) -> None:
        """Let every expert learn; the weights behind the window stand."""
        self.score(window)
        assert self.scored is not None
        self.mixing, self.scored = self.scored[2], None
        if self.together is not None:
            self.together.backward()
        for one in self.active:
            one.learn(window, backward=self.together is None)
        self.prior.learn(window)

    def finish(self, document: str) -> None:
        """The document has ended for every expert; restarts leave the weights."""
        for one in self.parts:
            one.finish(document)
        self.scored = None

    def weights(self) -> list[float]:
        """Of the experts in their order, behind the window that was scored last."""
        mixing = self.mixing if self.scored is None else self.scored[2]
        return mixing.weights.tolist()

    def expert_weights(self) -> list[dict[str, Any]]:
        """Name, smoothed nats per token and weight of each expert, behind the window that was learned last."""
        means, weights = self.mixing.losses / max(1, self.mixing.tokens), self.mixing.weights
        return [
            {"name": expert.name(), "nats_per_token": mean, "weight": weight}
            for expert, mean, weight in zip(self.experts, means.tolist(), weights.tolist(), strict=True)
        ]

    def best(self) -> WeightMemory:
        """The expert of the largest weight, to be looked at or saved."""
        one = self.members[int(self.mixing.logs.argmax())] or self.frozen
        one.language_model.name = self.language_model.name  # which may have moved since
        return one

    # ---- what callers ask of it -------------------------------------------------------------------------------------

    @property
    def is_static(self) -> bool:
        """Whether no expert learns."""
        return not self.active

    def learners(self) -> dict[str, WeightMemory]:
        """Return the experts that learn."""
        return {f"{place}/": one for place, one in enumerate(self.active)}

    def priors(self) -> dict[str, Tensor]:
        """Return those of the experts; the state has the parameters of the best one as well."""
        best = self.active[:1] and self.active[0].priors()
        return super().priors() | dict(best or {})

    def readers(self) -> list[WeightMemory]:
        """Return the frozen expert, whose pass is the prior's, and those that learn."""
        return [self.frozen, *self.active]

    def line(self) -> dict[str, Any]:
        """Return the experts' weights."""
        return {"weights": self.weights()}

    def summary(self) -> dict[str, Any]:
        """Return the experts by name."""
        return {"experts": self.expert_weights()}

    def learned(self) -> WeightMemory:
        """Return the expert of the largest weight."""
        return self.best()

    # ---- reset, state -----------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Every expert back to the prior, with equal weights."""
        for one in self.parts:
            one.reset()
        self.start_fresh()

    def state(self) -> State:
        """Those of the experts and of the prior's cache, and the weights; also the parameters of the best expert.

        The latter are there for a reading that starts from what this one learned.
        """
        states = [one.state() for one in self.parts]
        tensors = {f"{i}/{name}": value for i, one in enumerate(states) for name, value in one.tensors.items()}
        tensors |= {"logs": self.mixing.logs.clone(), "losses": self.mixing.losses.clone()}
        if self.active:
            best = self.members[int(self.mixing.logs.argmax())]
            values = self.active[0].prior.values if best is None else [p.data for p in best.parameters]
            names = (best or self.active[0]).trainable.parameters
            tensors |= {f"parameters/{name}": value.clone() for name, value in zip(names, values, strict=True)}
        values_of = {"loss": self.mixing.loss, "tokens": self.mixing.tokens, "states": [one.values for one in states]}
        return State(tensors, values_of)

    def restore(self, state: State) -> None:
        """Go on exactly where `state` was taken (same model, same settings).

        Raises:
            DriftError: when it holds other experts or other parameters than are here.
        """
        values = state.values.get("states", [])
        if len(values) != len(self.parts) or state.tensors["logs"].shape != self.mixing.logs.shape:
            raise DriftError(
                "the state holds other experts than there are here; give the `Learning.experts` it was made with."
            )
        for i, (one, held) in enumerate(zip(self.parts, values, strict=True)):
            own = {key.removeprefix(f"{i}/"): v for key, v in state.tensors.items() if key.startswith(f"{i}/")}
            one.restore(State(own, held))
        logs, losses = (state.tensors[name].cpu().clone() for name in ("logs", "losses"))
        self.start_fresh()
        self.mixing = Mixing(logs, losses, state.values["loss"], state.values["tokens"], self.share)

    def forget(self, document: str) -> None:
        """Refused: gradient steps cannot be taken back one by one."""
        self.frozen.forget(document)

    @staticmethod
    def examples() -> dict[str, Example]:
        """Settings that the conformance tests try, by name; one of them diverges."""

        def example(rates: Sequence[float], learning: Learning, share: bool) -> Example:
            def make(model: LanguageModel, windows: Windows, folder: Path, idle: bool) -> MixtureMemory:
                experts = [replace(learning, learning_rate=0.0 if idle else rate) for rate in rates]
                return MixtureMemory(model, windows, experts, share)

            return make

        return {name: example(*settings) for name, settings in EXAMPLES.items()}
