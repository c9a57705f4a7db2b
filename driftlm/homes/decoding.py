"""Answers written together: the next token of all of them by one forward pass, everything else by each alone.

A pass over one token costs hardly less than a pass over some, so that a batch writes several times as many tokens a
second. Rows share it where their homes have the very same weights (one home, or homes that learn nothing) and their
modulations are nothing but keys and values; other ones are written one after the other. Short prompts share a pass as
well, padded on the right; with long ones nothing is won.

Letters: R rows, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from driftlm.core.errors import DriftError
from driftlm.homes.completing import Asked, Completion, Piece, Sampling, all_logits, room_for, written
from driftlm.homes.prompts import Prompt
from driftlm.memories.bank.modulate import Prefix
from driftlm.memories.base import Memory, Supply
from driftlm.models.batching import Footprint, batches, room_on
from driftlm.models.cache import KeyValues
from driftlm.models.loading import LanguageModel
from driftlm.models.modulated import modulating
from driftlm.models.prompting import padded
from driftlm.models.row_scoring import stacked

SHORT = 128  # tokens of a prompt that is padded, or makes others so
Ended = Callable[[int, Completion | Exception], None]


def complete(
    memory: Memory,
    prompt: Prompt,
    sampling: Sampling,
    most: int,
    say: Callable[[Piece], None] = lambda piece: None,
    gone: Callable[[], bool] = lambda: False,
) -> Completion:
    """One answer, by itself; arguments are the attributes of `Asked`, and errors those of `write`.

    Example:
        >>> from driftlm import Learning, load
        >>> from driftlm.memories.build import memory_for
        >>> from driftlm.memories.settings import MemorySettings
        >>> from driftlm.homes.prompts import continued
        >>> memory = memory_for(MemorySettings(learning=Learning("none")), model := load(), None)
        >>> complete(memory, continued(model, "Once upon a"), Sampling(1, temperature=0), 1).completion_tokens
        1
    """
    found: list[Completion | Exception] = []
    write([Asked(memory, prompt, sampling, most, say, gone)], lambda place, made: found.append(made))
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


@torch.no_grad()
def write(asked: Sequence[Asked], ended: Ended, began: Callable[[int], None] = lambda rows: None) -> None:
    """Continue prompts by the weights as they are, behind what the sources supply for each; with key-value caches.

    A row alone is what it would be without this module, bit by bit; beside others its logits are those to 1e-5. What
    is drawn, where it ends, and what goes wrong in it is its own affair.

    Args:
        asked: by any number of homes, none of which is in the middle of a window.
        ended: gets the place of every row and what became of it, as soon as that is known: a `Completion`, or the
            error that ended it, a `DriftError` for a mixture, and for a prompt that leaves no room in the model's
            positions.
        began: gets the number of rows of every batch, before the first is read.
    """
    groups: dict[Any, list[Row]] = {}
    for row in supplied(asked, ended):
        alone = not isinstance(row.supply.modulated, Prefix | None)  # such changes the model itself meanwhile
        groups.setdefault(row if alone else id(row.asked.memory.language_model.model), []).append(row)
    for group in groups.values():
        for places in held_together(group):
            began(len(places))
            decode([group[place] for place in places])


class Row:
    """An answer under way.

    Attributes:
        fed: the tokens to be read next.
        cache: keys and values before them, until it is among others.
    """

    def __init__(self, place: int, asked: Asked, supply: Supply, ended: Ended) -> None:
        self.place, self.asked, self.supply, self.ended = place, asked, supply, ended

    def begin(self, cache: DynamicCache) -> bool:
        """Make the prompt, behind what the cache holds; whether it goes on."""
        self.cache, self.tokens = cache, written(self.asked, self.supply, cache)
        return self.goes_on(None)

    def goes_on(self, logits: Tensor | None) -> bool:
        """Choose a token by logits (V,), None before the first; whether it goes on."""
        try:
            self.fed = next(self.tokens) if logits is None else self.tokens.send(logits)
        except StopIteration as stop:
            self.ended(self.place, stop.value)
            return False
        except Exception as error:
            self.ended(self.place, error)
            return False
        return True

    def read_long(self) -> None:
        """Read a long prompt but for its last token."""
        if len(self.fed) > SHORT:
            all_logits(self.asked.memory.language_model, self.fed[:-1], self.cache, 1)
            self.fed = self.fed[-1:]


def supplied(asked: Sequence[Asked], ended: Ended) -> Iterator[Row]:
    """Those that can be written, with what the sources supply; the questions to one home are asked at once."""
    by_memory: dict[int, list[int]] = {}
    for place, one in enumerate(asked):
        try:
            refuse(one)
        except Exception as error:
            ended(place, error)
        else:
            by_memory.setdefault(id(one.memory), []).append(place)
    waiting = list(by_memory.values())
    while waiting:
        places = waiting.pop(0)
        memory, questions = asked[places[0]].memory, [asked[place].prompt.question for place in places]
        try:
            supply = memory.supplied(questions)
        except Exception as error:
            if len(places) == 1:
                ended(places[0], error)
            waiting[:0] = [[place] for place in places] if len(places) > 1 else []
            continue
        for row, place in enumerate(places):
            yield Row(place, asked[place], supply.rows([row]), ended)


def refuse(asked: Asked) -> None:
    """Refuse what cannot be written, before sources are asked something long."""
    if not asked.memory.can_generate:
        kind = asked.memory.kind
        raise DriftError(f"a {kind} reads, but does not write; make a home of another memory, or with another rule.")
    room_for(asked.memory.language_model, 0, len(asked.prompt.ids("")), asked.sampling.tokens, asked.most)


def held_together(rows: Sequence[Row]) -> list[list[int]]:
    """Places of the rows whose keys and values are held at once; long prompts are read one by one, unpadded."""
    asked = [row.asked for row in rows]
    model = asked[0].memory.language_model
    counts = [
        len(one.prompt.ids(row.supply.texts[0])) + (one.sampling.tokens or one.most)
        for row, one in zip(rows, asked, strict=True)
    ]
    return batches(counts, Footprint.of(model.model, 1), room_on(model.device), padding=math.inf)


def decode(rows: Sequence[Row]) -> None:
    """Write rows of the same weights until the last one has ended."""
    language_model = rows[0].asked.memory.language_model
    with ExitStack() as stack:
        left = [row for row in rows if row.begin(stack.enter_context(modulating(language_model, row.supply.modulated)))]
        try:
            for row in left if len(left) > 1 else ():
                row.read_long()
            shared = SharedCache(language_model, [row.cache for row in left])
            while left:
                logits = shared.logits([row.fed for row in left])
                kept = [place for place, row in enumerate(left) if row.goes_on(logits[place])]
                if len(kept) < len(left):
                    left = [left[place] for place in kept]
                    shared.keep(kept)
        except Exception as error:  # of a pass that they share
            for row in left:
                row.ended(row.place, error)


class SharedCache:
    """Keys and values of R rows, those of shorter rows behind padding that is masked: all distances are as they were.

    Args:
        language_model: that made them.
        caches: one a row.
    """

    def __init__(self, language_model: LanguageModel, caches: Sequence[DynamicCache]) -> None:
        self.language_model = language_model
        self.lengths = torch.tensor([cache.get_seq_length() for cache in caches], dtype=torch.int64)
        if len(caches) == 1:
            self.cache = caches[0]
        else:
            self.hold([KeyValues().extended(cache) for cache in caches])

    def hold(self, rows: Sequence[KeyValues]) -> None:
        """Put rows side by side, so that all end at the same place."""
        self.cache = DynamicCache(list(stacked(rows, max((row.length for row in rows), default=0))))

    def logits(self, fed: Sequence[Sequence[int]]) -> Tensor:
        """Take some tokens for every row; (R, V) float32, behind the last of each."""
        device, before, longest = self.language_model.device, self.lengths, int(self.lengths.max())
        ids, sizes = padded(fed)[0].to(device), torch.tensor([len(row) for row in fed])
        self.lengths = before + sizes
        positions = torch.minimum(before[:, None] + torch.arange(ids.shape[1]), self.lengths[:, None] - 1)
        arguments: dict[str, Any] = {}
        if int(before.min()) < longest:
            mask = torch.arange(longest + ids.shape[1]) >= longest - before[:, None]
            arguments["attention_mask"] = mask.to(device)
        ends = sizes.unique() - 1
        logits: Tensor = self.language_model.model(
            input_ids=ids,
            position_ids=positions.to(device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=ends.to(device) if len(ends) > 1 else 1,
            **arguments,
        ).logits
        if len(ends) > 1:
            self.hold([self.row(row, longest - int(before[row]), longest + len(one)) for row, one in enumerate(fed)])
        return logits[torch.arange(len(fed)), torch.searchsorted(ends, sizes - 1)].float().cpu()

    def row(self, row: int, start: int, end: int) -> KeyValues:
        """A row's keys and values at some places."""
        place = slice(row, row + 1), slice(None), slice(start, end)
        return KeyValues(tuple((layer.keys[place], layer.values[place]) for layer in self.cache.layers))

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows, and the padding that is left before every one."""
        longest, self.lengths = int(self.lengths.max()), self.lengths[list(rows)]
        spare = longest - int(self.lengths.max()) if rows else longest
        self.cache = DynamicCache(
            [(one.keys[list(rows), :, spare:], one.values[list(rows), :, spare:]) for one in self.cache.layers]
        )
