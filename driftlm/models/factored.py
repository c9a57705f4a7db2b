"""What learning changed in a model as factors of low rank, and as the LoRA that peft loads.

Letters: I inputs and O outputs of a linear map, r rank; D = θ - θ₀ of one tensor, |.| the Frobenius norm.

Of all matrices of rank r the truncated singular value decomposition is the nearest to D, and misses it by
sqrt(sum of the squared singular values beyond the r-th) (Eckart and Young 1936).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.models.trainable import new_adapter, target_modules

Factors = dict[str, tuple[Tensor, Tensor]]  # by the name of a linear map: down (I, r), up (r, O); y <- y + x down up


@dataclass(frozen=True)
class Changed:
    """One tensor that learning changed.

    Attributes:
        name: the parameter's.
        norm: |D|.
        missed: |D - down up|; |D| where it was left out.
        left_out: whether no factors stand for it.
    """

    name: str
    norm: float
    missed: float
    left_out: bool

    @property
    def error(self) -> float:
        """Return |D - down up| / |D|."""
        return self.missed / self.norm


@dataclass(frozen=True)
class LowRankDelta:
    """The difference θ - θ₀ as factors.

    Attributes:
        factors: of the linear maps inside the blocks that changed.
        changed: every tensor that changed; norms, biases, embeddings and the head are left out.
    """

    factors: Factors
    changed: tuple[Changed, ...]

    @property
    def error(self) -> float:
        """Return |what is missed| / |θ - θ₀| over all tensors, those that were left out included."""
        return (sum(one.missed**2 for one in self.changed) / sum(one.norm**2 for one in self.changed)) ** 0.5

    @property
    def left_out_share(self) -> float:
        """Return the part of |θ - θ₀|² that lies in the tensors that were left out."""
        left_out = sum(one.norm**2 for one in self.changed if one.left_out)
        return left_out / sum(one.norm**2 for one in self.changed)


def factored(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factor D (I, O) into down (I, k) and up (k, O), k = min(r, I, O): U S V^T cut off behind k, sqrt(S) in each.

    Example:
        >>> down, up = factored(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 1)
        >>> down.shape, up.shape, round((torch.diag(torch.tensor([3.0, 2.0, 1.0])) - down @ up).norm().item() ** 2, 3)
        (torch.Size([3, 1]), torch.Size([1, 3]), 5.0)
    """
    left, sizes, right = torch.linalg.svd(change, full_matrices=False)
    roots = sizes[:rank].sqrt()
    return left[:, :rank] * roots, roots[:, None] * right[:rank]


@torch.no_grad()
def low_rank_delta(prior: Any, learned: Any, rank: int) -> LowRankDelta:
    """Return what two models of one shape differ in: the linear maps inside the blocks as factors, the rest named.

    Embeddings and a head tied to them are left out because merging a LoRA of both would add it twice to the one tensor.

    Args:
        prior: of transformers, at θ₀.
        learned: the same model at θ, without an adapter.
        rank: r; the time is that of a full decomposition, O(I O min(I, O)), whatever r is.

    Raises:
        DriftError: for a rank below 1, models of other shapes, or where no linear map inside the blocks changed.
    """
    if rank < 1:
        raise DriftError(f"`export.rank` was {rank}; a low-rank delta needs a rank of at least 1.")
    before, after = dict(prior.named_parameters()), dict(learned.named_parameters())
    if {name: p.shape for name, p in before.items()} != {name: p.shape for name, p in after.items()}:
        raise DriftError(
            "the learned weights belong to another model than their base; give that one with `Machine.model`."
        )
    maps = {f"{name}.weight": name for name in target_modules(prior, "all-linear", None)}
    factors: Factors = {}
    changed = []
    for name, value in before.items():
        change = after[name].float() - value.float()
        norm = missed = change.norm().item()
        if norm == 0:
            continue
        if name in maps:
            if type(prior.get_submodule(maps[name])).__name__ != "Conv1D":  # which keeps its weight as (I, O)
                change = change.T
            down, up = factors[maps[name]] = factored(change, rank)
            missed = (change - down @ up).norm().item()
        changed.append(Changed(name, norm, missed, name not in maps))
    if not factors:
        raise DriftError(
            "no linear map inside the blocks differs from the prior, so a LoRA has nothing to hold (a run with "
            "`Learning.reset` "
            "document ends as it began); give `export.kind` huggingface for other changes."
        )
    return LowRankDelta(factors, tuple(changed))


def lora_of(model: Any, factors: Factors) -> Any:
    """Return the model of peft around `model`, which it changes in place, with a LoRA whose product is the factors'.

    One rank and a scale of 1 for all maps, smaller factors filled with zeros: not every program that reads a LoRA
    knows peft's patterns of ranks.
    """
    rank = max(down.shape[1] for down, _ in factors.values())
    adapter = new_adapter(model, list(factors), rank)
    for name, (down, up) in factors.items():
        layer = model.get_submodule(name)
        more = rank - down.shape[1]
        for half, value in ((layer.lora_A, F.pad(down.T, (0, 0, 0, more))), (layer.lora_B, F.pad(up.T, (0, more)))):
            weight = half["default"].weight
            weight.data = value.to(weight.device, weight.dtype).contiguous()
    return adapter.requires_grad_(False)
