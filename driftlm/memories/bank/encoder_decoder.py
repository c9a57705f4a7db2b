"""The paper's encoder: a T5 reads a text, and its decoder turns T learned vectors into the text's own.

Letters: R texts, L tokens, d width of the T5, D width of the language model, T vectors.

After "Online Adaptation of Language Models with a Memory of Amortized Contexts" (arXiv 2403.04317) and its code, where
documents and questions are read by a T5 each, all of whose weights learn. Departures: the decoder sees no padding (in
the code it does, so that vectors depend on the padded length); both T5s come from one source (the paper's reader of
questions may be smaller); long texts are read in parts; there is no dropout, so that a text has the same vectors with
and without a graph.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, T5Config, T5Model

from driftlm.core.errors import DriftError, first_sentence
from driftlm.memories.bank.amortize import Encoder
from driftlm.models.batching import read_in_batches
from driftlm.models.loading import no_progress_bar
from driftlm.models.prompting import padded

KEPT = "t5"  # configuration and tokenizer, in a folder of saved networks


class ResidualMap(nn.Module):
    """Apply x <- S x + W_2 tanh(W_1 LN(x)) from width d to D; S is the identity where they are equal, else linear."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.skip = nn.Identity() if inner == width else nn.Linear(inner, width)
        self.inside = nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, width), nn.Tanh(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, d) -> (R, D)."""
        result: Tensor = self.skip(x) + self.inside(x)
        return result


class T5Encoder(Encoder):
    """The T5's decoder reads T learned vectors (causally, as T5 does) and the text; a map of its own follows each.

    Args:
        model: of `pretrained` or `rebuilt`; its parts become this network's own.
        tokenizer: its tokenizer.
        vectors: T.
        width: D.
        longest: most tokens of a part, the end token included.
    """

    def __init__(self, model: Any, tokenizer: Any, vectors: int, width: int, longest: int) -> None:
        super().__init__()
        self.config, self.tokenizer, self.longest = model.config, tokenizer, longest
        self.marks = ([], [tokenizer.eos_token_id])
        self.encoder, self.decoder = model.encoder, model.decoder
        del self.decoder.embed_tokens  # it reads vectors, not tokens; the encoder holds the same embeddings
        self.learned = nn.Parameter(torch.randn(vectors, self.config.d_model) * 0.02)
        self.maps = nn.ModuleList(ResidualMap(self.config.d_model, width) for _ in range(vectors))

    def tokens(self, text: str) -> list[int]:
        """Return plain tokens of a text; the spelling of a special token is plain text."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        return found

    def forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Map token rows of R parts -> (R, T, D)."""
        ids, mask = (one.to(self.learned.device) for one in padded(rows))
        read = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (R, L, d)
        made = self.decoder(
            inputs_embeds=self.learned.expand(len(ids), -1, -1),
            encoder_hidden_states=read,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state  # (R, T, d)
        return torch.stack([own(one) for own, one in zip(self.maps, made.unbind(1), strict=True)], dim=1)

    def batches(self, counts: Sequence[int]) -> list[list[int]]:
        """Return the places of rows in batches that the T5 reads."""
        return read_in_batches(self.encoder, counts)

    def keep(self, folder: Path) -> None:
        """Keep configuration and tokenizer, so that saved networks do without the folder the T5 came from."""
        self.config.save_pretrained(folder / KEPT)
        self.tokenizer.save_pretrained(folder / KEPT)


def pretrained(source: str) -> tuple[Any, Any]:
    """Return a T5 and its tokenizer, from a folder or the local cache.

    Raises:
        DriftError: for what is missing, incomplete or no T5.

    Example:
        >>> pretrained("no/such/t5")
        Traceback (most recent call last):
        driftlm.core.errors.DriftError: the T5 'no/such/t5' is neither a folder nor in the local HuggingFace cache; \
give a folder with a T5 and its tokenizer.
    """
    config, tokenizer = described(source)
    try:
        with no_progress_bar():
            model, report = T5Model.from_pretrained(
                source, config=config, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise DriftError(
            f"the weights of the T5 {source!r} cannot be loaded ({first_sentence(error)}); give a complete T5."
        ) from error
    if report["missing_keys"]:
        raise DriftError(
            f"the weights of the T5 {source!r} are not complete: {len(report['missing_keys'])} tensors are missing, "
            f"such as {min(report['missing_keys'])}; give a complete T5."
        )
    return model, tokenizer


def rebuilt(networks: Path) -> tuple[Any, Any]:
    """Return the T5 that `T5Encoder.keep` described in a folder of networks, with its tokenizer; its weights come
    later.
    """
    config, tokenizer = described(str(networks / KEPT))
    return T5Model(config), tokenizer


def described(source: str) -> tuple[Any, Any]:
    """Return the configuration, without dropout, and the tokenizer."""
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DriftError(
            f"the T5 {source!r} is neither a folder nor in the local HuggingFace cache; "
            f"give a folder with a T5 and its tokenizer."
        ) from error
    if not isinstance(config, T5Config):
        raise DriftError(f"{source!r} is a model of the kind {config.model_type}, not a T5; give a T5.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DriftError(
            f"no tokenizer can be loaded for the T5 {source!r} ({first_sentence(error)}); put tokenizer.json beside it."
        ) from error
    words = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens) - {"▁"}
    # Without its files, transformers makes a tokenizer that knows no word.
    if not words or tokenizer.eos_token_id is None or len(tokenizer) > config.vocab_size:
        raise DriftError(
            f"the tokenizer of the T5 {source!r} knows {len(words)} words of the {config.vocab_size} in its "
            f"embeddings, its end token is {tokenizer.eos_token!r}; put its own tokenizer.json beside it."
        )
    config.dropout_rate = 0.0
    return config, tokenizer
