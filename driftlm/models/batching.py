"""Rows of tokens cut into batches, by their lengths and by what memory allows: the one place that decides it.

Letters: R rows, L tokens of the longest, padding included, A tokens of an answer, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from driftlm.models.loading import LanguageModel
from driftlm.models.machine import available_bytes

MOST_ROWS = 32
MOST_TOKENS = 1 << 14  # R x L of a batch: beyond it a pass takes more memory and no less time a token
SHARE = 0.25  # of the memory that is available
MOST_PADDING = 2.0
SHORT = 128  # tokens; a pass over fewer costs hardly less


@dataclass(frozen=True)
class Footprint:
    """What a pass without gradients takes, in bytes: R (L token + L² pair + row).

    Attributes:
        token: keys and values of all layers where they are kept, and the states of one layer at work.
        pair: of two positions, in one layer.
        row: logits, and what else a row has whatever its length.
    """

    token: int
    pair: int = 0
    row: int = 0

    @staticmethod
    def of(model: Any, answer: int = 0, *, states: bool = False) -> "Footprint":
        """Return that of a transformers model, by its shape.

        Args:
            model: any with a configuration.
            answer: A, positions that logits are wanted of; with any, keys and values are kept.
            states: whether the hidden states of every layer are kept.

        Example:
            >>> from driftlm import load
            >>> Footprint.of(load().model, answer=1)
            Footprint(token=24576, pair=5, row=49152)
        """
        config = model.config.get_text_config()
        width, layers = int(config.hidden_size), int(config.num_hidden_layers)
        heads = int(config.num_attention_heads)
        head = int(getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or width // heads)
        pairs_of_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        inner = int(getattr(config, "intermediate_size", None) or getattr(config, "d_ff", None) or 4 * width)
        size = model.dtype.itemsize
        working = 4 * width + 4 * heads * head + 4 * inner
        kept = (2 * layers * pairs_of_heads * head if answer else 0) + (layers * width if states else 0)
        eager = getattr(config, "_attn_implementation", None) == "eager"
        pair = 2 * heads * 4 if eager else 5  # scores and shares in float32; else a mask, as bool and as float
        logits = answer * 3 * 4 * int(config.vocab_size) if answer else 0  # and their softmax, in float32
        return Footprint(size * (working + kept), pair, logits)

    def bytes(self, rows: int, longest: int) -> int:
        """Return what a batch takes.

        Example:
            >>> Footprint(token=10, pair=1, row=5).bytes(rows=2, longest=3)
            88
        """
        return rows * (longest * self.token + longest * longest * self.pair + self.row)


def batches(counts: Sequence[int], footprint: Footprint, room: float, padding: float = MOST_PADDING) -> list[list[int]]:
    """Return the places of rows of so many tokens, in batches.

    A batch holds at most `MOST_ROWS` rows and `MOST_TOKENS` padded tokens, takes at most `room` bytes, and is not
    padded beyond `SHORT` tokens and `padding` times its shortest row; a row that fits nowhere is a batch alone. Where
    all rows make one batch they stay in their order, else neighbours in length are together.

    Args:
        counts: tokens of every row, those to come included.
        footprint: of a pass over them.
        room: bytes.
        padding: times the shortest row that the longest may have.

    Example:
        >>> batches([5, 900, 7, 800], Footprint(token=1), room=1e9)
        [[0, 2], [3, 1]]
        >>> batches([5, 6, 7], Footprint(token=1), room=1e9), batches([5, 6, 7], Footprint(token=1), room=12)
        ([[0, 1, 2]], [[0, 1], [2]])
    """
    found: list[list[int]] = []
    for place in sorted(range(len(counts)), key=lambda place: counts[place]):
        longest = counts[place]
        last = found[-1] if found else []
        rows = len(last) + 1
        fits = rows <= MOST_ROWS and rows * longest <= MOST_TOKENS and footprint.bytes(rows, longest) <= room
        if last and fits and longest <= max(SHORT, padding * counts[last[0]]):
            last.append(place)
        else:
            found.append([place])
    return [sorted(found[0])] if len(found) == 1 else found


def asked_in_batches(
    language_model: LanguageModel, counts: Sequence[int], answer: int, beams: int = 1
) -> list[list[int]]:
    """Return the batches in which prompts are answered: of so many tokens each, their answers of `answer` included.

    Args:
        language_model: that answers.
        counts: tokens of every row.
        answer: A, of the longest.
        beams: copies of every row.
    """
    one = Footprint.of(language_model.model, answer)
    several = Footprint(beams * one.token, beams * one.pair, beams * one.row)
    return batches(counts, several, room_on(language_model.device))


def read_in_batches(model: Any, counts: Sequence[int], *, states: bool = False) -> list[list[int]]:
    """Return the batches in which texts are read for their hidden states alone.

    Args:
        model: of transformers.
        counts: tokens of every row.
        states: whether those of every layer are kept.
    """
    return batches(counts, Footprint.of(model, states=states), room_on(model.device))


def room_on(device: Any) -> float:
    """Return the bytes that a batch may take on a device."""
    return SHARE * available_bytes(device)
