"""Answers as the OpenAI API has them: whole ones, and streams of server-sent events."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.homes.completing import Completion, Piece, Token
from driftlm.serving.middleware import failure
from driftlm.serving.streaming import Spoken


@dataclass(frozen=True)
class Form:
    """How answers of a kind are written.

    Attributes:
        prefix: of ids.
        whole: `object` of an answer.
        part: `object` of a piece of a stream.
        choice: the choice of an answer: its text and tokens.
        delta: that of a piece.
        first: that of the piece before all others, None where there is none.
    """

    prefix: str
    whole: str
    part: str
    choice: Callable[[str, Sequence[Token] | None], dict[str, Any]]
    delta: Callable[[str, Sequence[Token] | None], dict[str, Any]]
    first: dict[str, Any] | None = None


def completion_choice(text: str, tokens: Sequence[Token] | None) -> dict[str, Any]:
    """Return the choice of a completion; log-probabilities in nats, offsets in characters of the completion."""
    held = None
    if tokens is not None:
        held = {
            "tokens": [one.text for one in tokens],
            "token_logprobs": [one.logprob for one in tokens],
            # of equal texts the likeliest stays
            "top_logprobs": [None if one.logprob is None else dict(reversed(one.likeliest)) for one in tokens],
            "text_offset": [one.offset for one in tokens],
        }
    return {"text": text, "logprobs": held}


def chat_logprobs(tokens: Sequence[Token] | None) -> dict[str, Any] | None:
    """Return the log-probabilities of a chat, in nats."""

    def one(text: str, logprob: float | None) -> dict[str, Any]:
        whole = None if "�" in text else list(text.encode())
        return {"token": text, "logprob": logprob, "bytes": whole}

    if tokens is None:
        return None
    content = [
        one(token.text, token.logprob) | {"top_logprobs": [one(*other) for other in token.likeliest]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def chat_choice(text: str, tokens: Sequence[Token] | None) -> dict[str, Any]:
    """Return the choice of a chat."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"message": message, "logprobs": chat_logprobs(tokens)}


def chat_delta(text: str, tokens: Sequence[Token] | None) -> dict[str, Any]:
    """Return a piece of a chat."""
    return {"delta": {"content": text} if text else {}, "logprobs": chat_logprobs(tokens)}


COMPLETION = Form("cmpl-", "text_completion", "text_completion", completion_choice, completion_choice)
CHAT = Form(
    "chatcmpl-",
    "chat.completion",
    "chat.completion.chunk",
    chat_choice,
    chat_delta,
    {"delta": {"role": "assistant", "content": ""}, "logprobs": None},
)


class Reply:
    """The answer to one request.

    Args:
        form: of the answer.
        model: its name.
        logprobs: whether tokens were asked for.
    """

    def __init__(self, form: Form, model: str, logprobs: bool) -> None:
        self.form, self.logprobs = form, logprobs
        self.head = {"id": form.prefix + secrets.token_hex(12), "created": int(time.time()), "model": model}

    def tokens(self, tokens: Sequence[Token]) -> Sequence[Token] | None:
        """Return the tokens where they were asked for."""
        return tokens if self.logprobs else None

    def whole(self, completion: Completion) -> dict[str, Any]:
        """Return the whole answer at once; beside what the OpenAI API has, the documents that it rests on."""
        choice = self.form.choice(completion.text, self.tokens(completion.tokens))
        return self.head | {
            "object": self.form.whole,
            "choices": [{"index": 0, "finish_reason": completion.reason} | choice],
            "usage": usage_of(completion),
            "documents": [{"id": id, "share": share} for id, share in completion.documents],
        }

    def event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        """Return a piece of a stream."""
        return event(self.head | {"object": self.form.part, "choices": choices} | more)

    async def events(self, spoken: Spoken, first: Piece | None, usage: bool) -> AsyncIterator[str]:
        """Yield the answer as it is made, from its first piece on; the job is left where nobody listens any more."""
        more = {"usage": None} if usage else {}
        choice = {"index": 0, "finish_reason": None}
        try:
            if self.form.first is not None:
                yield self.event([choice | self.form.first], **more)
            piece = first
            while piece is not None:
                yield self.event([choice | self.form.delta(piece.text, self.tokens(piece.tokens))], **more)
                piece = await spoken.pieces.get()
            try:
                completion: Completion = spoken.job.result.result()
            except Exception as error:
                known = isinstance(error, DriftError)
                yield event(failure(str(error) if known else "the server failed; its log says how.", "server_error"))
                return
            last = self.form.delta("", None)
            yield self.event([choice | last | {"finish_reason": completion.reason}], **more)
            if usage:
                yield self.event([], usage=usage_of(completion))
            yield "data: [DONE]\n\n"
        finally:
            spoken.job.leave()


def event(value: dict[str, Any]) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(value, allow_nan=False)}\n\n"


def usage_of(completion: Completion) -> dict[str, int]:
    """Return the tokens of the prompt, with what the memory put there, and of the completion."""
    prompt, written = completion.prompt_tokens, completion.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
