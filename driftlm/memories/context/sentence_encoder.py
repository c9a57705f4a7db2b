"""Encoders of the package sentence-transformers, with the prompts and the pooling they bring (the extra `dense`)."""

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from driftlm.core.errors import DriftError, first_sentence
from driftlm.models.loading import no_progress_bar


class SentenceEncoder:
    """A sentence-transformers model, from a folder or the local cache; vectors of length 1.

    Raises:
        DriftError: when the package is missing or it cannot load the model.
    """

    def __init__(self, name: str | Path, device: str = "cpu") -> None:
        try:
            package = importlib.import_module("sentence_transformers")
        except ImportError as error:
            raise DriftError(
                f"sentence-transformers, or a package it needs, is missing ({first_sentence(error)}); "
                f'run pip install "driftlm[dense]".'
            ) from error
        try:
            with no_progress_bar():
                self.model = package.SentenceTransformer(str(name), device=device, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise DriftError(
                f"no sentence-transformers model can be loaded from {str(name)!r} ({first_sentence(error)}); "
                f"give a folder of one."
            ) from error
        digest = hashlib.sha256()
        for key, tensor in sorted(self.model.state_dict().items()):
            flat = tensor.detach().flatten()
            digest.update(key.encode() + flat[:: max(1, flat.numel() // 4096)].float().cpu().numpy().tobytes())
        self.fingerprint = f"sentences {digest.hexdigest()[:32]}"

    def documents(self, texts: Sequence[str]) -> Tensor:
        """Encode texts of documents as (R, D) float32, behind the model's prompt for documents."""
        rows: Tensor = self.model.encode_document(
            list(texts), convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )
        return rows.float()

    def questions(self, texts: Sequence[str]) -> Tensor:
        """Encode texts of questions as (R, D) float32, behind the model's prompt for questions."""
        rows: Tensor = self.model.encode_query(
            list(texts), convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )
        return rows.float()
