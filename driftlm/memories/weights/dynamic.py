"""Memory in weights: dynamic evaluation. Score a window of text, then take a gradient step on it.

Sources: Krause et al. 2018 (dynamic evaluation), Rannen-Triki et al. 2024 "Revisiting Dynamic Evaluation" (overlapping
and Transformer-XL windows, update frequency, LoRA). Learning uses the forward pass that scored, never a second one.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from driftlm.core.errors import DriftError
from driftlm.memories.base import Counts, Event, Example, Memory, State
from driftlm.memories.registries import PROTECTIONS, RULES
from driftlm.memories.weights.last_good import LastGood
from driftlm.memories.weights.learning import Learning
from driftlm.memories.weights.parametrisations import chosen_by
from driftlm.memories.weights.prior import Prior, StaticModel
from driftlm.memories.weights.protection import Protection
from driftlm.memories.weights.rules import Rule, RuleSettings, fill, flat, gradients_of, named, rule_class
from driftlm.memories.weights.salience import salience_of
from driftlm.memories.weights.schedule import Decision, Schedule, Scored
from driftlm.memories.weights.statistics import Statistics, gather
from driftlm.models.cache import KeyValues, RotaryCache
from driftlm.models.loading import LanguageModel, load, refuse_long_context
from driftlm.models.modulated import Before
from driftlm.models.scoring import NOTHING, Forward, Scorer
from driftlm.models.sink import Sink
from driftlm.models.trainable import Trainable
from driftlm.streams.documents import Document
from driftlm.streams.windows import Window, Windows

# For the conformance tests; the rates suit the small random models there.
EXAMPLES = {
    "sgd": Learning(rule="sgd", learning_rate=0.2),
    "sgd momentum skip": Learning(rule="sgd", learning_rate=0.05, momentum=0.8, every=2),
    "adam accumulate": Learning(rule="adam", learning_rate=5e-3, every=3, cadence="accumulate"),
    "lora adam": Learning("lora", rank=4, rule="adam", learning_rate=1e-2),
    "relative": Learning(rule="relative", learning_rate=0.3),
    "norms sgd": Learning("norms", rule="sgd", learning_rate=0.5),
    "rms reset": Learning(rule="rms", learning_rate=1e-3, epsilon=1e-3, decay=0.01, reset="document"),
    "tfidf sgd": Learning(rule="sgd", learning_rate=0.2, salience="tfidf"),
}


class WeightMemory(Memory):
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

    kind = "memory in weights"
    can_generate = True
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
        refuse_long_context(self.language_model, windows)
        self.rotary = RotaryCache(self.language_model) if windows.window == "cached" else None
        self.trainable = trainable or chosen_by(learning, self.language_model)
        self.scorer = Scorer(self.language_model, alike=learning.salience == "uniform")
        self.sink = Sink(self.scorer, self.rotary)
        self.parameters = list(self.trainable.parameters.values())
        self.prior = Prior(self.trainable)
        self.salience = salience_of(learning, self.language_model, self.prior, windows.context)
        self.counts = Counts()
        self.rule = self.new_rule() if self.parameters else None
        own = PROTECTIONS.settings(learning.protect, learning.options)
        self.protection: Protection | None = PROTECTIONS.load(learning.protect)(learning, own, self.prior)
        self.start_fresh()

    def start_fresh(self) -> None:
        """Begin as if nothing had been read since the prior."""
        self.schedule = Schedule(self.learning, self.language_model.vocabulary, self.rule is not None)
        self.rate = torch.tensor(self.learning.rate(), dtype=torch.float64)
        self.rule_state = self.rule.init(self.values(), self.rate) if self.rule is not None else {}
        self.last_good = LastGood()
        if self.salience is not None:
            self.salience.reset()
        if self.protection is not None:
            self.protection.reset()
        self.cache = self.empty_cache()
        self.sink.drop()
        self.scored: Scored | None = None
        self.events: tuple[Event, ...] = ()

    def new_rule(self, joined: bool = False) -> Rule:
        """Return the update rule that the settings name, `joined` for rows whose numbers lie in one tensor."""
        settings, rms, normalizer = self.learning, None, 1.0
        if settings.rule == "rms":
            statistics = Statistics.for_model(self.language_model, settings.statistics)
            rms, normalizer = statistics.of(self.trainable.parameters), statistics.normalizer
        own = RULES.settings(settings.rule, settings.options)
        numbers = settings.momentum, settings.decay, settings.epsilon
        given = RuleSettings(*numbers, self.prior.values, rms, normalizer, own, self.trainable, joined)
        rule: Rule = rule_class(settings.rule)(given)
        return rule

    def values(self) -> list[Tensor]:
        """Return the parameters' own storage, one tensor each."""
        return [parameter.data for parameter in self.parameters]

    def numbers(self) -> dict[str, Tensor]:
        """Return all that a step changes, by name."""
        values = {f"good/{place}": value for place, value in enumerate(self.values())}
        return values | {f"rule/{name}": one for name, one in flat(self.rule_state).items()}

    def empty_cache(self) -> KeyValues | None:
        """At the start of a document."""
        return KeyValues((), -self.room) if self.rotary else None

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
            # What the sink holds is left out of the window, so that there is one BOS in all.
            kept = min(self.windows.kept - len(before.tokens), window.position - 1 - len(window.sink))
            fed = replace(window, inputs=window.inputs[-(kept + window.new) :])
            cache = None if cache is None else cache.trimmed(kept)
        if forward is None:
            cache = self.sink.before(cache, window) if cache and before == NOTHING else cache
            with torch.set_grad_enabled(self.schedule.due()):
                forward = self.scorer.forward(fed, cache, before)
        self.scored = self.schedule.judge(window, forward, lambda: self.prior_nats(fed, before))
        self.events = self.scored.events
        return self.scored.nats

    def learn(self, window: Window, backward: bool = True) -> None:
        """Advance the cache, and take the step that the schedule asks for with the forward pass that scored.

        Without `backward` the gradient was taken already, together with those of other learners.
        """
        self.score(window)
        assert self.scored is not None
        scored, decision, self.scored = self.scored, self.decision(), None
        if self.salience is not None:
            self.salience.read(window)
        self.counts.prior_used += 0 if scored.finite else int((~scored.forward.finite).sum())
        self.counts.skipped_updates += decision.skip
        if scored.forward.cache is not None:
            self.cache = scored.forward.cache.trimmed(self.windows.kept)
        if decision.go_back:
            self.go_back()
        elif decision.learn:
            self.add_gradient(scored.forward.nats, window, backward)
        self.schedule.take(decision, scored.bad, window.new)
        if decision.step:
            self.step()

    def finish(self, document: str) -> None:
        """Step leftovers, drop the cache, and go back to the prior where that was asked for."""
        if self.schedule.waiting:
            self.step()
        self.cache, self.scored = self.empty_cache(), None
        if self.salience is not None:
            self.salience.finish()
        if self.learning.reset == "document":
            self.reset()

    def stop_learning(self) -> None:
        """Score from now on by the parameters as they are."""
        self.rule, self.schedule = None, Schedule(self.learning, self.language_model.vocabulary, learns=False)

    def decision(self) -> Decision:
        """Return what becomes of the scored window."""
        return Decision() if self.scored is None else self.schedule.decide(self.scored.bad, self.scored.finite)

    def loss(self, nats: Tensor) -> Tensor:
        """The window's mean; with `accumulate` its sum, divided by all tokens at the step."""
        return nats.sum() if self.schedule.accumulates else nats.mean()

    @torch.enable_grad()
    def add_gradient(self, nats: Tensor, window: Window, backward: bool) -> None:
        """The gradient of the window's loss, where it was not taken already."""
        if not backward:
            return
        if self.salience is not None:
            weights = self.salience.weights(window).to(nats.device)
            if not bool(weights.any()):
                return
            nats = weights * nats
        loss = self.loss(nats)
        if self.protection is not None:
            loss = loss + (window.new if self.schedule.accumulates else 1) * self.protection.term(window)
        loss.backward()

    @torch.no_grad()
    def step(self) -> None:
        """Take one update by the gradients that the parameters hold; none where no token weighed anything."""
        assert self.rule is not None
        gradients, tokens = [p.grad for p in self.parameters if p.grad is not None], self.schedule.waiting
        if not gradients:
            self.schedule.waiting = 0
            return
        if tokens:
            torch._foreach_div_(gradients, float(tokens))
        if self.schedule.stepped():
            self.last_good.keep(self.numbers())
        found = gradients_of(self.parameters)
        if self.protection is not None:
            self.protection.change(found)
        self.rule.update(found, self.rule_state, self.values(), self.rate)
        if self.protection is not None:
            self.protection.after(self.values())
        self.drop_gradients()
        self.sink.drop()
        self.counts.updates += 1

    def go_back(self) -> None:
        """Bring the last good state back, at half the rate."""
        if not self.schedule.unchanged:
            self.last_good.bring_back(self.numbers())
        self.rate.div_(2)
        self.cache = self.empty_cache()
        self.drop_gradients()
        self.sink.drop()
        self.counts.rollbacks += 1

    def drop_gradients(self) -> None:
        """Forget the gradients that the parameters hold."""
        for parameter in self.parameters:
            self.scorer.take_gradient(parameter)
            parameter.grad = None

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
        values: dict[str, Any] = self.schedule.state() | {"counts": vars(self.counts).copy()}
        groups: dict[str, Mapping[str, Tensor]] = {"parameters": self.trainable.parameters}
        if self.schedule.waiting:
            learned = self.trainable.parameters.items()
            groups["gradients"] = {name: p.grad for name, p in learned if p.grad is not None}
        if self.cache is not None:
            groups["cache"], values["origin"] = self.cache.tensors(), self.cache.origin
        if self.rule is not None:
            groups["rule"], values["learning_rate"] = named(self.rule_state), self.rate.item()
        if not self.schedule.unchanged:
            groups["guard"] = self.last_good.copies
        if self.salience is not None:
            values["salience"] = self.salience.state()
        if self.protection is not None:
            groups["protection"] = self.protection.state()
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
            parameter.data.copy_(groups["parameters"][name])
            parameter.grad = groups.get("gradients", {}).get(name)
        values = state.values
        self.schedule.restore(values)
        self.counts = replace(self.counts, **values["counts"])
        if self.cache is not None:
            self.cache = KeyValues.of(groups.get("cache", {}), values["origin"])
        if self.rule is not None:
            self.rate.fill_(values["learning_rate"])
            fill(self.rule_state, groups.get("rule", {}))
        if not self.schedule.unchanged:
            self.last_good.restore(groups.get("guard", {}), self.numbers())
        if self.salience is not None:
            self.salience.restore(values["salience"])
        if self.protection is not None:
            self.protection.restore(groups.get("protection", {}))

    # ---- what callers ask of it -------------------------------------------------------------------------------------

    @property
    def is_static(self) -> bool:
        """Whether it has no parameter that learns."""
        return not self.parameters

    @property
    def forgets(self) -> bool:
        """Whether nothing was learned that would have to be taken back."""
        return not self.parameters

    def learners(self) -> "dict[str, WeightMemory]":
        """Return itself."""
        return {"": self}

    def readers(self) -> "list[WeightMemory]":
        """Return itself."""
        return [self]

    def learned(self) -> "WeightMemory":
        """Return itself."""
        return self

    @classmethod
    def build(cls, language_model: LanguageModel, settings: Any, own: Any, shared: Any) -> "WeightMemory":
        """Make one with tensors of its own for what learns; arguments as of `Memory.build`."""
        if settings.learning.learn == "none":  # leaves the model as it is
            return WeightMemory(language_model, settings.windows, settings.learning)
        return learner(language_model, settings.windows, settings.learning, None)

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


def learner(
    language_model: LanguageModel, windows: Windows, learning: Learning, trainable: Trainable | None
) -> WeightMemory:
    """A memory on a model that shares every tensor with the given one but those that the memory changes."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in language_model.model.buffers()}
    for parameter in language_model.model.parameters():
        plain = type(parameter) is Parameter  # others are quantized, and cannot learn
        memo[id(parameter)] = Parameter(parameter.data, parameter.requires_grad) if plain else parameter
    model, trainable = copy.deepcopy((language_model.model, trainable), memo)
    memory = WeightMemory(replace(language_model, model=model), windows, learning, trainable)
    # The prior is the given model's own tensors, and the memory's copy of it is what it changes.
    own = list(memory.prior.values)
    memory.prior.values[:] = [parameter.data for parameter in memory.parameters]
    memory.prior.put(own)
    memory.start_fresh()
    return memory
