"""The prior: the parameters before the stream, and the static model that reads with them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from driftlm.memories.base import Counts, Event, State
from driftlm.models.cache import KeyValues, RotaryCache
from driftlm.models.scoring import Forward, Scorer
from driftlm.models.sink import Sink
from driftlm.models.trainable import Trainable
from driftlm.streams.windows import Window, Windows


class Prior:
    """Keep θ₀, a copy of the parameters that may change.

    Attributes:
        values: one tensor a parameter.
    """

    def __init__(self, trainable: Trainable) -> None:
        self.trainable = trainable
        self.parameters = list(trainable.parameters.values())
        self.values = [parameter.data.clone() for parameter in self.parameters]

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Score by θ₀ inside the block; no parameter is copied."""
        if self.trainable.fresh:
            with self.trainable.adapter.disable_adapter():
                yield
            return
        learned = [parameter.data for parameter in self.parameters]
        try:
            self.put(self.values)
            yield
        finally:
            self.put(learned)

    def put_back(self) -> None:
        """Write θ₀ over the parameters."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.data.copy_(value)

    def put(self, values: list[Tensor]) -> None:
        """Let the parameters hold `values` themselves."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.data = value


class StaticModel:
    """The static model on the windows of another memory: same model, prior parameters, a cache of its own."""

    def __init__(self, prior: Prior, scorer: Scorer, rotary: RotaryCache | None, windows: Windows) -> None:
        self.prior, self.scorer, self.rotary, self.windows = prior, scorer, rotary, windows
        self.sink = Sink(scorer, rotary)
        self.counts = Counts()
        self.events: tuple[Event, ...] = ()
        self.cache: KeyValues | None = None
        self.scored: tuple[Window, Forward] | None = None
        self.reset()

    def score(self, window: Window) -> Tensor:
        """Nats of each new token, (S,) float32, by the prior."""
        return self.forward(window).nats

    def forward(self, window: Window) -> Forward:
        """The forward pass of the latest window, made once."""
        if self.scored is None or self.scored[0] != window:
            cache = self.rotary.before(self.cache, window) if self.rotary and self.cache else None
            with torch.no_grad(), self.prior.in_force():
                cache = self.sink.before(cache, window) if cache else None
                self.scored = window, self.scorer.forward(window, cache)
        return self.scored[1]

    def learn(self, window: Window) -> None:
        """Only the cache advances."""
        cache = self.forward(window).cache
        if cache is not None:
            self.cache = cache.trimmed(self.windows.kept)
        self.scored = None

    def finish(self, document: str) -> None:
        """Drop the cache."""
        self.reset()

    def reset(self) -> None:
        """As new."""
        self.cache = KeyValues() if self.rotary else None
        self.scored = None

    def state(self) -> State:
        """The cache."""
        return State(self.cache.tensors(), {"origin": self.cache.origin}) if self.cache else State({}, {})

    def restore(self, state: State) -> None:
        """Go on from a `state`."""
        self.reset()
        if self.cache is not None:
            device = self.scorer.device
            tensors = {key: value.to(device) for key, value in state.tensors.items()}
            self.cache = KeyValues.of(tensors, state.values["origin"])
