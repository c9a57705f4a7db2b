"""What a language model is to continue: a text as it stands, or a conversation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from driftlm.core.errors import DriftError
from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import prompt_ids, tokens

Role = Literal["system", "user", "assistant"]
PLAIN = "Question: …\nAnswer: …"
"""How a conversation is written for a model without a chat template: system messages first, a line each."""


@dataclass(frozen=True)
class Prompt:
    """What a completion continues.

    Attributes:
        question: what the sources are asked.
        ids: its tokens behind a text that they supply, BOS first.
        given: how many of them, at the end, stand as they were given; 0 where there was a text.
        bos: whether BOS was given before these.
    """

    question: str
    ids: Callable[[str], list[int]]
    given: int = 0
    bos: bool = False


def continued(language_model: LanguageModel, text: str) -> Prompt:
    """A text as it stands; what the sources supply is a paragraph before it."""

    def ids(context: str) -> list[int]:
        return [language_model.bos, *tokens(language_model, f"{context}\n{text}" if context else text)]

    return Prompt(text, ids)


def tokenized(language_model: LanguageModel, ids: Sequence[int]) -> Prompt:
    """Tokens as they stand, so that each has its own probability; BOS stands before them where it is not among them.

    What the sources supply is a paragraph before them, tokens of its own.

    Raises:
        DriftError: for a number that is no token.

    Example:
        >>> from driftlm import load
        >>> prompt = tokenized(model := load(), tokens(model, "Once upon"))
        >>> prompt.question, prompt.ids("")[-prompt.given :] == tokens(model, "Once upon")
        ('Once upon', True)
    """
    most = language_model.model.get_input_embeddings().num_embeddings
    if wrong := [id for id in ids if not 0 <= id < most]:
        raise DriftError(f"the prompt names the token {wrong[0]}, and the model has those from 0 to {most - 1}.")
    begun = list(ids[:1]) == [language_model.bos]

    def behind(context: str) -> list[int]:
        if not context:
            return [*([] if begun else [language_model.bos]), *ids]
        return [language_model.bos, *tokens(language_model, f"{context}\n"), *ids[begun:]]

    question = language_model.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Prompt(question, behind, len(ids) - begun, begun)


def chatted(language_model: LanguageModel, messages: Sequence[tuple[Role, str]]) -> Prompt:
    """A conversation that ends with the user's turn, by the model's chat template, else as `PLAIN` says.

    A question alone, without a template, has the prompt of `Home.answer`. What the sources supply stands before the
    last turn's text with a template, and before everything without.

    Raises:
        DriftError: when the last turn is not the user's, or, once it is asked for its tokens, when the template
            refuses the conversation.

    Example:
        >>> from driftlm import load
        >>> model = load()
        >>> turns = [("user", "Who?"), ("assistant", "I."), ("user", "Why?")]
        >>> model.tokenizer.decode(chatted(model, turns).ids("")[1:])
        'Question: Who?\\nAnswer: I.\\nQuestion: Why?\\nAnswer:'
    """
    role, question = messages[-1]
    if role != "user":
        raise DriftError(f"the last message is from {role!r}; let a message of the user come last.")
    template = language_model.tokenizer.chat_template

    def plain(context: str) -> list[int]:
        said = [context] if context else []
        said += [text for role, text in messages if role == "system"]
        turns = [(role, text) for role, text in messages[:-1] if role != "system"]
        written = "".join(f"Question: {text}\n" if role == "user" else f"Answer: {text}\n" for role, text in turns)
        if not written:
            return prompt_ids(language_model, question, "\n".join(said))
        space = " " if said else ""
        whole = space + "".join(f"{line}\n" for line in said) + f"{written}Question: {question}\nAnswer:"
        return [language_model.bos, *tokens(language_model, whole)]

    def templated(context: str) -> list[int]:
        last = f"{context}\n\n{question}" if context else question
        turns = [{"role": role, "content": text} for role, text in (*messages[:-1], ("user", last))]
        try:
            ids = language_model.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        except Exception as error:  # a template raises what it likes
            raise DriftError(
                f"the model's chat template refuses the messages ({str(error) or type(error).__name__}); change their "
                f"order or roles."
            ) from error
        return list(ids)

    return Prompt(question, templated if template else plain)
