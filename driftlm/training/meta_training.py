"""Meta-training of a bank's networks: the loss is the frozen language model's on the answers.

Letters: R questions, N documents of the step, M remembered ones, T vectors, D width.

After "Online Adaptation of Language Models with a Memory of Amortized Contexts" (arXiv 2403.04317): the documents of
a step are the bank. Added here: a contrast of every question with every document from the first step on, a bank that
grows with what was learned, and modulations of earlier steps as further distractors, so that large banks are met.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.bank.hierarchy import in_groups
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import BankTraining
from driftlm.models.answers import answer_logits, nats_of
from driftlm.models.prompting import answer_ids, padded, prompt_ids
from driftlm.training.batches import Batch, Batches, Entries, entries_of
from driftlm.training.distillation import divergence
from driftlm.training.ranks import Ranks

LIKEST = 2  # remembered entries that each question brings into the step's attention


@dataclass
class Curriculum:
    """What grows while the networks learn.

    Attributes:
        step: steps taken.
        bank: document parts a question may see, its own included.
        accuracy: running share of answers with every token the likeliest.
    """

    step: int = 0
    bank: int = 1
    accuracy: float = 0.0


@dataclass(frozen=True)
class Losses:
    """Means over the questions of a step, and how many of each kind were asked and answered.

    Attributes:
        nats: of an answer token.
        contrast: nats of the right document among all.
        readout: nats of an answer token that is read off the modulation.
        distill: divergence from the model that has the document in its context, in nats of an answer token.
        exact: share of answers with every token the likeliest.
        share: of the attention that is on the right document.
        asked: questions by kind.
        right: those of them whose answer is exact.
    """

    nats: float
    contrast: float
    readout: float
    distill: float
    exact: float
    share: float
    asked: Counter[str]
    right: Counter[str]

    @staticmethod
    def of(terms: Tensor, kinds: Sequence[str]) -> "Losses":
        """Return the means from what each question adds to each, (R, 6), and its kind, which may be unknown (empty)."""
        nats, contrast, readout, distill, exact, share = terms.sum(dim=0).tolist()
        right = Counter(kind for kind, found in zip(kinds, terms[:, 4].tolist()) if kind and found)
        return Losses(nats, contrast, readout, distill, exact, share, Counter(filter(None, kinds)), right)

    @staticmethod
    def mean(several: Sequence["Losses"]) -> "Losses":
        """Return the mean of several steps; kinds are added up."""
        means = {name: sum(one.means[name] for one in several) / len(several) for name in several[0].means}
        asked, right = (sum((getattr(one, name) for one in several), Counter[str]()) for name in ("asked", "right"))
        return Losses(**means, asked=asked, right=right)

    @property
    def means(self) -> dict[str, float]:
        """Return all but the kinds, by name."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, Counter)}

    @property
    def kinds(self) -> dict[str, float]:
        """Return the share of exact answers by kind, the worst first."""
        shares = {kind: self.right[kind] / asked for kind, asked in sorted(self.asked.items())}
        return dict(sorted(shares.items(), key=lambda one: one[1]))


@dataclass
class Trainer:
    """Networks with their optimizer; everything that a resumed training needs is in `state`.

    Attributes:
        networks: learning.
        settings: how.
        batches: step -> what it sees.
        autocast: whether encoders and language model compute in bfloat16.
        ranks: the processes that train together.
    """

    networks: BankNetworks
    settings: BankTraining
    batches: Batches
    autocast: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    progress: Curriculum = field(default_factory=Curriculum)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(
            self.networks.parameters(), lr=self.settings.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self.progress.bank = max(self.progress.bank, self.settings.bank)
        self.memory = torch.zeros(0)  # (M, T, D), the latest modulations, newest last

    def step(self) -> Losses:
        """Take one step of the optimizer."""
        settings, progress = self.settings, self.progress
        self.networks.train()
        found = []
        for part in range(settings.accumulate):
            number = progress.step * settings.accumulate + part
            loss, losses = self.losses(self.batches(number), random.Random(f"bank {settings.seed} {number}"))
            (loss / settings.accumulate).backward()
            found.append(losses)
        self.ranks.sum_gradients(self.networks.parameters())
        torch.nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate_at(progress.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        progress.step += 1
        mean = Losses.mean(found)
        progress.accuracy = 0.98 * progress.accuracy + 0.02 * mean.exact
        if progress.accuracy > settings.grow and progress.bank < settings.batch + settings.remembered:
            progress.bank, progress.accuracy = 2 * progress.bank, 0.0
        return mean

    def losses(self, batch: Batch, generator: random.Random) -> tuple[Tensor, Losses]:
        """Return this process's part of the loss of one batch, and what all of it is made of.

        Every process knows the whole batch and draws the same numbers; it reads a share of the documents and asks a
        share of the questions. A term is divided by what the whole batch has of it, so that the parts add up.
        """
        ranks, count, settings = self.ranks, len(batch.questions), self.settings
        model, entries = self.networks.language_model, entries_of(batch, self.networks.reader.parts)
        mine = ranks.share(range(count))
        if not mine:
            raise DriftError(f"{count} questions a step are fewer than {ranks.count} processes; start fewer.")
        asking = batch.asking(mine)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.autocast):
            vectors = self.amortized(entries.rows, generator).float()
            asked = self.networks.question_vectors(asking.questions).float()
        modulation, contrast, share = self.fetched(asked, vectors, entries, mine, generator)
        nats, readout, distill, exact = self.said(asking, modulation)
        self.remember(vectors.detach())
        lengths = [len(answer_ids(model, answer)) for answer in batch.answers]
        tokens, read = sum(lengths), sum(min(length, modulation.shape[1]) for length in lengths)
        means = [nats / tokens, contrast / count, readout / read, distill / tokens, exact / count, share / count]
        terms = torch.stack(means, dim=1)
        weights = terms.new_tensor([1.0, settings.contrast, settings.readout, settings.distill])
        loss = (weights * terms[:, :4].sum(dim=0)).sum()
        return loss, Losses.of(ranks.gathered(terms.detach(), mine, count), batch.kinds)

    def fetched(
        self, asked: Tensor, vectors: Tensor, entries: Entries, mine: list[int], generator: random.Random
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the modulations of questions, their contrasts, and the shares of attention on their right documents.

        Args:
            asked: (R, T, D).
            vectors: (N, T, D), of the batch's entries.
            entries: these.
            mine: R places of the questions in the batch.
            generator: of what is drawn for the whole batch.
        """
        aggregator = self.networks.aggregator
        bank, timestamps = self.bank(vectors, entries.timestamps, generator)
        own, newest = (marked(places, len(bank))[mine].to(bank.device) for places in (entries.own, entries.newest))
        query, keys = aggregator.query_key(asked), aggregator.document_key(bank)
        contrast = self.contrast(query, keys, timestamps, own, newest) if keys.shape[1] else query.new_zeros(len(mine))
        mask = self.visible(entries.own, len(bank), generator)[mine].to(bank.device)
        scores = aggregator.document_scores(query, keys, timestamps, mask)
        seen = self.attended(scores.detach(), mask, len(vectors))
        modulation, shares = self.aggregated(asked, bank[seen], scores[:, seen], mask[:, seen], generator)
        return modulation, contrast, (shares * newest[:, seen]).sum(dim=1)

    def said(self, asking: Batch, modulation: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return per question nats, readout and divergence, summed over the tokens of its answer; 1 where that is
        exact.
        """
        model, modulated = self.networks.language_model, self.networks.modulation(modulation)
        prompts = [prompt_ids(model, question) for question in asking.questions]
        golds = [answer_ids(model, answer) for answer in asking.answers]
        readout = self.readout(modulation, golds)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.autocast):
            logits = answer_logits(model, prompts, golds, modulated)
            distill = readout.new_zeros(readout.shape)
            if self.settings.distill:
                documents = [asking.documents[own[-1]] for own in asking.own]
                distill = divergence(model, asking.questions, documents, golds, logits)
        nats, there, right = nats_of(logits, golds)
        exact = (right.sum(1) == there.sum(1)).float()
        return nats.sum(1), readout.sum(1), distill.sum(1), exact

    def contrast(self, query: Tensor, keys: Tensor, timestamps: Tensor, own: Tensor, newest: Tensor) -> Tensor:
        """Return -ln of the share of the documents about the question's subject, and -ln of the newest one's share of
        these.

        The first part leaves time out: before documents are told apart, newer ones would only be noise. (R,); a
        document's share is that of its parts together.
        """
        aggregator = self.networks.aggregator
        timeless = aggregator.document_scores(query, keys, torch.full_like(timestamps, math.nan)).log_softmax(dim=1)
        which = timeless.masked_fill(~own, -math.inf).logsumexp(dim=1)
        scores = aggregator.document_scores(query, keys, timestamps).masked_fill(~own, -math.inf).log_softmax(dim=1)
        return -(which + scores.masked_fill(~newest, -math.inf).logsumexp(dim=1))

    def readout(self, modulation: Tensor, answers: list[list[int]]) -> Tensor:
        """Return the nats of answer token i under softmax(E LN(modulation_i)), E the model's own output embeddings; (R,
        <= T).

        The way through the frozen model's layers is long: until it is found, this tells the aggregator what to fetch.
        """
        head = self.networks.language_model.model.get_output_embeddings()
        targets, there = padded([answer[: modulation.shape[1]] for answer in answers])
        logits = head(self.networks.readout(modulation[:, : targets.shape[1]]))
        nats = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten().to(logits.device), reduction="none"
        ).view(targets.shape)
        return nats * there.to(nats.device)

    def aggregated(
        self, asked: Tensor, bank: Tensor, scores: Tensor, mask: Tensor, generator: random.Random
    ) -> tuple[Tensor, Tensor]:
        """Return the modulations and shares of attention: exact, or for a share of the batches by groups in an order by
        chance.
        """
        aggregator, settings = self.networks.aggregator, self.settings
        if generator.random() >= settings.hierarchical:
            modulation, shares = aggregator(asked, bank, scores, mask)
            return modulation, shares
        order = torch.tensor(generator.sample(range(len(bank)), len(bank)), device=bank.device)
        scored = scores[:, order] if aggregator.settings.document_score else None
        modulation, shares, _ = in_groups(aggregator, asked, bank[order], settings.group, scored, mask[:, order])
        return modulation, shares[:, order.argsort()]

    def amortized(self, rows: list[list[int]], generator: random.Random) -> Tensor:
        """Return the vectors (N, T, D). With backpropagation dropout a random share holds the graph, its gradient
        scaled up.

        φ̃ = sg(φ) + (N / H)(φ - sg(φ)) for H entries drawn without regard to the questions: the value is φ, and the
        expected gradient that of all N.
        """
        ranks, every = self.ranks, range(len(rows))
        kept = math.ceil(self.settings.kept * len(rows))
        least = max(ranks.count, 2 if kept < len(rows) else 1)
        if kept < least:
            raise DriftError(
                f"`BankTraining.kept` {self.settings.kept} leaves {kept} of {len(rows)} document parts a gradient; "
                f"give a share that keeps at least {least}."
            )
        chosen = sorted(generator.sample(every, kept)) if kept < len(rows) else list(every)
        others = ranks.share(sorted(set(every) - set(chosen)))
        places = ranks.share(chosen)
        made = [scaled_gradient(self.networks.amortize_rows([rows[place] for place in places]), len(rows) / kept)]
        if others:
            made.append(self.without_graph([rows[place] for place in others]))
        return ranks.gathered(torch.cat(made), [*places, *others], len(rows))

    @torch.no_grad()
    def without_graph(self, rows: list[list[int]]) -> Tensor:
        """Return the modulations that hold no graph."""
        return self.networks.amortize_rows(rows)

    def bank(self, vectors: Tensor, timestamps: list[float], generator: random.Random) -> tuple[Tensor, Tensor]:
        """Return this step's vectors and, once the bank outgrows them, remembered ones; with a timestamp each."""
        wanted = min(len(self.memory), max(0, self.progress.bank - self.settings.batch))
        if wanted:
            vectors = torch.cat([vectors, self.memory[-wanted:].to(vectors)])
            timestamps = [*timestamps, *(generator.random() for _ in range(wanted))]
        return vectors, torch.tensor(timestamps, dtype=torch.float64, device=vectors.device)

    def visible(self, own: list[list[int]], entries: int, generator: random.Random) -> Tensor:
        """Return (R, entries) bool: a question's own entries and others by chance, as many as the curriculum's bank in
        all.
        """
        if self.progress.bank >= entries:
            return torch.ones(len(own), entries, dtype=torch.bool)
        mask = marked(own, entries)
        for number, places in enumerate(own):
            others = sorted(set(range(entries)) - set(places))
            wanted = max(0, min(self.progress.bank - len(places), len(others)))
            mask[number, generator.sample(others, wanted)] = True
        return mask

    def attended(self, scores: Tensor, mask: Tensor, entries: int) -> Tensor:
        """Return (N + M,) bool: visible entries of the step, and of the remembered ones the likest to each question.

        All are scored and supersede each other; attention to thousands would cost more than the rest of the step,
        and what the unlikely ones of them would get is what the contrast holds down.
        """
        seen = mask.clone()
        if scores.shape[1] > entries:
            likest = scores[:, entries:].topk(min(LIKEST, scores.shape[1] - entries), dim=1).indices + entries
            seen[:, entries:] = False
            seen = seen.scatter(1, likest, mask.gather(1, likest))
        return self.ranks.summed(seen.any(dim=0).float()) > 0

    def remember(self, vectors: Tensor) -> None:
        """Keep the latest modulations for later banks."""
        kept = torch.cat([self.memory.to(vectors), vectors]) if len(self.memory) else vectors
        self.memory = kept[-self.settings.remembered :] if self.settings.remembered else kept[:0]

    def state(self) -> dict[str, Any]:
        """Return everything a resumed training needs."""
        return {
            "networks": self.networks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "memory": self.memory,
            "progress": asdict(self.progress),
            "settings": asdict(self.settings),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; the length of the training may be another."""
        defaults = {field.name: field.default for field in fields(BankTraining)}
        before, now = defaults | state["settings"], asdict(self.settings)
        other = [name for name in now if name != "steps" and before.get(name) != now[name]]
        if other:
            raise DriftError(
                f"the checkpoint was made with {other[0]} {before.get(other[0])}, not {now[other[0]]}; give the same "
                f"settings, or another `TrainingRun.out`."
            )
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.memory, self.progress = state["memory"], Curriculum(**state["progress"])


def scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """Return the value itself, its gradient times `factor`.

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> scaled_gradient(2 * x, 4.0).backward()
        >>> x.grad
        tensor(8.)
    """
    constant = value.detach()
    return constant + factor * (value - constant)


def marked(places: list[list[int]], entries: int) -> Tensor:
    """Return (R, entries) bool: where each question's places are.

    Example:
        >>> marked([[0], [0, 2]], 3).int().tolist()
        [[1, 0, 0], [1, 0, 1]]
    """
    mask = torch.zeros(len(places), entries, dtype=torch.bool)
    for number, one in enumerate(places):
        mask[number, one] = True
    return mask
