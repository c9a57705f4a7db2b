"""A bank made ready to be asked in one way of aggregating it.

Letters: R questions, N entries, T vectors, D width, B documents.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.bank.aggregate import preselected
from driftlm.memories.bank.hierarchy import in_groups
from driftlm.memories.bank.modulations import Modulations
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.reduction import Reduced, averaged, nearest_averaged, pruned
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.models.modulated import Modulated

KEPT_BYTES = 1 << 28  # of keys and values that are computed once for several questions


class AskedBank:
    """A bank on the model's device, made smaller once, its keys and values computed once where they are few.

    Args:
        networks: that made the bank.
        bank: at least one entry.
        aggregation: of every question.
        several: whether several questions will be asked: for one alone nothing is worth being kept.

    Raises:
        DriftError: where documents are to be told apart by scores that the networks do not give.
    """

    def __init__(
        self, networks: BankNetworks, bank: Modulations, aggregation: Aggregation = EXACT, several: bool = False
    ) -> None:
        settings, device = networks.aggregator.settings, networks.language_model.device
        if aggregation.way == "nearest" and not settings.document_score:
            raise DriftError("these networks score no documents, so none is nearest; give another `Aggregation.way`.")
        self.networks, self.aggregation, self.documents = networks, aggregation, bank.documents
        whole = Reduced.of(bank.vectors.to(device), bank.keys.to(device), bank.timestamps.to(device))
        self.entries = reduced(whole, aggregation)
        members = self.entries.members
        counts = torch.tensor([len(inside) for inside in members])
        # Of every first entry that is left: the entry it is in now, its document, its part of that entry's shares.
        self.inside = torch.arange(len(members)).repeat_interleave(counts).to(device)
        self.owner = bank.owner[torch.tensor([one for inside in members for one in inside])].to(device)
        self.part = (1 / counts).repeat_interleave(counts).to(device)
        size = 2 * settings.blocks * settings.heads * settings.head_width * settings.vectors * len(members) * 4
        keeps = several and size <= KEPT_BYTES and aggregation.way not in ("nearest", "hierarchical")
        self.projected = networks.aggregator.project(self.entries.vectors.float()) if keeps else None

    @torch.no_grad()
    def asked(self, questions: Sequence[str]) -> tuple[Modulated, Tensor]:
        """Return what lets the model answer each question, and its documents' shares of the attention, (R, B).

        The members of an entry have alike parts of its share.
        """
        modulation, shares = self.aggregated(self.networks.question_vectors(questions))
        modulated: Modulated = self.networks.modulation(modulation)
        members = shares.float()[:, self.inside] * self.part
        summed = members.new_zeros(len(questions), self.documents).index_add(1, self.owner, members)
        return modulated, summed.clamp(max=1)  # rounding may go beyond

    def aggregated(self, question: Tensor) -> tuple[Tensor, Tensor]:
        """Aggregate (R, T, D) to the modulation (R, T, D) and the shares of entries (R, N)."""
        aggregator, way, size = self.networks.aggregator, self.aggregation.way, self.aggregation.size
        vectors, keys, timestamps, _ = self.entries
        scores = aggregator.document_scores(aggregator.query_key(question), keys.float(), timestamps)
        if way == "hierarchical":
            scored = scores if aggregator.settings.document_score else None  # without, nor are aggregates scored
            modulation, shares, _ = in_groups(aggregator, question, vectors, size, scored)
            return modulation, shares
        if way == "nearest" and size < len(vectors):
            best = preselected(scores, size)
            modulation, shares = aggregator.aggregate(question, vectors[best], scores.gather(1, best))
            return modulation, torch.zeros_like(scores).scatter(1, best, shares)
        return aggregator.aggregate(question, vectors, scores, self.projected)


def reduced(bank: Reduced, aggregation: Aggregation) -> Reduced:
    """Return the bank that is attended to: one of at most so many entries as the aggregation says, or all of it."""
    if not aggregation.reduces or aggregation.size >= len(bank.members):
        return bank
    if aggregation.way == "nearest-averaged":
        return nearest_averaged(bank, aggregation.size)
    way = pruned if aggregation.way == "pruned" else averaged
    return way(bank, aggregation.size, aggregation.seed)
