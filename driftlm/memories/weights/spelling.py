"""Which characters the tokens of a window stand for, read back from the tokens alone."""

from collections.abc import Sequence

from driftlm.models.loading import LanguageModel

Span = tuple[int, int]
BROKEN = "\N{REPLACEMENT CHARACTER}"
LONGEST_CHARACTER = 4  # bytes of UTF-8, and so the most tokens that share one


class Spelling:
    """Spells tokens out, one at a time and each once.

    A memory knows its windows and not their document, so that nothing it does can rest on text that comes later.

    Example:
        >>> from driftlm import load
        >>> model = load()
        >>> ids, _ = model.encode("It rained in Paris.")
        >>> text, places = Spelling(model)(ids)
        >>> text, text[slice(*places[1])]
        ('It rained in Paris.', 'It')
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self.tokenizer, self.bos = language_model.tokenizer, language_model.bos
        # Behind another token, because some tokenizers leave out a space that comes first.
        self.before = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        self.skip = len(self.decoded([]))
        self.known: dict[int, str] = {}

    def __call__(self, ids: Sequence[int]) -> tuple[str, list[Span]]:
        """A text, and the place of each token in it; tokens that share a character have the same one.

        BOS is spelled as nothing; a character that an end of the row cuts is U+FFFD.
        """
        text, places, group = "", list[Span](), list[int]()
        for number, token in enumerate(ids):
            group.append(token)
            piece = self.piece(group)
            whole = not piece.endswith(BROKEN) or len(group) == LONGEST_CHARACTER
            if whole or number == len(ids) - 1:
                places += [(len(text), len(text) + len(piece))] * len(group)
                text, group = text + piece, []
        return text, places

    def piece(self, group: Sequence[int]) -> str:
        """The text of a few tokens."""
        if len(group) > 1:
            return self.decoded(group)[self.skip :]
        (token,) = group
        if token not in self.known:
            self.known[token] = "" if token == self.bos else self.decoded(group)[self.skip :]
        return self.known[token]

    def decoded(self, ids: Sequence[int]) -> str:
        """The text of some tokens behind a fixed one."""
        return str(self.tokenizer.decode([*self.before, *ids], clean_up_tokenization_spaces=False))
