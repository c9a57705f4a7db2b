"""Memories made of others: a language model whose weights may learn, and sources that know what was read before.

Running text holds no questions, so what the sources supply for a window is asked for by the text of the window before
it; a document's first window gets nothing. Documents enter the sources when they are finished.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.answering import answers, prompts_of
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import NetworksSettings
from driftlm.memories.bank.source import BankSource
from driftlm.memories.base import Answer, Counts, Event, Example, Memory, Source, State, Supply
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.memories.weights.learning import FROZEN
from driftlm.memories.weights.prior import StaticModel
from driftlm.models.loading import LanguageModel, refuse_long_context
from driftlm.models.modulated import Before
from driftlm.models.prompting import tokens
from driftlm.streams.documents import Document
from driftlm.streams.windows import Window, Windows

TINY = NetworksSettings(vectors=2, encoder_width=16, encoder_layers=1, encoder_heads=2, blocks=1, heads=2, head_width=8)
EXAMPLES = {  # for the conformance tests
    "prefix": TINY,
    "low rank": replace(TINY, modulation="lora", rank=2),
    "without document scores": replace(TINY, document_score=False),
    "short parts": replace(TINY, longest=4),
}


class ComposedMemory(Memory):
    """A `WeightMemory`, which may learn or not, that reads behind what its sources supply.

    The tokens that are supplied are taken out of the context, so that every composition has the same one; where
    C = S there is no room for any. Sources work with the prior: what they keep of a document does not change when the
    weights do.

    Args:
        weights: reads, and learns as its own settings say.
        sources: asked in this order; one of them at most may modulate the model.
        keeps: whether finished documents enter the sources; without, these stay as they are.

    Raises:
        DriftError: for windows that the model's positions cannot hold with what is supplied before them.
    """

    kind = "memory with sources"
    can_generate = True

    def __init__(self, weights: WeightMemory, sources: Sequence[Source], keeps: bool = True) -> None:
        if sum(source.modulates for source in sources) > 1:
            raise DriftError("two of the memories modulate the model at once; give one of them.")
        self.weights, self.sources, self.keeps = weights, list(sources), keeps
        self.language_model, self.windows = weights.language_model, weights.windows
        self.refuse_long(self.windows)
        self.meta_trained = all(source.meta_trained for source in sources) and not weights.parameters
        self.begin()

    def refuse_long(self, windows: Windows) -> None:
        """Refuse windows that the model's positions cannot hold with a modulation before them."""
        taken = sum(source.positions for source in self.sources if source.modulates)
        refuse_long_context(self.language_model, windows, taken)

    def begin(self) -> None:
        """Before the first window of a document."""
        self.read: list[int] = []  # its tokens so far
        self.question: list[int] = []  # those of its latest window
        self.asked: tuple[list[int], Before] | None = None
        # Where a source holds something, positions stay free for what it will supply.
        self.weights.room = sum(source.positions for source in self.sources if source.documents)
        self.weights.cache = self.weights.empty_cache()

    @property
    def counts(self) -> Counts:  # type: ignore[override]  # sums cannot be set
        """Of the weights; every document that a source keeps counts as an update."""
        return replace(self.weights.counts, updates=self.weights.counts.updates + self.stored)

    @property
    def stored(self) -> int:
        """Documents in the sources."""
        return sum(len(source.documents) for source in self.sources)

    @property
    def events(self) -> tuple[Event, ...]:  # type: ignore[override]
        """Of the weights."""
        return self.weights.events

    def static(self) -> StaticModel:
        """A memory that reads the same windows with the prior and no source."""
        return self.weights.static()

    # ---- score, then learn ------------------------------------------------------------------------------------------

    def score(self, window: Window) -> Tensor:
        """Nats of each new token, (S,) float32, behind what the sources supply."""
        return self.weights.score(window, self.before())

    def before(self) -> Before:
        """What stands before the next window."""
        if not self.question or not self.stored:
            return Before()
        if self.asked is None or self.asked[0] != self.question:
            text = self.language_model.tokenizer.decode(self.question)
            supply = self.supplied([text])
            found = tokens(self.language_model, supply.texts[0]) if supply.texts[0] else []
            if found and not self.windows.sink:  # else BOS is there
                found = [self.language_model.bos, *found]
            self.asked = self.question, Before(tuple(found[: self.windows.kept]), supply.modulated)
        return self.asked[1]

    @torch.no_grad()
    def supplied(self, questions: Sequence[str]) -> Supply:
        """What the sources supply for some questions, put together."""
        with self.weights.prior.in_force():
            found = [source.supply(questions) for source in self.sources if source.documents]
        return Supply.of(found, len(questions))

    def learn(self, window: Window) -> None:
        """Let the weights learn, and advance the question."""
        self.score(window)
        self.weights.learn(window)
        self.question = list(window.targets)
        self.read += window.targets

    def finish(self, document: str) -> None:
        """The document enters every source, in place of an earlier one of its id; later documents count as newer."""
        self.weights.finish(document)
        if self.read and self.keeps:
            text = self.language_model.tokenizer.decode(self.read)
            with torch.no_grad(), self.weights.prior.in_force():
                for source in self.sources:
                    source.add(document, text)
        self.begin()

    @torch.no_grad()
    def add_all(self, documents: Sequence[Document]) -> None:
        """Documents enter every source at once, and none is read by the weights."""
        with self.weights.prior.in_force():
            for source in self.sources:
                source.add_all(documents)
        self.begin()

    def stay(self, windows: Windows) -> None:
        """From now on nothing is learned or kept, and documents are cut by these windows: it is only measured.

        Raises:
            DriftError: for windows that the model's positions cannot hold with what is supplied before them.
        """
        self.refuse_long(windows)
        self.windows = self.weights.windows = windows
        self.weights.stop_learning()
        self.keeps = False
        self.begin()

    @torch.no_grad()
    def answer(self, question: str) -> Answer:
        """A greedy answer by the weights as they are, behind what the sources supply; the latter's first documents."""
        supply = self.supplied([question])
        (answer,) = answers(self.language_model, prompts_of(self.language_model, [question], supply), supply)
        return answer

    # ---- what callers ask of it -------------------------------------------------------------------------------------

    @property
    def forgets(self) -> bool:
        """Whether the weights do."""
        return self.weights.forgets

    @property
    def documents(self) -> Sequence[str]:
        """Return the ids that the sources hold, the oldest first."""
        return self.sources[0].documents if self.sources else ()

    def learners(self) -> dict[str, WeightMemory]:
        """Return the weights."""
        return {"weights/": self.weights}

    def learned(self) -> WeightMemory:
        """Return the weights."""
        return self.weights

    # ---- forget, state ----------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Back to the prior, with empty sources."""
        self.weights.reset()
        for source in self.sources:
            source.reset()
        self.begin()

    def forget(self, document: str) -> None:
        """Be as if the document had never been read; all of the memories forget it, or none does.

        Raises:
            DriftError: where weights learned, for a document that is not held, or in the middle of reading one.
        """
        if self.weights.parameters:
            self.weights.forget(document)
        if self.read:
            raise DriftError(f"{document!r} cannot be forgotten while a document is read; finish it first.")
        if not all(document in source.documents for source in self.sources):
            raise DriftError(f"no document {document!r} was read; give the id of one that was.")
        for source in self.sources:
            source.drop(document)
        self.begin()

    def state(self) -> State:
        """Those of the weights and of the sources, and the document so far."""
        states = {"weights": self.weights.state()}
        states |= {f"source {number}": source.state() for number, source in enumerate(self.sources)}
        tensors = {f"{part}/{name}": value for part, one in states.items() for name, value in one.tensors.items()}
        values = {part: one.values for part, one in states.items()}
        return State(tensors, values | {"read": self.read.copy(), "question": self.question.copy()})

    def restore(self, state: State) -> None:
        """Go on exactly where `state` was taken (same model, same settings)."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in state.tensors.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = value
        for number, source in enumerate(self.sources):
            source.restore(State(parts.get(f"source {number}", {}), state.values[f"source {number}"]))
        self.begin()
        self.weights.restore(State(parts.get("weights", {}), state.values["weights"]))
        self.read, self.question = list(state.values["read"]), list(state.values["question"])

    @staticmethod
    def examples() -> dict[str, Example]:
        """None: what is registered is a composition with a name."""
        return {}


class BankMemory(ComposedMemory):
    """A frozen language model behind the modulation that a bank gives for the text so far.

    Example (the bundled networks, which know a world of facts):
        >>> from driftlm import Document, Windows, read_stream
        >>> from driftlm.memories.bank.networks import load_networks
        >>> memory = BankMemory(load_networks(), Windows(context=128, stride=64))
        >>> news = Document("1", "Ada Lowell lives in Lisbon. She is a painter. She plays the harp. She owns a cat.")
        >>> _ = list(read_stream(memory, [news]))
        >>> memory.answer("Where does Ada Lowell live?").text
        'Lisbon'

    Args:
        networks: of the bank, around the language model.
        windows: how documents are cut. The modulation's positions come before them.
        keeps: whether finished documents enter the bank.

    Raises:
        DriftError: for windows that the model's positions cannot hold, with the modulation before them.
    """

    def __init__(self, networks: BankNetworks, windows: Windows = Windows(), keeps: bool = True) -> None:  # noqa: B008
        super().__init__(WeightMemory(networks.language_model, windows, FROZEN), [BankSource(networks)], keeps)

    @classmethod
    def build(cls, language_model: LanguageModel, settings: Any, own: Any, shared: Any) -> "ComposedMemory":
        """Make one of the bank that the settings name; arguments as of `Memory.build`."""
        source = BankSource.build(language_model, settings, None, shared.get("bank"))
        return ComposedMemory(WeightMemory(language_model, settings.windows, FROZEN), [source])

    @staticmethod
    def examples() -> dict[str, Example]:
        """Settings that the conformance tests try, by name; random networks, so what is read changes scores at most."""

        def example(settings: NetworksSettings) -> Example:
            def make(model: LanguageModel, windows: Windows, folder: Path, idle: bool) -> BankMemory:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    networks = BankNetworks(model, settings)
                    for parameter in networks.modulation.parameters():
                        if not parameter.any():  # a modulation that begins as none
                            torch.nn.init.normal_(parameter)
                return BankMemory(networks, windows, keeps=not idle)

            return make

        return {name: example(settings) for name, settings in EXAMPLES.items()}
