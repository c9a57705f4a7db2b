"""A prompt continued by what was learned."""

import torch

from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learning
from driftlm.models.machine import Machine
from driftlm.runs import formats


def continuation(prompt: str, machine: Machine, start_from: str, *, tokens: int, temperature: float, seed: int) -> str:
    """Sample a continuation with a key-value cache.

    Args:
        prompt: text to continue; it stands as it is.
        machine: which model, and what it runs on.
        start_from: a run, or a PEFT or HuggingFace folder; empty for the model itself.
        tokens: most tokens to add.
        temperature: 0 takes the likeliest token every time.
        seed: of the sampling.

    Returns:
        The prompt with its continuation.

    Raises:
        DriftError: for an empty prompt, or one that leaves no room in the model's positions.
    """
    if not prompt:
        raise DriftError("the prompt is empty; give some text to continue.")
    if tokens < 1 or temperature < 0:
        raise DriftError(
            f"`continuation.tokens` was {tokens} and `continuation.temperature` {temperature}; give at least 1 and at "
            f"least 0."
        )
    if start_from:
        language_model = formats.start_from(start_from, Learning(learn="none"), machine).language_model
    else:
        language_model = machine.load()
    ids, _ = language_model.encode(prompt)
    positions = getattr(language_model.model.config.get_text_config(), "max_position_embeddings", len(ids) + tokens)
    if len(ids) + tokens > positions:
        raise DriftError(
            f"the prompt has {len(ids)} tokens and `continuation.tokens` asks for {tokens} more, but the model has "
            f"{positions} "
            f"positions; shorten one of them."
        )
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    inputs = torch.tensor([ids], device=language_model.device)
    with torch.no_grad():
        output = language_model.model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=tokens,
            pad_token_id=language_model.bos,
            **sampling,
        )
    # SentencePiece tokenizers drop the space before a text's first token, so the prompt is decoded along and taken off.
    before, whole = (language_model.tokenizer.decode(t, skip_special_tokens=True) for t in (ids[1:], output[0, 1:]))
    return prompt + whole.removeprefix(before)
