"""Meta-training of a bank's networks: the loss is the frozen language model's on the answers.

Letters: R questions, N documents of the step, M remembered ones, T vectors, D width.

After "Online Adaptation of Language Models with a Memory of Amortized Contexts" (arXiv 2403.04317): the documents of
a step are the bank. Added here: a contrast of every question with every document from the first step on, a bank that
grows with what was learned, and modulations of earlier steps as further distractors, so that large banks are met.
"""

import math
import random
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from driftlm.bank.batches import Batch, Batches
from driftlm.bank.modulate import answer_nats
from driftlm.bank.networks import BankNetworks
from driftlm.bank.settings import BankTraining
from driftlm.errors import DriftError
from driftlm.models.prompting import answer_ids, padded, prompt_ids

LIKEST = 2  # remembered documents that each question brings into the step's attention


@dataclass
class Progress:
    """What grows while the networks learn.

    Attributes:
        step: steps taken.
        bank: documents a question may see, its own included.
        accuracy: running share of answers with every token the likeliest.
    """

    step: int = 0
    bank: int = 1
    accuracy: float = 0.0


@dataclass(frozen=True)
class Losses:
    """Means of a step: nats of an answer token, the contrast and the readout; exact answers; attention on the right."""

    nats: float
    contrast: float
    readout: float
    exact: float
    share: float


@dataclass
class Trainer:
    """Networks with their optimizer; everything that a resumed training needs is in `state`.

    Attributes:
        networks: learning.
        settings: how.
        batches: step -> what it sees.
        autocast: whether encoders and language model compute in bfloat16.
    """

    networks: BankNetworks
    settings: BankTraining
    batches: Batches
    autocast: bool = False
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(
            self.networks.parameters(), lr=self.settings.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self.progress.bank = max(self.progress.bank, self.settings.bank)
        self.memory = torch.zeros(0)  # (M, T, D), the latest modulations, newest last

    def step(self) -> Losses:
        """One step of the optimizer."""
        settings, progress = self.settings, self.progress
        self.networks.train()
        found = []
        for part in range(settings.accumulate):
            number = progress.step * settings.accumulate + part
            loss, losses = self.losses(self.batches(number), random.Random(f"bank {settings.seed} {number}"))
            (loss / settings.accumulate).backward()
            found.append(losses)
        torch.nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate_at(progress.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        progress.step += 1
        mean = Losses(*(sum(values) / len(found) for values in zip(*(asdict(one).values() for one in found))))
        progress.accuracy = 0.98 * progress.accuracy + 0.02 * mean.exact
        if progress.accuracy > settings.grow and progress.bank < settings.batch + settings.remembered:
            progress.bank, progress.accuracy = 2 * progress.bank, 0.0
        return mean

    def losses(self, batch: Batch, generator: random.Random) -> tuple[Tensor, Losses]:
        """The loss of one batch, and what it is made of."""
        networks, aggregator = self.networks, self.networks.aggregator
        device = networks.language_model.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            vectors = self.amortized(batch, generator).float()
            asked = networks.question_vectors(batch.questions).float()
        documents = len(vectors)
        bank, moments = self.bank(vectors, batch, generator)
        query, keys = aggregator.query_key(asked), aggregator.document_key(bank)
        contrast = self.contrast(query, keys, moments, batch.own) if keys.shape[1] else query.new_zeros(())
        mask = self.visible(batch, len(bank), generator).to(device)
        scores = aggregator.document_scores(query, keys, moments, mask)
        seen = self.attended(scores.detach(), mask, documents)
        modulation, shares = aggregator(asked, bank[seen], scores[:, seen], mask[:, seen])
        prefix = networks.modulation(modulation)
        model = networks.language_model
        prompts = [prompt_ids(model, question) for question in batch.questions]
        golds = [answer_ids(model, answer) for answer in batch.answers]
        readout = self.readout(modulation, golds)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            if self.autocast:
                prefix = [(k.bfloat16(), v.bfloat16()) for k, v in prefix]
            nats, there, right = answer_nats(model, prompts, golds, prefix)
        answer = nats.sum() / there.sum()
        self.remember(vectors[:documents].detach())
        newest = torch.tensor([own[-1] for own in batch.own], device=device)
        places = seen.cumsum(0)[newest] - 1
        loss = answer + self.settings.contrast * contrast + self.settings.readout * readout
        return loss, Losses(
            answer.item(),
            contrast.item(),
            readout.item(),
            (right.sum(1) == there.sum(1)).float().mean().item(),
            shares.gather(1, places[:, None]).mean().item(),
        )

    def contrast(self, query: Tensor, keys: Tensor, moments: Tensor, own: list[list[int]]) -> Tensor:
        """-ln of the share of the documents about the question's subject, and -ln of the newest one's share of these.

        The first part leaves time out: before documents are told apart, newer ones would only be noise.
        """
        aggregator = self.networks.aggregator
        about = torch.zeros(len(query), len(keys), dtype=torch.bool, device=keys.device)
        for number, documents in enumerate(own):
            about[number, documents] = True
        newest = torch.tensor([documents[-1] for documents in own], device=keys.device)
        timeless = aggregator.document_scores(query, keys, torch.full_like(moments, math.nan)).log_softmax(dim=1)
        which = timeless.masked_fill(~about, -math.inf).logsumexp(dim=1)
        scores = aggregator.document_scores(query, keys, moments).masked_fill(~about, -math.inf).log_softmax(dim=1)
        return -(which + scores.gather(1, newest[:, None])[:, 0]).mean()

    def readout(self, modulation: Tensor, answers: list[list[int]]) -> Tensor:
        """Nats of answer token i under softmax(E LN(modulation_i)), E the model's own output embeddings; the mean.

        The way through the frozen model's layers is long: until it is found, this tells the aggregator what to fetch.
        """
        head = self.networks.language_model.model.get_output_embeddings()
        targets, there = padded([answer[: modulation.shape[1]] for answer in answers])
        logits = head(self.networks.readout(modulation[:, : targets.shape[1]]))
        nats = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten().to(logits.device), reduction="none"
        ).view(targets.shape)
        return (nats * there.to(nats.device)).sum() / there.sum()

    def amortized(self, batch: Batch, generator: random.Random) -> Tensor:
        """(N, T, D). With backpropagation dropout a random share holds the graph, its gradient scaled up.

        φ̃ = sg(φ) + (N / H)(φ - sg(φ)) for H documents drawn without regard to the questions: the value is φ, and the
        expected gradient that of all N.
        """
        networks = self.networks
        rows = [networks.reader.parts(text)[0] for text in batch.documents]
        kept = math.ceil(self.settings.kept * len(rows))
        if kept == len(rows):
            return networks.amortize_rows(rows)
        if kept < 2:
            raise DriftError(
                f"--kept {self.settings.kept} leaves {kept} of {len(rows)} documents a gradient; "
                f"give a share that keeps at least 2."
            )
        chosen = sorted(generator.sample(range(len(rows)), kept))
        others = sorted(set(range(len(rows))) - set(chosen))
        return scattered(
            scaled_gradient(networks.amortize_rows([rows[number] for number in chosen]), len(rows) / kept),
            self.without_graph([rows[number] for number in others]),
            torch.tensor([*chosen, *others]),
        )

    @torch.no_grad()
    def without_graph(self, rows: list[list[int]]) -> Tensor:
        """Modulations that hold no graph."""
        return self.networks.amortize_rows(rows)

    def bank(self, vectors: Tensor, batch: Batch, generator: random.Random) -> tuple[Tensor, Tensor]:
        """This step's vectors and, once the bank outgrows them, remembered ones; with a moment each."""
        moments = list(batch.moments)
        wanted = min(len(self.memory), max(0, self.progress.bank - self.settings.batch))
        if wanted:
            vectors = torch.cat([vectors, self.memory[-wanted:].to(vectors)])
            moments += [generator.random() for _ in range(wanted)]
        return vectors, torch.tensor(moments, dtype=torch.float64, device=vectors.device)

    def visible(self, batch: Batch, entries: int, generator: random.Random) -> Tensor:
        """(R, entries) bool: a question's own documents and others by chance, `progress.bank` in all."""
        if self.progress.bank >= entries:
            return torch.ones(len(batch.own), entries, dtype=torch.bool)
        mask = torch.zeros(len(batch.own), entries, dtype=torch.bool)
        for number, own in enumerate(batch.own):
            mask[number, own] = True
            others = sorted(set(range(entries)) - set(own))
            mask[number, generator.sample(others, max(0, min(self.progress.bank - len(own), len(others))))] = True
        return mask

    def attended(self, scores: Tensor, mask: Tensor, documents: int) -> Tensor:
        """(N + M,) bool: visible documents of the step, and of the remembered ones the likest to each question.

        All are scored and supersede each other; attention to thousands would cost more than the rest of the step,
        and what the unlikely ones of them would get is what the contrast holds down.
        """
        seen = mask.any(dim=0)
        if scores.shape[1] > documents:
            likest = scores[:, documents:].topk(min(LIKEST, scores.shape[1] - documents), dim=1).indices + documents
            near = torch.zeros_like(seen).index_fill(0, likest.flatten(), True)
            near[:documents] = True
            seen = seen & near
        return seen

    def remember(self, vectors: Tensor) -> None:
        """Keep the latest modulations for later banks."""
        kept = torch.cat([self.memory.to(vectors), vectors]) if len(self.memory) else vectors
        self.memory = kept[-self.settings.remembered :] if self.settings.remembered else kept[:0]

    def state(self) -> dict[str, Any]:
        """Everything a resumed training needs."""
        return {
            "networks": self.networks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "memory": self.memory,
            "progress": asdict(self.progress),
            "settings": asdict(self.settings),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; the length of the training may be another."""
        before, now = state["settings"], asdict(self.settings)
        other = [name for name in now if name != "steps" and before.get(name) != now[name]]
        if other:
            raise DriftError(
                f"the checkpoint was made with {other[0]} {before.get(other[0])}, not {now[other[0]]}; give the same "
                f"settings, or another --out."
            )
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.memory, self.progress = state["memory"], Progress(**state["progress"])


def scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """The value itself, its gradient times `factor`.

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> scaled_gradient(2 * x, 4.0).backward()
        >>> x.grad
        tensor(8.)
    """
    constant = value.detach()
    return constant + factor * (value - constant)


def scattered(kept: Tensor, others: Tensor, places: Tensor) -> Tensor:
    """Rows of both, put where they belong: `places` names those of `kept`, then those of `others`."""
    return torch.cat([kept, others])[places.argsort().to(kept.device)]
