"""Meta-training of token weights, through the gradient steps that they steer.

Letters: S tokens of a document, K documents of a step, V vocabulary; θ what the inner steps change, φ the network.

θ_k = θ_{k-1} - η ∇_θ sum_t w_t nats_t(θ_{k-1}) / S, w = network_φ(document k); the loss of φ is the nats of an answer
token under θ_K, of questions about all K documents, plus c KL(p_θ₀ || p_θK) on an unrelated text, θ₀ before the first.

Source: Hu et al. 2023, "Meta-Learning Online Adaptation of Language Models" (arXiv 2305.15076), section 3 and the
authors' code (K = 6, c = 0.1, θ carried from step to step and reset every 24 documents). Departure: a document's loss
is divided by its own tokens, not by the length it is padded to.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from driftlm.core.errors import DriftError
from driftlm.memories.weights.camels import SalienceNetwork, hidden_states
from driftlm.models.answers import answer_nats
from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import answer_ids, prompt_ids
from driftlm.models.trainable import choose
from driftlm.training.settings import SalienceTraining

Result = TypeVar("Result")
Values = dict[str, Tensor]  # θ, by the name of the parameter
Weigh = Callable[[Tensor], Tensor]  # ids (1 + S,) -> w (S,)


@dataclass(frozen=True)
class Episode:
    """What a step sees: K documents, a question or more about them, and a text that has nothing to do with either."""

    documents: list[str]
    questions: list[str]
    answers: list[str]
    unrelated: str


@dataclass(frozen=True)
class Losses:
    """Of a step.

    Attributes:
        nats: of an answer token, after the inner steps.
        before: the same, before them.
        locality: divergence on the unrelated text, nats a token.
        weight: mean weight of a token.
        spread: standard deviation of the weights.
    """

    nats: float
    before: float
    locality: float
    weight: float
    spread: float

    @staticmethod
    def mean(several: Sequence["Losses"]) -> dict[str, float]:
        """Return the mean of several steps, by name."""
        return {name: sum(vars(one)[name] for one in several) / len(several) for name in vars(several[0])}


class Inner:
    """A language model with its parameters as arguments, so that gradients flow through what they were made from.

    Args:
        language_model: changed as `choose` does; the values of its parameters never change.
        learn: what inner steps change: `all`, `lora` or `norms`.
        rate: η.
        second_order: whether gradients depend on the parameters they were taken at.
        longest: tokens of a text that are read, BOS included.
    """

    def __init__(
        self, language_model: LanguageModel, learn: str, rate: float, *, second_order: bool = True, longest: int = 512
    ) -> None:
        self.language_model, self.rate, self.longest = language_model, rate, longest
        self.second_order = second_order
        self.start: Values = {n: p.detach() for n, p in choose(language_model, learn).parameters.items()}
        self.called = Called(language_model.model)

    def under(self, values: Values, function: Callable[[], Result]) -> Result:
        """Return what `function` returns while the model has other parameters; its attention can be differentiated
        twice.
        """
        named = {f"model.{name}": value for name, value in values.items()}
        with sdpa_kernel(SDPBackend.MATH):
            result: Result = functional_call(self.called, named, (function,))
        return result

    def ids(self, text: str) -> Tensor:
        """Return (1 + S,), BOS first."""
        return torch.tensor(self.language_model.encode(text)[0][: self.longest], device=self.language_model.device)

    def logits(self, values: Values, ids: Tensor) -> Tensor:
        """Return (S, V), what predicts each token but BOS."""
        logits: Tensor = self.under(
            values, lambda: self.language_model.model(input_ids=ids[None, :-1], use_cache=False).logits[0]
        )
        return logits

    def stepped(self, values: Values, ids: Tensor, weights: Tensor, graph: bool) -> Values:
        """Return θ after one step on a document, S being its real tokens."""
        at = values if graph and self.second_order else {n: v.detach() for n, v in values.items()}
        at = {name: value if value.requires_grad else value.requires_grad_() for name, value in at.items()}
        # Not the scorer's own loss, whose gradient has no gradient.
        nats = F.cross_entropy(self.logits(at, ids), ids[1:], reduction="none")
        loss = (weights * nats).sum() / len(nats)
        gradients = torch.autograd.grad(loss, list(at.values()), create_graph=graph, allow_unused=True)
        return {
            name: value if gradient is None else value - self.rate * gradient
            for (name, value), gradient in zip(values.items(), gradients, strict=True)
        }

    def adapted(self, values: Values, documents: Sequence[str], weigh: Weigh, graph: bool = False) -> Values:
        """Return θ_K after the documents, one after the other."""
        for document in documents:
            ids = self.ids(document)
            values = self.stepped(values, ids, weigh(ids), graph)
        return values if graph else {name: value.detach() for name, value in values.items()}

    def answers(self, values: Values, episode: Episode) -> Tensor:
        """Return the nats of an answer token, without any document in the context."""
        model = self.language_model
        prompts = [prompt_ids(model, question) for question in episode.questions]
        golds = [answer_ids(model, answer) for answer in episode.answers]
        nats, there, _ = self.under(values, lambda: answer_nats(model, prompts, golds, None))
        return nats.sum() / there.sum()

    def divergence(self, before: Values, after: Values, text: str) -> Tensor:
        """Return KL(p_before || p_after) on a text, nats a token."""
        ids = self.ids(text)
        with torch.no_grad():
            teacher = self.logits(before, ids).log_softmax(-1)
        student = self.logits(after, ids).log_softmax(-1)
        return F.kl_div(student, teacher, reduction="sum", log_target=True) / (len(ids) - 1)


class Called(nn.Module):
    """Runs a function; `functional_call` on it changes the parameters of `model` meanwhile."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Result]) -> Result:
        return function()


@dataclass
class StepCounts:
    """What is counted: steps of the optimizer, and documents since the inner model was at its start."""

    step: int = 0
    documents: int = 0


class SalienceTrainer:
    """A network with its optimizer; everything that a resumed training needs is in `state`.

    Args:
        network: learning.
        reader: the frozen model over whose hidden states it works.
        inner: the model that reads, and answers.
        settings: how.
        episodes: step -> what it sees.
    """

    def __init__(
        self,
        network: SalienceNetwork,
        reader: LanguageModel,
        inner: Inner,
        settings: SalienceTraining,
        episodes: Callable[[int], Episode],
    ) -> None:
        self.network, self.reader, self.inner, self.settings = network, reader, inner, settings
        self.episodes, self.progress = episodes, StepCounts()
        self.optimizer = torch.optim.Adam(network.parameters(), lr=settings.rate)
        self.values = inner.start

    def weigh(self, ids: Tensor) -> Tensor:
        """Return the weights w (S,) of a document's tokens."""
        weights: Tensor = self.network(hidden_states(self.reader, ids)[1:])
        return weights

    def step(self) -> Losses:
        """Take one step of the optimizer."""
        if self.progress.documents >= self.settings.reset:
            self.values, self.progress.documents = self.inner.start, 0
        episode = self.episodes(self.progress.step)
        loss, losses, after = self.losses(episode)
        loss.backward(inputs=list(self.network.parameters()))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.values = {name: value.detach() for name, value in after.items()}
        self.progress.step += 1
        self.progress.documents += len(episode.documents)
        return losses

    def losses(self, episode: Episode) -> tuple[Tensor, Losses, Values]:
        """Return the loss of an episode, what it is made of, and θ_K."""
        seen: list[Tensor] = []

        def weigh(ids: Tensor) -> Tensor:
            seen.append(self.weigh(ids))
            return seen[-1]

        after = self.inner.adapted(self.values, episode.documents, weigh, graph=True)
        nats = self.inner.answers(after, episode)
        locality = self.inner.divergence(self.values, after, episode.unrelated)
        with torch.no_grad():
            before = self.inner.answers(self.values, episode)
        weights = torch.cat(seen).detach()
        facts = (nats.item(), before.item(), locality.item(), weights.mean().item(), weights.std().item())
        return nats + self.settings.locality * locality, Losses(*facts), after

    def graph_size(self) -> int:
        """Return the bytes that the graph of a step holds, measured on one.

        Raises:
            DriftError: as soon as they are more than the settings' `memory`.
        """
        with counted_graph(self.settings.memory) as size:
            self.losses(self.episodes(0))
        return size[0]

    def state(self) -> dict[str, Any]:
        """Return everything a resumed training needs."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "values": self.values if self.progress.documents else {},
            "progress": asdict(self.progress),
            "settings": asdict(self.settings),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; the number of steps and the limit of memory may be others."""
        before, now = state["settings"], asdict(self.settings)
        other = [name for name in now if name not in ("steps", "memory") and before.get(name) != now[name]]
        if other:
            raise DriftError(
                f"the checkpoint was made with {other[0]} {before.get(other[0])}, not {now[other[0]]}; give the same "
                f"settings, or another `TrainingRun.out`."
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = StepCounts(**state["progress"])
        self.values = dict(state["values"]) or self.inner.start


@contextmanager
def counted_graph(limit: int = 0) -> Iterator[list[int]]:
    """Count the bytes that graphs made inside the block hold for their backward pass, each storage once.

    Args:
        limit: MiB; 0 for none.

    Raises:
        DriftError: when the limit is passed, and before more is taken.

    Example:
        >>> x = torch.ones(1024, requires_grad=True)
        >>> with counted_graph() as size:
        ...     y = x.exp().sin()  # both keep exp(x)
        >>> size
        [4096]
    """
    size, seen = [0], set[int]()

    def kept(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            size[0] += storage.nbytes()
        if limit and size[0] > limit << 20:
            raise DriftError(
                f"the graph of a step holds more than `SalienceTraining.memory` {limit} MiB; give fewer "
                f"`SalienceTraining.documents`, a lower `SalienceTraining.longest`, "
                f"`SalienceTraining.learn` lora or norms, or a smaller model with the same tokenizer, whose network "
                f"serves this one too."
            )
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        yield size
