"""What a model is and what it takes, told without loading its weights."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from driftlm.core.errors import DriftError
from driftlm.models.gguf_files import parameters_in, parsed_once
from driftlm.models.loading import (
    DTYPES,
    config_of,
    no_progress_bar,
    refuse_what_cannot_work,
    tokenizer_of,
)
from driftlm.models.machine import Machine
from driftlm.models.sizes import stored
from driftlm.models.sources import source_of

FED = 256  # tokens of the pass that is timed
BACKWARD = 3  # a step that learns all weights takes three times the operations of a forward pass


def described(machine: Machine) -> dict[str, Any]:
    """Return what is known of a model, and what to expect of it on this machine.

    Tokens a second are read off one timed matrix product of the model's width: 2 operations a parameter and token.
    What attention adds, and passes over the same tokens again by overlapping windows, come on top.

    Returns:
        `{model, folder, sha256, kind, parameters, layers, width, vocabulary, positions, template, bytes: {float32,
        bfloat16}, dtype, threads, tokens_per_second: {static, learning}}`; positions are None where nothing ends them.

    Raises:
        DriftError: for a model that is not there, or cannot be read as a stream.
    """
    source = source_of(machine.model or None)
    with no_progress_bar(), parsed_once(source.file) if source.gguf else nullcontext():
        config = config_of(source, machine.online)
        refuse_what_cannot_work(config, source.name)
        count = parameters_in(source.file) if source.gguf else getattr(stored(Path(source.folder)), "parameters", 0)
        tokenizer = tokenizer_of(source, machine.online)
    if not count:
        raise DriftError(f"the weights of {source.name!r} are not in safetensors files here; give a folder of them.")
    text = config.get_text_config()
    if machine.threads:
        torch.set_num_threads(machine.threads)
    # Looking a token up multiplies nothing: an embedding that is not the head's as well costs no operation.
    multiplied = count - (0 if config.tie_word_embeddings else text.vocab_size * text.hidden_size)
    speed = operations_per_second(int(text.hidden_size), machine.dtype, machine.device)
    static = speed / (2 * multiplied)
    return {
        "model": source.name,
        "folder": source.folder,
        "sha256": source.sha256,
        "kind": config.model_type,
        "parameters": count,
        "layers": int(text.num_hidden_layers),
        "width": int(text.hidden_size),
        "vocabulary": int(text.vocab_size),
        "positions": getattr(text, "max_position_embeddings", None),
        "template": tokenizer.chat_template is not None,
        "bytes": {"float32": 4 * count, "bfloat16": 2 * count},
        "dtype": machine.dtype,
        "threads": torch.get_num_threads(),
        "tokens_per_second": {"static": round(static, 1), "learning": round(static / BACKWARD, 1)},
    }


def layers_of(name: str) -> int:
    """Return the number of transformer blocks of a model, whose weights stay where they are; the bundled one's of "".

    Example:
        >>> layers_of("")
        6
    """
    source = source_of(name or None)
    with no_progress_bar(), parsed_once(source.file) if source.gguf else nullcontext():
        return int(config_of(source, online=False).get_text_config().num_hidden_layers)


@torch.no_grad()
def operations_per_second(width: int, dtype: str, device: str) -> float:
    """Return how fast a linear map of width D to 4 D takes 256 tokens, the best of five."""
    weight = torch.zeros(4 * width, width, dtype=DTYPES[dtype], device=device)
    tokens = torch.zeros(FED, width, dtype=DTYPES[dtype], device=device)
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        F.linear(tokens, weight).sum().item()
        seconds.append(time.perf_counter() - began)
    return 2 * FED * weight.numel() / min(seconds[1:])
