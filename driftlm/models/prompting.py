"""How a question is put to a language model, and what its answer costs in nats.

A prompt is `BOS [context newline] Question: ... newline Answer:`; an answer is a space, its text and the end token.
Letters: R questions, P positions of a prefix, L tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from driftlm.models.loading import LanguageModel

LONGEST_ANSWER = 24  # tokens


def prompt_ids(language_model: LanguageModel, question: str, context: str = "") -> list[int]:
    """Return the tokens of a question, with the text it is about where one is given.

    Example:
        >>> from driftlm import load
        >>> model = load()
        >>> model.tokenizer.decode(prompt_ids(model, "Who?", "It was I.")[1:])
        ' It was I.\\nQuestion: Who?\\nAnswer:'
    """
    # A space comes first, so that a name has the same tokens there as inside a sentence.
    text = f" {context}\nQuestion: {question}\nAnswer:" if context else f"Question: {question}\nAnswer:"
    return [language_model.bos, *tokens(language_model, text)]


def answer_ids(language_model: LanguageModel, answer: str) -> list[int]:
    """Return the tokens of an answer and the end token."""
    return [*tokens(language_model, f" {answer}"), end_token(language_model)]


def tokens(language_model: LanguageModel, text: str) -> list[int]:
    """Return plain tokens of a text."""
    found: list[int] = language_model.tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, verbose=False
    )["input_ids"]
    return found


def end_token(language_model: LanguageModel) -> int:
    """Return what ends an answer: EOS, or the token before a document where there is none."""
    eos = language_model.tokenizer.eos_token_id
    return language_model.bos if eos is None else int(eos)


def padded(rows: Sequence[Sequence[int]], fill: int = 0, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Return the rows of token ids as one tensor, (R, L) int64, and where they hold a token, (R, L) bool.

    Example:
        >>> padded([[5, 6], [7]])[0].tolist(), padded([[5, 6], [7]], left=True)[0].tolist()
        ([[5, 6], [7, 0]], [[5, 6], [0, 7]])
    """
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), fill, dtype=torch.int64)
    mask = torch.zeros((len(rows), longest), dtype=torch.bool)
    for number, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[number, place] = torch.tensor(row, dtype=torch.int64)
        mask[number, place] = True
    return ids, mask
