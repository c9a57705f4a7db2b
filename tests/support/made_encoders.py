"""Tiny encoders with random weights, as folders."""

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, DPRConfig, DPRContextEncoder, DPRQuestionEncoder

from tests.support.families import VOCABULARY, tiny_tokenizer

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


def saved(model: Any, folder: Path) -> Path:
    tiny_tokenizer().save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def tiny_bert(seed: int = 0) -> BertModel:
    torch.manual_seed(seed)
    return BertModel(BertConfig(**SIZES), add_pooling_layer=False).eval()


def tiny_dpr() -> tuple[DPRContextEncoder, DPRQuestionEncoder]:
    torch.manual_seed(0)
    config = DPRConfig(**SIZES)
    return DPRContextEncoder(config).eval(), DPRQuestionEncoder(config).eval()


@torch.no_grad()
def states(model: Any, text: str) -> torch.Tensor:
    """Those of its tokens, (L, D), by the model alone."""
    found: torch.Tensor = model(torch.tensor([tiny_tokenizer()(text)["input_ids"]])).last_hidden_state[0]
    return found
