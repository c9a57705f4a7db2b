"""From a modulation to keys and values before the prompt of the frozen language model.

Letters: R questions, T vectors, D width, P = T prefix positions, L layers, H key-value heads, E head width,
V vocabulary.

P-tuning v2 (Liu et al. 2022, arXiv 2110.07602): learned keys and values in every layer, nothing else of the model
changes. Here each of the T vectors makes one prefix position; the bank's paper (arXiv 2403.04317) spreads its vectors
over two positions with one feed-forward for every key and value of every layer, which is most of its parameters. Keys
are made as the layer sees them, after any rotation; the prompt's own positions begin behind the prefix.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import LONGEST_ANSWER, end_token, padded

Prefix = list[tuple[Tensor, Tensor]]


class PrefixModulation(nn.Module):
    """x <- x + FF(LN(x)), then one linear map to the keys and values of all layers, with a bias per position.

    Grouped queries are served: keys have `num_key_value_heads` heads of `head_dim`.

    Args:
        config: of the language model.
        vectors: T.
    """

    def __init__(self, config: Any, vectors: int) -> None:
        super().__init__()
        width = config.hidden_size
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head = getattr(config, "head_dim", None) or width // config.num_attention_heads
        self.shape = (config.num_hidden_layers, 2, heads, head)
        numbers = config.num_hidden_layers * 2 * heads * head
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.out = nn.Linear(width, numbers, bias=False)
        self.place = nn.Parameter(torch.randn(vectors, numbers) * 0.02)

    def forward(self, modulation: Tensor) -> Prefix:
        """(R, T, D) -> per layer keys and values, each (R, H, P, E)."""
        x = modulation + self.feed_forward(self.norm(modulation))
        made = (self.out(self.last(x)) + self.place).unflatten(-1, self.shape)  # (R, P, L, 2, H, E)
        return [(k.transpose(1, 2), v.transpose(1, 2)) for k, v in (layer.unbind(2) for layer in made.unbind(2))]


def behind(prefix: Prefix | None) -> tuple[DynamicCache, int]:
    """A fresh cache that holds a prefix, and P; empty without one."""
    if prefix is None:
        return DynamicCache(), 0
    return DynamicCache(list(prefix)), prefix[0][0].shape[2]


def answer_nats(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    prefix: Prefix | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Negative log-likelihood of answers after their prompts, in nats.

    Args:
        language_model: frozen; gradients reach the prefix where they are on.
        prompts: R rows of token ids.
        answers: R rows of token ids, the end token included.
        prefix: keys and values for every row, or None for the plain model.

    Returns:
        nats (R, A) float32, 0 beyond an answer's end; where answer tokens are, (R, A) bool; and where the likeliest
        token is the right one, (R, A) bool. A is the longest answer.
    """
    device = language_model.device
    ids, _ = padded([[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)])
    targets, mask = (one.to(device) for one in padded(answers))
    cache, before = behind(prefix)
    positions = torch.arange(before, before + ids.shape[1], device=device).expand(len(ids), -1)
    hidden = language_model.model.base_model(
        input_ids=ids.to(device), position_ids=positions, past_key_values=cache, use_cache=True
    )[0]
    first = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    places = (first[:, None] + torch.arange(targets.shape[1], device=device)).clamp(max=ids.shape[1] - 1)
    chosen = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))
    logits = language_model.model.get_output_embeddings()(chosen).float()  # (R, A, V)
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    return nats * mask, mask, (logits.detach().argmax(-1) == targets) & mask


@torch.no_grad()
def generate(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    prefix: Prefix | None,
    longest: int = LONGEST_ANSWER,
) -> list[str]:
    """Greedy answers, with a key-value cache: the prefix is fed once.

    Rows are padded on the left and the padding is masked; the first token of every prompt stands right behind its
    prefix, so that a row's answer does not depend on the others. Where layers see only the latest positions, padding
    counts among them: there rows of different lengths are answered one by one.
    """
    config = language_model.model.config.get_text_config()
    if len(prompts) > 1 and getattr(config, "sliding_window", None) and len({len(row) for row in prompts}) > 1:
        found = []
        for row, prompt in enumerate(prompts):
            one = None if prefix is None else [(k[row : row + 1], v[row : row + 1]) for k, v in prefix]
            found += generate(language_model, [prompt], one, longest)
        return found

    device, end = language_model.device, end_token(language_model)
    ids, mask = (one.to(device) for one in padded(prompts, left=True))
    cache, before = behind(prefix)
    attended = torch.cat([mask.new_ones(len(ids), before), mask], dim=1).long()
    positions = (mask.long().cumsum(1) - 1).clamp(min=0) + before
    fed, done, said = ids, torch.zeros(len(ids), dtype=torch.bool, device=device), []
    for _ in range(longest):
        output = language_model.model(
            input_ids=fed,
            position_ids=positions,
            attention_mask=attended,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        chosen = output.logits[:, -1].argmax(-1).masked_fill(done, end)
        done = done | (chosen == end)
        said.append(chosen)
        if bool(done.all()):
            break
        fed, positions = chosen[:, None], positions[:, -1:] + 1
        attended = F.pad(attended, (0, 1), value=1)
    rows = torch.stack(said, dim=1).tolist()
    kept = [row[: row.index(end)] if end in row else row for row in rows]
    return [text.strip() for text in language_model.tokenizer.batch_decode(kept, skip_special_tokens=True)]
