"""The sink of cached windows: the first tokens of a document, passed again by the weights as they are.

Attention of many models rests on the first token it sees. Cached windows lose it with the oldest keys, so it is put
before them anew: at the positions just before the oldest cached one, without a gradient, kept in no cache.

Source: Xiao et al. 2024, "Efficient Streaming Language Models with Attention Sinks", sec. 3.2; there the first keys
stay in the cache as they were made, here they are those that the present weights make.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from driftlm.models.cache import KeyValues, RotaryCache
from driftlm.models.modulated import Modulated, modulating
from driftlm.models.prompting import padded
from driftlm.models.scoring import Scorer
from driftlm.streams.windows import Window

Layers = tuple[tuple[Tensor, Tensor], ...]


class Sink:
    """Keys and values of a sink, made once for weights that stay, and turned to where a window wants them.

    Args:
        scorer: of the model.
        rotary: of the same; None where there are no caches.
    """

    def __init__(self, scorer: Scorer, rotary: RotaryCache | None) -> None:
        self.scorer, self.rotary = scorer, rotary
        self.drop()

    def drop(self) -> None:
        """The weights have changed."""
        self.tokens: tuple[int, ...] = ()
        self.layers: Layers = ()

    def before(self, cache: KeyValues, window: Window) -> KeyValues:
        """Return the cache of a window behind its sink; as it is where it holds the document's beginning.

        It is also as it is where the model hides how it turns keys: its sink is then passed with every window.
        """
        tokens, place = sink_of(window, cache)
        if self.rotary is None or not tokens or not self.rotary.turns:
            return cache
        if tokens != self.tokens:
            (self.layers,) = made(self.scorer, [tokens], [0])
            self.tokens = tokens
        return cache.behind(self.rotary.rotated_back(self.layers, -place))


def sink_of(window: Window, cache: KeyValues) -> tuple[tuple[int, ...], int]:
    """Return the tokens of the sink that a window's cache does not hold, and the position of the first."""
    first = window.position - 1 - cache.length
    tokens = window.sink[:first]
    return tokens, first - cache.origin - len(tokens)


def behind_sinks(
    scorer: Scorer, windows: Sequence[Window], caches: Sequence[KeyValues], modulated: Modulated | None = None
) -> list[KeyValues]:
    """Return the caches of R rows behind their sinks, all of which are made in one pass."""
    sinks = [sink_of(window, cache) for window, cache in zip(windows, caches, strict=True)]
    if not any(tokens for tokens, _ in sinks):
        return list(caches)
    rows = made(scorer, [tokens for tokens, _ in sinks], [place for _, place in sinks], modulated)
    return [cache.behind(row) if tokens else cache for cache, (tokens, _), row in zip(caches, sinks, rows, strict=True)]


@torch.no_grad()
def made(
    scorer: Scorer, tokens: Sequence[tuple[int, ...]], places: Sequence[int], modulated: Modulated | None = None
) -> list[Layers]:
    """Return keys and values of each row's tokens, (1, H, n, E) a layer, the first at the row's place."""
    ids = padded([row or (scorer.language_model.bos,) for row in tokens])[0]
    positions = torch.tensor(places)[:, None] + torch.arange(ids.shape[1])
    with modulating(scorer.language_model, modulated) as cache:
        scorer.model.base_model(
            input_ids=ids.to(scorer.device),
            position_ids=positions.to(scorer.device),
            past_key_values=cache,
            use_cache=True,
        )
        return [
            tuple(
                (layer.keys[row : row + 1, :, : len(own)], layer.values[row : row + 1, :, : len(own)])
                for layer in cache.layers
            )
            for row, own in enumerate(tokens)
        ]
