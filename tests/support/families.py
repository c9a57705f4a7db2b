"""Tiny causal language models with random weights, one per architecture family, and a byte-level tokenizer for them.

Nothing is downloaded. Every call builds a fresh model with the same weights, whatever the global random state is.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import ByteLevel as ByteLevelProcessor
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

BOS = 0
BOS_TOKEN = "<|endoftext|>"
VOCABULARY = 300
POSITIONS = 512
SLIDING_WINDOW = 8

# Pairs of byte-level symbols (Ġ is the space, Ċ the newline, č the carriage return). They are written out so that no
# training run can change them. Some tokens span a word with its space, some a character of two bytes, some a CRLF; the
# bytes of every other non-ASCII character stay apart, so a token may also be a fraction of a character.
MERGES = [
    ("t", "h"), ("th", "e"), ("Ġ", "t"), ("Ġt", "h"), ("Ġ", "the"), ("i", "n"), ("e", "r"), ("Ġ", "a"), ("a", "n"),
    ("an", "d"), ("Ġ", "and"), ("o", "n"), ("r", "e"), ("e", "n"), ("Ġ", "o"), ("Ġo", "f"), ("o", "r"), ("in", "g"),
    ("Ġ", "s"), ("Ġ", "w"), ("Ġ", "b"), ("Ġ", "c"), ("e", "d"), ("i", "s"), ("i", "t"), ("o", "u"), ("l", "l"),
    ("a", "t"), ("e", "s"), ("h", "e"), ("Ġ", "Ġ"), ("Ċ", "Ċ"), ("č", "Ċ"), ("Ã", "©"), ("Ã", "¨"), ("Ã", "ł"),
    ("0", "0"), ("1", "9"), ("s", "t"), ("a", "r"), ("l", "e"), ("Ġ", "f"), ("Ġ", "in"),
]  # fmt: skip


def _fill(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Give every parameter random weights: predictions depend on the whole context and are far from uniform.

    The scales are a compromise. Larger ones turn learning chaotic (rounding grows a hundredfold in a dozen steps, so
    that two correct programs disagree); smaller ones make the models indifferent to what they read.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                # Norm scales and biases: around whatever value makes them neutral (one, zero, or Gemma's offset zero).
                neutral = 1.0 if bool((parameter == 1).all()) else 0.0
                parameter.copy_(neutral + 0.2 * noise)
            elif any(part in name for part in ("embed", "wte", "wpe", "lm_head")):
                # Random text stays, with few exceptions, below ln(vocabulary) + 1 nats, where a guard would act.
                parameter.copy_(0.13 * noise)
            else:
                parameter.copy_(noise * (0.7 / math.sqrt(min(parameter.shape))))
    return model.float().eval()


def _build(kind: Callable[[Any], PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _fill(kind(config), seed)


def llama() -> PreTrainedModel:
    """Llama: grouped queries (4 heads, 2 of keys), tied embeddings."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=BOS,
    )
    return _build(LlamaForCausalLM, config, 1)


def gpt2() -> PreTrainedModel:
    """GPT-2: absolute positions, so only overlapping windows fit it."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=BOS,
        eos_token_id=BOS,
    )
    return _build(GPT2LMHeadModel, config, 2)


def neox() -> PreTrainedModel:
    """GPT-NeoX: parallel residual, rotary positions on half of each head, untied output embeddings."""
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
        bos_token_id=BOS,
        eos_token_id=BOS,
    )
    return _build(GPTNeoXForCausalLM, config, 3)


def qwen() -> PreTrainedModel:
    """Qwen3: grouped queries, a norm on queries and keys, untied output embeddings."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=POSITIONS,
        bos_token_id=BOS,
        eos_token_id=BOS,
    )
    return _build(Qwen3ForCausalLM, config, 4)


def gemma() -> PreTrainedModel:
    """Gemma 3: layers that see the last 8 positions around one that sees all, each kind with its own rotary base."""
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        max_position_embeddings=POSITIONS,
        sliding_window=SLIDING_WINDOW,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        bos_token_id=BOS,
        eos_token_id=BOS,
        pad_token_id=None,
    )
    return _build(Gemma3ForCausalLM, config, 5)


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": llama,
    "gpt2": gpt2,
    "neox": neox,
    "qwen": qwen,
    "gemma": gemma,
}

# Families whose positions continue across windows; the others are refused with cached windows.
CACHED_FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {name: f for name, f in FAMILIES.items() if name != "gpt2"}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens (one BOS = EOS, 256 bytes, 43 merges); any text encodes without loss."""
    tokens = [BOS_TOKEN, *sorted(ByteLevel.alphabet()), *(left + right for left, right in MERGES)]
    assert len(tokens) == len(set(tokens)) == VOCABULARY
    tokenizer = Tokenizer(BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=MERGES))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.post_processor = ByteLevelProcessor(trim_offsets=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(BOS_TOKEN, special=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS_TOKEN,
        eos_token=BOS_TOKEN,
        clean_up_tokenization_spaces=False,
        model_max_length=POSITIONS,
    )


def random_ids(length: int, seed: int = 0) -> list[int]:
    """`[BOS, x1 ... xn]` with n = `length` from a skewed, partly repetitive source: there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    while len(ids) < length:
        if len(ids) > 8 and float(torch.rand((), generator=generator)) < 0.4:
            start = int(torch.randint(0, len(ids) - 4, (), generator=generator))
            ids.extend(ids[start : start + 4])
        else:
            ids.append(1 + int(torch.rand((), generator=generator) ** 2 * (VOCABULARY - 1)))
    return [BOS, *ids[:length]]


def changed(family: str, scale: float = 0.02) -> torch.nn.Module:
    """A family's tiny model with every parameter moved a little."""
    model, generator = FAMILIES[family](), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model
