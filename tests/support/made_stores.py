"""Documents with random modulations for a bank's store."""

from typing import Any

import torch

from driftlm.memories.bank.modulations import Addition, Facts
from driftlm.memories.bank.store import BankStore

FACTS = Facts(vectors=2, width=3, key_width=4, networks="first")


def document(name: str, parts: int = 2, seed: int = 0, facts: Facts = FACTS, **changes: Any) -> Addition:
    """One whose modulations follow from its name and a seed."""
    random = torch.Generator().manual_seed(seed + sum(name.encode()))
    vectors = torch.randn(parts, facts.vectors, facts.width, generator=random)
    keys = torch.randn(parts, facts.key_width, generator=random)
    known = {"text": f"text of {name} {seed}", "time": None, "timestamp": None} | changes
    return Addition(name, **known, vectors=vectors, keys=keys)


def add(bank: BankStore, *additions: Addition) -> list[bool]:
    """Add one at a time; whether each was new."""
    return [bank.add(**vars(one)) for one in additions]
