"""Models that do not learn, and random modulations of them: prefixes, and low-rank changes."""

from collections.abc import Sequence

import torch

from driftlm.memories.bank.low_rank import LowRankModulation
from driftlm.memories.bank.modulate import Prefix, PrefixModulation
from driftlm.models.loading import LanguageModel
from tests.support.build import language_model
from tests.support.families import BOS

VECTORS, RANK = 3, 2


def frozen(family: str) -> LanguageModel:
    """A family's tiny model that does not learn."""
    made = language_model(family)
    made.model.requires_grad_(False)
    return made


def random_prefix(model: LanguageModel, rows: int, positions: int = VECTORS, scale: float = 1.0) -> Prefix:
    """One for each row, made as a bank makes it."""
    made = PrefixModulation(model.model.config, positions).requires_grad_(False)
    prefix = made(torch.randn(rows, positions, model.model.config.hidden_size))
    return Prefix((scale * keys, scale * values) for keys, values in prefix)


class Ids:
    """A tokenizer that spells ids in decimal, so that no two answers look alike."""

    eos_token_id = BOS

    def batch_decode(self, rows: list[list[int]], skip_special_tokens: bool) -> list[str]:
        return [spelled(row) for row in rows]


def spelled(row: Sequence[int]) -> str:
    """Ids in decimal."""
    return " ".join(map(str, row))


def low_rank_network(model: LanguageModel, targets: str = "", seed: int = 0) -> LowRankModulation:
    """Far from its start, where it changes nothing."""
    torch.manual_seed(seed)
    made = LowRankModulation(model.model, VECTORS, RANK, targets)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.5 * torch.randn(weight.shape))
    return made
