"""What makes texts into vectors: the language model itself, or encoders in HuggingFace format.

Letters: R texts, L tokens, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from driftlm.core.errors import DriftError, first_sentence
from driftlm.models.answers import Rows
from driftlm.models.batching import read_in_batches
from driftlm.models.fingerprint import fingerprint
from driftlm.models.loading import LanguageModel, no_progress_bar
from driftlm.models.prompting import padded, tokens

Pooling = Literal["mean", "cls"]
LONGEST = 512  # tokens of a text that are read; the rest is left out


class StatesOfModel:
    """The mean of the language model's own last hidden states, of length 1: no second model is needed.

    Such states were not trained to tell documents apart: expect less than of BM25 or a trained encoder.
    The token before a text takes no part: its state is much larger than all others, and the same for every text.

    Example:
        >>> from driftlm import load
        >>> StatesOfModel(load()).questions(["It rained."]).shape
        torch.Size([1, 256])
    """

    def __init__(self, language_model: LanguageModel, longest: int = LONGEST) -> None:
        config = language_model.model.config.get_text_config()
        self.language_model = language_model
        self.longest = min(longest, getattr(config, "max_position_embeddings", None) or longest)
        self.fingerprint = f"states of {language_model.fingerprint}"

    def documents(self, texts: Sequence[str]) -> Tensor:
        """Encode texts of documents as (R, D) float32."""
        model = self.language_model
        found = [[model.bos, *tokens(model, f" {text}")[: self.longest - 1]] for text in texts]
        return in_batches(found, model.model, self.encoded)

    @torch.no_grad()
    def encoded(self, rows: Rows) -> Tensor:
        """Encode rows of tokens as (R, D) float32."""
        model = self.language_model
        ids, mask = padded(rows)
        # Padding is on the right, where no token sees it.
        hidden = model.model.base_model(input_ids=ids.to(model.device), use_cache=False)[0]
        mask[:, 0] = mask.sum(dim=1) == 1  # a text without a token has that before it alone
        return F.normalize(mean(hidden, mask.to(model.device)), dim=1)

    def questions(self, texts: Sequence[str]) -> Tensor:
        """Encode texts of questions as (R, D) float32, as of documents."""
        return self.documents(texts)


class PooledEncoder:
    """Encoders in HuggingFace format, one for both sides or one for each.

    Contriever: pooling `mean`; BGE: `cls` and `normalize`; DPR: `cls` and an encoder of questions by itself.

    Args:
        folder: of the encoder of documents; or a hub name in the local cache.
        questions: of that of questions; the same one when it is not given.
        pooling: `mean` over the tokens of a text, or the first token's state.
        normalize: whether vectors get length 1.
        device: `cpu`, `cuda`, ...

    Raises:
        DriftError: when an encoder is missing or incomplete, or the pooling is none it has.
    """

    def __init__(
        self,
        folder: str | Path,
        questions: str | Path | None = None,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
        longest: int = LONGEST,
        device: str = "cpu",
    ) -> None:
        if pooling not in ("mean", "cls"):
            raise DriftError(f"the pooling was {pooling!r}; give mean or cls.")
        self.pooling, self.normalize, self.longest, self.device = pooling, normalize, longest, device
        self.of_documents = load_encoder(folder, device)
        self.of_questions = load_encoder(questions, device) if questions else self.of_documents
        made = " ".join(fingerprint(*one) for one in (self.of_documents, self.of_questions))
        self.fingerprint = f"{pooling} {normalize} {longest} of {made}"

    def documents(self, texts: Sequence[str]) -> Tensor:
        """Encode texts of documents as (R, D) float32."""
        return self.pooled(texts, *self.of_documents)

    def questions(self, texts: Sequence[str]) -> Tensor:
        """Encode texts of questions as (R, D) float32."""
        return self.pooled(texts, *self.of_questions)

    def pooled(self, texts: Sequence[str], model: Any, tokenizer: Any) -> Tensor:
        """Pool texts to (R, D) by one of the encoders, from the tokens that its positions hold."""
        longest = min(self.longest, tokenizer.model_max_length, model.config.max_position_embeddings)
        found = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
        return in_batches(found, model, lambda rows: self.encoded(rows, model, tokenizer.pad_token_id or 0))

    @torch.no_grad()
    def encoded(self, rows: Rows, model: Any, fill: int) -> Tensor:
        """Pool rows of tokens to (R, D) by one of the encoders."""
        ids, mask = padded(rows, fill)
        ids, mask = ids.to(self.device), mask.to(self.device)
        output = model(input_ids=ids, attention_mask=mask.long())
        hidden = getattr(output, "last_hidden_state", None)
        if hidden is not None:
            made = mean(hidden, mask) if self.pooling == "mean" else hidden[:, 0].float()
        elif self.pooling == "cls":
            made = output.pooler_output.float()  # DPR gives nothing else
        else:
            raise DriftError(f"an encoder of the type {model.config.model_type} pools by itself; give pooling cls.")
        return F.normalize(made, dim=1) if self.normalize else made


def in_batches(rows: Rows, model: Any, encoded: Callable[[Rows], Tensor]) -> Tensor:
    """Encode rows of tokens as (R, D), in batches that memory holds; a row's vector does not depend on the others."""
    places = read_in_batches(model, [len(row) for row in rows])
    found = torch.cat([encoded([rows[place] for place in some]) for some in places])
    return found[torch.tensor([place for some in places for place in some]).argsort().to(found.device)]


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average states (R, L, D) where the mask (R, L) is true to (R, D) float32."""
    kept = hidden.float().masked_fill(~mask[..., None], 0.0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True)


def load_encoder(name: str | Path, device: str) -> tuple[Any, Any]:
    """Return the model and tokenizer from a folder or the local cache.

    Raises:
        DriftError: when they cannot be loaded, or weights are missing.
    """
    source = str(name)
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True)
        # For both encoders of DPR there is one configuration, and AutoModel takes it for that of questions.
        named = (config.architectures or [""])[0]
        kind = getattr(transformers, named) if named.startswith("DPR") else AutoModel
        with no_progress_bar(), errors_alone():
            model, report = kind.from_pretrained(source, local_files_only=True, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, SafetensorError) as error:
        raise DriftError(
            f"no text encoder can be loaded from {source!r} ({first_sentence(error)}); give a folder in HuggingFace "
            f"format with its tokenizer."
        ) from error
    # A pooler is not used, and not random either: a fingerprint stays the same.
    for key in report["missing_keys"]:
        model.get_parameter(key).data.zero_()
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise DriftError(
            f"the encoder {source!r} is not complete: {len(missing)} tensors are missing, such as {missing[0]}; "
            f"give a complete one."
        )
    return model.requires_grad_(False).eval().to(device), tokenizer


@contextmanager
def errors_alone() -> Iterator[None]:
    """Silence what transformers warns of a missing pooler; what else is missing is refused."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
