"""Which tokens to learn from: a weight for every new token of a window.

The loss of a window is sum_t w_t nats_t / S over its S new tokens, never over padding. A weight may rest on the text up
to the end of its token's window and on documents before, never on what comes later: it is used after the window's
scores stand, but the scores of the windows after it rest on what it did. The methods' own code weighs a whole document
at a time; here that is so for documents of one window.

A window whose weights are all 0 takes no step.
"""

import math
import re
from collections import Counter
from typing import Any, Protocol

import torch
from torch import Tensor

from driftlm.memories.registries import SALIENCES
from driftlm.memories.weights.camels import Camels
from driftlm.memories.weights.learning import Learning
from driftlm.memories.weights.prior import Prior
from driftlm.memories.weights.spelling import Span, Spelling
from driftlm.memories.weights.tagging import tagger_of
from driftlm.models.loading import LanguageModel
from driftlm.streams.windows import Window

WORD = re.compile(r"\w+")


class Salience(Protocol):
    """Weighs tokens. `WeightMemory.learn` calls `read`, then `weights` where it learns from the window."""

    def read(self, window: Window) -> None:
        """Every window, also one that is not learned from."""
        ...

    def weights(self, window: Window) -> Tensor:
        """Return (S,) float32, at least 0, of the window that was read last."""
        ...

    def finish(self) -> None:
        """The document has ended."""
        ...

    def reset(self) -> None:
        """As new."""
        ...

    def state(self) -> dict[str, Any]:
        """JSON values that later weights depend on."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        ...


def salience_of(learning: Learning, language_model: LanguageModel, prior: Prior, context: int) -> Salience | None:
    """Return what the settings ask for; None where every token weighs the same.

    An entry of the registry is called with the settings of learning, its own settings or None, the language model, the
    prior, and the context C.
    """
    own = SALIENCES.settings(learning.salience, learning.options)
    found: Salience | None = SALIENCES.load(learning.salience)(learning, own, language_model, prior, context)
    return found


def uniform(learning: Learning, own: Any, language_model: LanguageModel, prior: Prior, context: int) -> None:
    """Weigh every token the same."""


def spans(learning: Learning, own: Any, language_model: LanguageModel, prior: Prior, context: int) -> "Spans":
    """Weigh tokens of salient spans."""
    return Spans(language_model, learning.tagger)


def tfidf(learning: Learning, own: Any, language_model: LanguageModel, prior: Prior, context: int) -> "TfIdf":
    """Weigh tokens by how rare their words are."""
    return TfIdf(language_model)


def camels(learning: Learning, own: Any, language_model: LanguageModel, prior: Prior, context: int) -> Camels:
    """Weigh tokens as a meta-trained network says."""
    return Camels.load(learning.salience_network, language_model, prior, context)


def new_places(spelling: Spelling, window: Window) -> tuple[str, list[Span]]:
    """The text of a window, its context included, and where its new tokens stand in it."""
    text, places = spelling((*window.inputs, window.targets[-1]))
    return text, places[-window.new :]


class Spans:
    """Weigh 1 for a token that touches a salient span, else 0."""

    def __init__(self, language_model: LanguageModel, tagger: str) -> None:
        self.spelling, self.tagger = Spelling(language_model), tagger_of(tagger)

    def read(self, window: Window) -> None:
        pass

    def weights(self, window: Window) -> Tensor:
        text, places = new_places(self.spelling, window)
        spans = self.tagger(text)
        touches = [any(start < last and first < end for first, last in spans) for start, end in places]
        return torch.tensor(touches, dtype=torch.float32)

    def finish(self) -> None:
        pass

    def reset(self) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


class TfIdf:
    """Weigh by tf(w) ln((N + 2) / (df(w) + 1)) of the word w that a token belongs to, divided by the window's mean.

    tf counts w in the document so far, the window included; df is the number of documents before it that hold w, of N
    that were read. The constants let the first document have weights, and no word none. A token between words weighs
    0, one in several words as the weightiest of them; without any word so do all. The mean of 1 makes learning rates
    those of uniform weights.

    Words are alike whatever their case. One that ends beyond the window is what of it stands there.

    Source: Spärck Jones 1972 (idf). Departure from CaMeLS' baseline: idf is of the stream so far, not of all of it.
    """

    documents: int
    frequencies: Counter[str]  # documents by word
    words: Counter[str]  # of the document so far
    text: str  # of the window that was read last, with its context
    places: list[Span]  # of its new tokens

    def __init__(self, language_model: LanguageModel) -> None:
        self.spelling = Spelling(language_model)
        self.reset()

    def read(self, window: Window) -> None:
        text, places = new_places(self.spelling, window)
        self.text, self.places, first = text, places, places[0][0]
        self.words.update(word.group().lower() for word in WORD.finditer(text) if word.end() > first)

    def weights(self, window: Window) -> Tensor:
        weights = torch.zeros(window.new)
        found = [(word.start(), word.end(), self.weight(word.group().lower())) for word in WORD.finditer(self.text)]
        place = 0
        for number, (start, end) in enumerate(self.places):
            while place < len(found) and found[place][1] <= start:
                place += 1
            here = [weight for first, _, weight in found[place : place + end - start] if first < end]
            weights[number] = max(here, default=0.0)
        return weights / weights.mean() if weights.any() else weights

    def weight(self, word: str) -> float:
        """Return the tf-idf of a word of the document."""
        return self.words[word] * math.log((self.documents + 2) / (self.frequencies[word] + 1))

    def finish(self) -> None:
        self.frequencies.update(self.words.keys())
        self.documents, self.words = self.documents + 1, Counter()

    def reset(self) -> None:
        self.documents = 0
        self.frequencies, self.words = Counter(), Counter()
        self.text, self.places = "", []

    def state(self) -> dict[str, Any]:
        return {"documents": self.documents, "frequencies": dict(self.frequencies), "words": dict(self.words)}

    def restore(self, state: dict[str, Any]) -> None:
        self.documents = state["documents"]
        self.frequencies, self.words = Counter(state["frequencies"]), Counter(state["words"])
