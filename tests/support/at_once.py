"""A bank asked at once: the reference for every way of asking it in parts, from kept keys, or smaller."""

from collections.abc import Sequence

import torch
from torch import Tensor

from driftlm.memories.bank.networks import BankNetworks


@torch.no_grad()
def asked(
    networks: BankNetworks, questions: Sequence[str], vectors: Tensor, keys: Tensor, timestamps: Tensor
) -> tuple[object, Tensor]:
    """What lets the language model answer questions from a bank, and shares of attention (R, N)."""
    question, aggregator = networks.question_vectors(questions), networks.aggregator
    scores = aggregator.document_scores(aggregator.query_key(question), keys.float(), timestamps)
    modulation, shares = aggregator.aggregate(question, vectors, scores)
    return networks.modulation(modulation), shares
