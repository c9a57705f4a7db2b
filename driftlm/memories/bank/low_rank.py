"""From a modulation to low-rank changes of the frozen language model's linear maps, other ones for every question.

Letters: R questions, T vectors, D width, N tokens, r rank; I inputs and O outputs of a linear map.

LoRA (Hu et al. 2021, arXiv 2106.09685) with both factors made by a network; the bank's paper (arXiv 2403.04317) names
it beside the prefix, its code has none. As in LoRA one factor is zero before training, so that the model is itself.
"""

import math
from typing import Any

import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as QUERIES_AND_VALUES
from torch import Tensor, nn

from driftlm.memories.bank.modulate import Modulation
from driftlm.models.row_lora import LowRank
from driftlm.models.trainable import shape_of, target_modules


class LowRankModulation(Modulation):
    """Mix the T vectors r times, and map those linearly to both factors of all changes, with a bias per rank.

    Args:
        model: of transformers.
        vectors: T.
        rank: r.
        targets: `attention`, `mlp`, `all-linear` or module names separated by commas; empty for the attention's
            queries and values (all of its input map where a family has one for queries, keys and values).

    Raises:
        DriftError: for targets that the model does not have.
    """

    def __init__(self, model: Any, vectors: int, rank: int, targets: str = "") -> None:
        config = model.config.get_text_config()
        super().__init__(config.hidden_size)
        usual = QUERIES_AND_VALUES.get(config.model_type, ("q_proj", "v_proj"))
        names = target_modules(model, targets or ",".join(usual), None)
        self.shapes = {name: shape_of(model.get_submodule(name)) for name in names}
        inputs, outputs = (sum(sizes) for sizes in zip(*self.shapes.values(), strict=True))
        self.mix = nn.Parameter(torch.randn(rank, vectors) / math.sqrt(vectors))
        self.down, self.up = (nn.Linear(config.hidden_size, numbers, bias=False) for numbers in (inputs, outputs))
        self.place_down = nn.Parameter(torch.randn(rank, inputs))
        self.place_up = nn.Parameter(torch.zeros(rank, outputs))
        nn.init.zeros_(self.up.weight)

    def forward(self, modulation: Tensor) -> LowRank:
        """Map (R, T, D) -> factors of every change; `down` is divided by sqrt(I r), so that x down is as large as x."""
        # Contiguous: otherwise the bits of what follows depend on whether gradients are asked for.
        x = torch.einsum("kt,rtd->rkd", self.mix, self.refined(modulation)).contiguous()  # (R, r, D)
        downs = (self.down(x) + self.place_down).split([inputs for inputs, _ in self.shapes.values()], dim=-1)
        ups = (self.up(x) + self.place_up).split([outputs for _, outputs in self.shapes.values()], dim=-1)
        return LowRank(
            {
                name: (down.transpose(1, 2) / math.sqrt(down.shape[1] * down.shape[2]), up)
                for name, down, up in zip(self.shapes, downs, ups, strict=True)
            }
        )
