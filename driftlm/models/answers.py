"""Answers of a language model, modulated or not: what given ones cost, and those it gives itself.

Letters: R rows, A tokens of the longest answer, V vocabulary.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig

from driftlm.core.errors import DriftError
from driftlm.models.loading import LanguageModel
from driftlm.models.modulated import Modulated, modulating
from driftlm.models.prompting import LONGEST_ANSWER, end_token, padded

Rows = Sequence[Sequence[int]]


def answer_nats(
    language_model: LanguageModel, prompts: Rows, answers: Rows, modulated: Modulated | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what answers cost after their prompts, as `nats_of` returns it for the arguments of `answer_logits`."""
    return nats_of(answer_logits(language_model, prompts, answers, modulated), answers)


def answer_logits(language_model: LanguageModel, prompts: Rows, answers: Rows, modulated: Modulated | None) -> Tensor:
    """Return (R, A, V) float32: the logits that predict each token of the answers; of no meaning beyond an answer's
    end.

    Args:
        language_model: frozen; gradients reach the modulation where they are on.
        prompts: R rows of token ids.
        answers: R rows of token ids, the end token included; A is the longest one's length.
        modulated: what changes the model for every row, or None for the plain model.
    """
    device = language_model.device
    ids, _ = padded([[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)])
    with modulating(language_model, modulated) as cache:
        before = cache.get_seq_length()
        positions = torch.arange(before, before + ids.shape[1], device=device).expand(len(ids), -1)
        hidden = language_model.model.base_model(
            input_ids=ids.to(device), position_ids=positions, past_key_values=cache, use_cache=True
        )[0]
    first = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    places = (first[:, None] + torch.arange(max(map(len, answers)), device=device)).clamp(max=ids.shape[1] - 1)
    chosen = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))
    logits: Tensor = language_model.model.get_output_embeddings()(chosen).float()
    return logits


def nats_of(logits: Tensor, answers: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Return the negative log-likelihood of answers under the logits of `answer_logits`, in nats.

    Returns:
        nats (R, A) float32, 0 beyond an answer's end; where answer tokens are, (R, A) bool; and where the likeliest
        token is the right one, (R, A) bool.
    """
    targets, there = (one.to(logits.device) for one in padded(answers))
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    return nats * there, there, (logits.detach().argmax(-1) == targets) & there


@torch.no_grad()
def generate(
    language_model: LanguageModel,
    prompts: Rows,
    modulated: Modulated | None,
    longest: int = LONGEST_ANSWER,
    beams: int = 1,
) -> list[str]:
    """Generate answers with a key-value cache: greedy ones, or the best that a beam search finds.

    A beam search ranks answers by the mean log-probability of their tokens, the end token included, and goes on while
    a running one could still become the best of all.

    Rows are padded on the left and the padding is masked; the first token of every prompt stands right behind its
    prefix, so that a row's answer does not depend on the others. Where layers see only the latest positions, padding
    counts among them: there rows of different lengths are answered one by one.

    Raises:
        DriftError: for fewer than one token or beam.
    """
    if longest < 1 or beams < 1:
        raise DriftError(f"an answer of {longest} tokens by {beams} beams was asked for; give at least 1 of each.")
    config = language_model.model.config.get_text_config()
    if len(prompts) > 1 and getattr(config, "sliding_window", None) and len({len(row) for row in prompts}) > 1:
        found = []
        for row, prompt in enumerate(prompts):
            one = None if modulated is None else modulated.rows([row])
            found += generate(language_model, [prompt], one, longest, beams)
        return found

    if modulated is not None and beams > 1:
        modulated = modulated.rows([row for row in range(len(prompts)) for _ in range(beams)])
    device, end = language_model.device, end_token(language_model)
    ids, mask = padded(prompts, left=True)
    plain = copy.copy(language_model.model)
    plain.generation_config = GenerationConfig()  # what came with the model may penalise or forbid tokens
    with modulating(language_model, modulated) as cache:
        # The prefix counts as tokens that were read already; which ones, no one looks at.
        before = cache.get_seq_length()
        ids, mask = F.pad(ids, (before, 0), value=end), F.pad(mask, (before, 0), value=True)
        rows = plain.generate(
            ids.to(device),
            attention_mask=mask.long().to(device),
            past_key_values=cache,
            generation_config=GenerationConfig(
                max_new_tokens=longest,
                num_beams=beams,
                do_sample=False,
                early_stopping="never" if beams > 1 else None,
                eos_token_id=end,
                pad_token_id=end,
            ),
        )[:, ids.shape[1] :].tolist()
    kept = [row[: row.index(end)] if end in row else row for row in rows]
    return [text.strip() for text in language_model.tokenizer.batch_decode(kept, skip_special_tokens=True)]
