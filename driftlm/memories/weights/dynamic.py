"""Memory in weights: dynamic evaluation. Score a window of text, then take a gradient step on it.

Sources: Krause et al. 2018 (dynamic evaluation), Rannen-Triki et al. 2024 "Revisiting Dynamic Evaluation" (overlapping
and Transformer-XL windows, update frequency, LoRA). Learning uses the forward pass that scored, never a second one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from driftlm.core.errors import Diverged, DriftError
from driftlm.memories.base import Counts, Event, Example, State
from driftlm.memories.weights.guard import Guard
from driftlm.memories.weights.learning import Learning
from driftlm.memories.weights.prior import Prior, StaticModel
from driftlm.memories.weights.rules import Rule, RuleSettings, rule_class
from driftlm.memories.weights.salience import salience_of
from driftlm.memories.weights.statistics import Statistics, gather
from driftlm.models.cache import KeyValues, RotaryCache
from driftlm.models.loading import LanguageModel, load, refuse_long_context
from driftlm.models.modulated import Before
from driftlm.models.scoring import NOTHING, Forward, Scorer
from driftlm.models.trainable import Trainable, choose
from driftlm.streams.documents import Document
from driftlm.streams.windows import Window, Windows

# For the conformance tests; the rates suit the small random models there.
EXAMPLES = {
    "sgd": Learning(rule="sgd", learning_rate=0.2),
    "sgd momentum skip": Learning(rule="sgd", learning_rate=0.05, momentum=0.8, every=2),
    "adam accumulate": Learning(rule="adam", learning_rate=5e-3, every=3, cadence="accumulate"),
    "lora adam": Learning("lora", rank=4, rule="adam", learning_rate=1e-2),
    "norms sgd": Learning("norms", rule="sgd", learning_rate=0.5),
    "rms reset": Learning(rule="rms", learning_rate=1e-3, epsilon=1e-3, decay=0.01, reset="document"),
    "tfidf sgd": Learning(rule="sgd", learning_rate=0.2, salience="tfidf"),
}


@dataclass(frozen=True)
class Scored:
    """A window that was scored and not yet learned from: its forward pass, and the nats that stand."""

    window: Window
    forward: Forward
    nats: Tensor
    bad: bool


class WeightMemory:
    """A language model whose weights are the memory.

    Args:
        model: a loaded model, a folder or hub name, or None for the bundled model. LoRA and DoRA add modules to it.
        windows: how documents are cut.
        learning: what changes, by which rule, how often.
        trainable: parameters that were chosen beforehand (a loaded adapter); they stand in for `learning`'s choice.

    Example (needs nothing but the installed package):
        >>> from driftlm import Learning, WeightMemory, Windows
        >>> memory = WeightMemory(windows=Windows("cached", 128, 64), learning=Learning(learning_rate=0.01))
        >>> memory.counts.updates
        0
    """

    meta_trained = False
    room = 0  # positions that stay free before a document's cache, for what another memory puts there

    def __init__(
        self,
        model: LanguageModel | str | Path | None = None,
        windows: Windows = Windows(),  # noqa: B008 - frozen
        learning: Learning = Learning(),  # noqa: B008 - frozen
        trainable: Trainable | None = None,
    ) -> None:
        self.language_model = model if isinstance(model, LanguageModel) else load(model)
        self.windows, self.learning = windows, learning
        refuse_long_context(self.language_model, windows.context)
        self.rotary = RotaryCache(self.language_model) if windows.window == "cached" else None
        self.trainable = trainable or chosen_by(self.language_model, learning)
        self.scorer = Scorer(self.language_model)
        self.parameters = list(self.trainable.parameters.values())
        self.prior = Prior(self.trainable)
        self.salience = salience_of(learning, self.language_model, self.prior, windows.context)
        self.counts = Counts()
        self.statistics: Statistics | None = None
        self.start_fresh()

    def start_fresh(self) -> None:
        """Nothing read since the prior."""
        self.rule = self.new_rule() if self.parameters else None
        self.guard: Guard | None = None
        if self.rule is not None and self.learning.guard == "on":
            self.guard = Guard(self.parameters, self.rule, self.prior.values, self.language_model.vocabulary)
        if self.salience is not None:
            self.salience.reset()
        self.cache = self.empty_cache()
        self.windows_read = 0
        self.waiting = 0  # new tokens whose gradient waits for its step
        self.scored: Scored | None = None
        self.events: tuple[Event, ...] = ()

    def new_rule(self) -> Rule:
        """The update rule before its first step."""
        settings, rms, normalizer = self.learning, None, 1.0
        if settings.rule == "rms":
            if self.statistics is None:
                self.statistics = Statistics.for_model(self.language_model, settings.statistics)
            rms, normalizer = self.statistics.of(self.trainable.parameters), self.statistics.normalizer
        numbers = RuleSettings(
            settings.rate(), settings.momentum, settings.decay, settings.epsilon, rms=rms, normalizer=normalizer
        )
        rule: Rule = rule_class(settings.rule)(self.parameters, self.prior.values, numbers)
        return rule

    def empty_cache(self) -> KeyValues | None:
        """At the start of a document."""
        return KeyValues((), -self.room) if self.rotary else None

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """Tokens of a document and where each ends, as `LanguageModel.encode`."""
        return self.language_model.encode(text)

    def static(self) -> StaticModel:
        """A memory that reads the same windows with the prior and never learns."""
        return StaticModel(self.prior, self.scorer, self.rotary, self.windows)

    # ---- score, then learn ------------------------------------------------------------------------------------------

    def score(self, window: Window, before: Before = NOTHING, forward: Forward | None = None) -> Tensor:
        """Nats of each new token, (S,) float32, by the parameters as they stand.

        What another memory puts before the window's text takes its tokens out of the context. A forward pass that was
        made together with those of other learners is used as it is.
        """
        if self.scored is not None and self.scored.window == window:
            return self.scored.nats
        cache = self.rotary.before(self.cache, window, self.room) if self.rotary and self.cache else None
        fed = window
        if before.tokens:
            left = self.windows.context - len(before.tokens)
            fed = replace(window, inputs=window.inputs[-(max(left - self.windows.stride, 0) + window.new) :])
            cache = None if cache is None else cache.trimmed(max(left - self.windows.stride, 0))
        if forward is None:
            with torch.set_grad_enabled(self.learns_next()):
                forward = self.scorer.forward(fed, cache, before)
        nats, bad, events = judged(self.guard, window, forward, lambda: self.prior_nats(fed, before))
        self.scored, self.events = Scored(window, forward, nats, bad), events
        return nats

    def learn(self, window: Window, backward: bool = True) -> None:
        """Advance the cache, and take the step that the cadence asks for with the forward pass that scored.

        Without `backward` the gradient was taken already, together with those of other learners.
        """
        self.score(window)
        assert self.scored is not None
        forward, bad = self.scored.forward, self.scored.bad
        learns, self.scored = self.learns_next(), None
        self.windows_read += 1
        if self.salience is not None:
            self.salience.read(window)
        self.counts.prior_used += int((~forward.finite).sum()) if bad else 0
        if forward.cache is not None:
            self.cache = forward.cache.trimmed(self.windows.context - self.windows.stride)
        if self.guard is not None and self.guard.saw(bad):
            self.cache = self.empty_cache()
            self.drop_gradients()
            self.counts.rollbacks += 1
        elif learns:
            finite = not bad or bool(forward.finite.all())
            if finite:
                self.add_gradient(forward.nats, window, backward)
            else:
                self.counts.skipped_updates += 1
            if self.windows_read % self.learning.every == 0 and (finite or self.waiting):
                self.step()

    def finish(self, document: str) -> None:
        """Step leftovers, drop the cache, and go back to the prior where that was asked for."""
        if self.waiting:
            self.step()
        self.cache, self.scored = self.empty_cache(), None
        if self.salience is not None:
            self.salience.finish()
        if self.learning.reset == "document":
            self.reset()

    def learns_next(self) -> bool:
        """Whether the next window's gradient is wanted."""
        if self.rule is None:
            return False
        return self.learning.cadence == "accumulate" or (self.windows_read + 1) % self.learning.every == 0

    def wants_gradient(self) -> bool:
        """Whether the scored window's gradient is wanted: the cadence asks, and the guard does not step in."""
        if self.scored is None or not self.learns_next():
            return False
        bad = self.scored.bad
        goes_back = self.guard is not None and self.guard.would_go_back(bad)
        return not goes_back and (not bad or bool(self.scored.forward.finite.all()))

    @property
    def accumulates(self) -> bool:
        """Whether gradients of several windows make one step."""
        return self.learning.cadence == "accumulate" and self.learning.every > 1

    def loss(self, nats: Tensor) -> Tensor:
        """The window's mean; with `accumulate` its sum, divided by all tokens at the step."""
        return nats.sum() if self.accumulates else nats.mean()

    @torch.enable_grad()
    def add_gradient(self, nats: Tensor, window: Window, backward: bool) -> None:
        """The gradient of the window's loss."""
        self.waiting += window.new if self.accumulates else 0
        if self.salience is not None:
            weights = self.salience.weights(window).to(nats.device)
            if not bool(weights.any()):
                return
            nats = weights * nats
        if backward:
            self.loss(nats).backward()

    def step(self) -> None:
        """One update of the parameters by the gradients they hold; none where no token weighed anything."""
        assert self.rule is not None
        gradients, tokens, self.waiting = [p.grad for p in self.parameters if p.grad is not None], self.waiting, 0
        if not gradients:
            return
        if tokens:
            torch._foreach_div_(gradients, float(tokens))
        if self.guard is not None:
            self.guard.keep(self.rule.step)
        else:
            self.rule.step()
        self.counts.updates += 1

    def drop_gradients(self) -> None:
        """Forget gradients that wait for a step."""
        for parameter in self.parameters:
            parameter.grad = None
        self.waiting = 0

    def prior_nats(self, window: Window, before: Before) -> Tensor:
        """What the prior says of a window, from its inputs alone: a cache made by diverged parameters is no witness."""
        with torch.no_grad(), self.prior.in_force():
            return self.scorer.forward(window, before=before).nats

    # ---- reset, state -----------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Back to the prior: parameters, rule, guard, cache, and the count that the cadence uses."""
        self.prior.put_back()
        self.drop_gradients()
        self.start_fresh()

    def state(self) -> State:
        """Parameters, rule, waiting gradients, guard, cache: enough to go on bit-equal."""
        values: dict[str, Any] = {
            "windows_read": self.windows_read,
            "waiting": self.waiting,
            "counts": vars(self.counts).copy(),
        }
        groups: dict[str, Mapping[str, Tensor]] = {"parameters": self.trainable.parameters}
        if self.waiting:
            learned = self.trainable.parameters.items()
            groups["gradients"] = {name: p.grad for name, p in learned if p.grad is not None}
        if self.cache is not None:
            groups["cache"], values["origin"] = self.cache.tensors(), self.cache.origin
        if self.rule is not None:
            groups["rule"], values["learning_rate"] = self.rule.state(), self.rule.learning_rate
        if self.guard is not None:
            groups["guard"], values["guard"] = self.guard.state()
        if self.salience is not None:
            values["salience"] = self.salience.state()
        tensors = {f"{group}/{key}": value for group, held in groups.items() for key, value in held.items()}
        return State({key: value.detach().clone() for key, value in tensors.items()}, values)

    def restore(self, state: State) -> None:
        """Go on exactly where `state` was taken (same model, same settings).

        Raises:
            DriftError: when it holds other parameters than are learned here.
        """
        learned = {f"parameters/{name}": p.shape for name, p in self.trainable.parameters.items()}
        if learned != {key: value.shape for key, value in state.tensors.items() if key.startswith("parameters/")}:
            raise DriftError(
                "the state holds other parameters than are learned here; "
                "give the settings it was learned with (`Learning.learn`, `Learning.layers`, `Learning.rank`, "
                "`Learning.target_modules`)."
            )
        self.start_fresh()
        device = self.language_model.device
        groups: dict[str, dict[str, Tensor]] = {}
        for key, value in state.tensors.items():
            group, _, name = key.partition("/")
            groups.setdefault(group, {})[name] = value.to(device, copy=True)
        for name, parameter in self.trainable.parameters.items():
            parameter.data = groups["parameters"][name]
            parameter.grad = groups.get("gradients", {}).get(name)
        values = state.values
        self.windows_read, self.waiting = values["windows_read"], values["waiting"]
        self.counts = replace(self.counts, **values["counts"])
        if self.cache is not None:
            self.cache = KeyValues.of(groups.get("cache", {}), values["origin"])
        if self.rule is not None:
            self.rule.learning_rate = values["learning_rate"]
            self.rule.restore(groups.get("rule", {}))
        if self.guard is not None:
            self.guard.restore(groups.get("guard", {}), values["guard"])
        if self.salience is not None:
            self.salience.restore(values["salience"])

    def forget(self, document: str) -> None:
        """Refused: gradient steps cannot be taken back one by one."""
        raise DriftError(
            f"weights cannot forget {document!r} alone, because later steps were taken on top of it; "
            f"reset the memory and read the other documents again."
        )

    @staticmethod
    def examples() -> dict[str, Example]:
        """Settings that the conformance tests try, by name."""

        def example(learning: Learning) -> Example:
            def make(model: LanguageModel, windows: Windows, folder: Path, idle: bool) -> WeightMemory:
                statistics = folder / "statistics.safetensors"
                if learning.rule == "rms":
                    gather(model, [Document("rain", "It rained.")], windows).save(statistics)
                rate = 0.0 if idle else learning.learning_rate
                return WeightMemory(model, windows, replace(learning, learning_rate=rate, statistics=str(statistics)))

            return make

        return {name: example(learning) for name, learning in EXAMPLES.items()}


def chosen_by(language_model: LanguageModel, learning: Learning) -> Trainable:
    """The parameters that `learning` lets change."""
    return choose(
        language_model,
        learning.learn,
        layers=learning.layer_range(),
        rank=learning.rank,
        targets=learning.target_modules,
        freeze_embeddings=learning.freeze_embeddings,
        seed=learning.seed,
    )


def judged(
    guard: Guard | None, window: Window, forward: Forward, prior_nats: Callable[[], Tensor]
) -> tuple[Tensor, bool, tuple[Event, ...]]:
    """The nats of a window that stand, whether its scores show divergence, and what is to be said of it.

    Raises:
        Diverged: without a guard, for a score that is not a number.
    """
    nats, bad, events = forward.nats.detach(), False, list[Event]()
    if guard is not None:
        bad = guard.is_bad(nats, forward.finite, prior_nats)
        lost = int((~forward.finite).sum()) if bad else 0
        if lost:
            # Decided by the logits, before the token is seen; the prior's probabilities sum to one.
            nats = torch.where(forward.finite, nats, prior_nats())
            events.append(Event("prior_used", f"{lost} tokens scored by the prior: logits were not finite"))
        if guard.would_go_back(bad):
            events.append(
                Event("rollback", "two windows in a row diverged: back to the last good state, at half the rate")
            )
    elif not bool(nats.isfinite().all()):
        raise Diverged(
            f"learning diverged: the score of {window.document} at token {window.position} is not a number; "
            f"start a new run with a lower `Learning.learning_rate`, or with `Learning.guard` on."
        )
    return nats, bad, tuple(events)
