"""What a model is known by, whatever file it came from and whatever it computes in."""

import hashlib
import json
from typing import Any

import torch

REWRITTEN = {"dtype", "architectures", "transformers_version", "_name_or_path"}  # by saving, without meaning
CHOSEN = 4096  # values of a large tensor


def fingerprint(model: Any, tokenizer: Any) -> str:
    """Return the SHA-256 over configuration, vocabulary and weights; every tensor counts, large ones by 4,096 of their
    values.

    Values count as float32, which holds those of bfloat16 and float16 exactly: it is the same for weights that are kept
    in fewer bits, as long as nothing was rounded.

    Args:
        model: as it was stored, before any cast.
        tokenizer: its own.

    Example:
        >>> from driftlm import load
        >>> load(dtype="bfloat16").fingerprint == load().fingerprint
        True
    """
    return digested(model, tokenizer, by_dtype=False)


def earlier_fingerprint(model: Any, tokenizer: Any) -> str:
    """Return what `fingerprint` was up to driftlm 0.1.0, when the type that a model computes in counted; in float32 it
    is the same.

    Args:
        model: after the cast to what it computes in.
        tokenizer: its own.
    """
    return digested(model, tokenizer, by_dtype=True)


def digested(model: Any, tokenizer: Any, *, by_dtype: bool) -> str:
    """Return the digest of a model, with or without the type of its floating-point weights."""
    config = {key: value for key, value in model.config.to_dict().items() if key not in REWRITTEN}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    for key, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().flatten()
        chosen = flat[:: max(1, flat.numel() // CHOSEN)].float().cpu().numpy()
        dtype = torch.float32 if tensor.is_floating_point() and not by_dtype else tensor.dtype
        digest.update(f"{key} {tuple(tensor.shape)} {dtype}".encode() + chosen.tobytes())
    return digest.hexdigest()[:32]
