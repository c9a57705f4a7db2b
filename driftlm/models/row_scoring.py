"""Windows of several documents through a model in one pass, each scored as if it were alone.

Inputs are padded on the right, where causal attention never looks back at them; cached keys and values on the left,
masked, so that they stand right before their row's inputs and all distances are as they were.

Letters: R rows, N inputs of the longest window, K cached positions of the longest cache, S new tokens, D width,
V vocabulary, H key-value heads, E head width.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from driftlm.models.cache import KeyValues
from driftlm.models.head import every_finite, one_gradient
from driftlm.models.modulated import Modulated, modulating
from driftlm.models.prompting import padded
from driftlm.models.scoring import Forward, Scorer
from driftlm.streams.windows import Window


def score_rows(
    scorer: Scorer,
    windows: Sequence[Window],
    modulated: Modulated | None = None,
    caches: Sequence[KeyValues] | None = None,
    keep: int = 0,
) -> list[Forward]:
    """Score the new tokens of R windows; for each the same as `Scorer.forward` gives to 1e-5 nats.

    Args:
        scorer: of the model.
        windows: one a row.
        modulated: what changes the model for each row.
        caches: keys and values that each row attends to, those of its sink first; the windows' last S inputs are fed
            then, otherwise all inputs behind the sink.
        keep: positions that stay in the caches that are returned.
    """
    fed = [
        (*window.sink[: window.start], *window.inputs) if caches is None else window.inputs[-window.new :]
        for window in windows
    ]
    ids = padded(fed)[0].to(scorer.device)
    with modulating(scorer.language_model, modulated) as attended, one_gradient(scorer.model):
        arguments = (
            {"use_cache": False} if caches is None else continued(scorer, attended, windows, caches, ids.shape[1])
        )
        pairs = nats_of_rows(scorer, ids, windows, [len(row) for row in fed], arguments)
    if caches is None:
        return [Forward(nats, finite) for nats, finite in pairs]
    longest = max(cache.length for cache in caches)
    return [
        Forward(nats, finite, row_of(attended, row, cache, longest, window.new, keep))
        for row, ((nats, finite), cache, window) in enumerate(zip(pairs, caches, windows, strict=True))
    ]


def continued(
    scorer: Scorer, attended: DynamicCache, windows: Sequence[Window], caches: Sequence[KeyValues], inputs: int
) -> dict[str, Any]:
    """Fill a fresh cache with those of the rows, and say where their inputs stand and what they may look at."""
    lengths = [cache.length for cache in caches]
    for layer, (keys, values) in enumerate(stacked(caches, max(lengths))):
        attended.update(keys, values, layer)
    first = [window.position - 1 - cache.origin for window, cache in zip(windows, caches, strict=True)]
    positions = torch.tensor(first)[:, None] + torch.arange(inputs)
    arguments = {"use_cache": True, "past_key_values": attended, "position_ids": positions.to(scorer.device)}
    if min(lengths) < max(lengths):
        mask = padded([range(length + inputs) for length in lengths], left=True)[1]
        arguments["attention_mask"] = mask.to(scorer.device)
    return arguments


def stacked(caches: Sequence[KeyValues], longest: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Stack per layer the keys and the values of all rows, each (R, H, K, E), zero where a row has none."""
    if longest == 0:
        return
    full = next(cache for cache in caches if cache.length == longest)
    for layer, pair in enumerate(full.layers):
        keys, values = (
            torch.cat(
                [
                    F.pad(cache.layers[layer][kind], (0, 0, longest - cache.length, 0))
                    if cache.layers
                    else torch.zeros_like(pair[kind])
                    for cache in caches
                ]
            )
            for kind in (0, 1)
        )
        yield keys, values


def row_of(attended: DynamicCache, row: int, before: KeyValues, longest: int, new: int, keep: int) -> KeyValues:
    """Return the last `keep` positions of a row, its padding on both sides left out; views, without a graph."""
    end = longest + new
    start = max(longest - before.length + before.sink, end - keep)
    if start == end:
        return KeyValues((), before.origin)
    layers = (
        (layer.keys[row : row + 1, :, start:end].detach(), layer.values[row : row + 1, :, start:end].detach())
        for layer in attended.layers
    )
    return KeyValues(tuple(layers), before.origin)


def nats_of_rows(
    scorer: Scorer, ids: Tensor, windows: Sequence[Window], lengths: Sequence[int], arguments: dict[str, Any]
) -> list[tuple[Tensor, Tensor]]:
    """Return nats and finiteness (S,) of each row's new tokens, from its last S inputs, without padding."""
    new = [window.new for window in windows]
    places = [
        row * ids.shape[1] + place
        for row, (n, s) in enumerate(zip(lengths, new, strict=True))
        for place in range(n - s, n)
    ]
    chosen = torch.tensor(places, device=scorer.device)
    targets = torch.tensor([token for window in windows for token in window.targets], device=scorer.device)
    if scorer.plain_head:
        assert scorer.body is not None
        hidden = scorer.body(input_ids=ids, **arguments)[0].flatten(0, 1).index_select(0, chosen)
        nats, finite = scorer.nats_of(hidden, targets)
    else:
        logits = scorer.model(input_ids=ids, **arguments).logits.flatten(0, 1).index_select(0, chosen).float()
        nats, finite = F.cross_entropy(logits, targets, reduction="none"), every_finite(logits.detach())
    return list(zip(nats.split(new), finite.split(new), strict=True))
