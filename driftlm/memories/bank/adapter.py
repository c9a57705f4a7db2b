"""What a bank says to one question as an adapter of peft: prefix tuning for a prefix, a LoRA for low-rank changes.

Letters: P prefix positions, L layers, H key-value heads, E head width, N tokens, V vocabulary.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import PrefixTuningConfig, get_peft_model
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.bank.modulate import Prefix
from driftlm.models.factored import lora_of
from driftlm.models.loading import LanguageModel
from driftlm.models.modulated import Modulated, modulating
from driftlm.models.row_lora import LowRank

ROUNDINGS = (
    1000  # of the largest logit, by which two correct programs may differ; a wrong shape differs by 10,000 and more
)


@torch.no_grad()
def adapter_of(language_model: LanguageModel, modulated: Modulated, tokens: Sequence[int]) -> Any:
    """Return the model of peft around the language model, changed as the modulation's only row changes it.

    A LoRA changes `language_model` in place; a prefix does not.

    Args:
        language_model: frozen, without an adapter.
        modulated: a `Prefix` or `LowRank` of one row.
        tokens: N token ids on which both are compared.

    Raises:
        DriftError: where peft cannot hold the modulation, or its logits are others than the modulation's.
    """
    model = language_model.model
    ids = torch.tensor([list(tokens)], device=language_model.device)
    with modulating(language_model, modulated) as cache:
        before = cache.get_seq_length()
        positions = torch.arange(before, before + ids.shape[1], device=ids.device)[None]
        ours = model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True).logits  # (1, N, V)
    refusal = (
        f"peft gives {language_model.name!r} ({model.config.model_type}) no prefix of the bank's shape; "
        f"ask the bank itself, with driftlm ask."
    )
    try:
        if isinstance(modulated, Prefix):
            adapter = prefix_tuning(model, modulated)
        elif isinstance(modulated, LowRank):
            adapter = lora_of(model, {name: (down[0], up[0]) for name, (down, up) in modulated.factors.items()})
        else:
            raise TypeError(type(modulated))
        theirs = adapter(input_ids=ids).logits
    except (ValueError, RuntimeError, TypeError, IndexError) as error:  # peft's and torch's, about shapes
        raise DriftError(refusal) from error
    if (ours - theirs).abs().max() > ROUNDINGS * torch.finfo(ours.dtype).eps * ours.abs().max():
        raise DriftError(refusal)
    return adapter


def prefix_tuning(model: Any, prefix: Prefix) -> Any:
    """Wrap `model` by peft with keys and values of every layer, each (1, H, P, E), before the text."""
    _, heads, positions, width = prefix[0][0].shape
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=positions,
        num_layers=len(prefix),
        num_attention_heads=heads,
        token_dim=heads * width,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # peft asks by the old name
        adapter = get_peft_model(model, config).eval()
    adapter.prompt_encoder["default"].load_prompt_embeddings(flattened(prefix))
    return adapter.requires_grad_(False)


def flattened(prefix: Prefix) -> Tensor:
    """Return a prefix of one row as peft keeps it, (P, 2 L H E): layer by layer the keys, then the values.

    Example:
        >>> keys = torch.arange(4.0).view(1, 2, 2, 1)
        >>> flattened(Prefix([(keys, -keys)])).tolist()
        [[0.0, 2.0, -0.0, -2.0], [1.0, 3.0, -1.0, -3.0]]
    """
    parts = [part[0] for layer in prefix for part in layer]  # 2 L of (H, P, E)
    return torch.stack(parts).permute(2, 0, 1, 3).flatten(1).contiguous()
