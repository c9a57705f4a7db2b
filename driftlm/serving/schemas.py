"""What requests and refusals look like.

Requests are strict, every size is bounded, and there is a sentence for what the OpenAI API has and this has not. Of its
fields those that could not change an answer here are taken and ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from driftlm.streams.timestamps import UNDERSTOOD, timestamp_of

TEXT = 64_000_000  # characters; the server's limit of a body is below
Id = Annotated[str, Field(min_length=1, max_length=512)]
Time = Annotated[str, Field(min_length=1, max_length=64)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1_000_000)]
Ids = Annotated[list[Id], Field(max_length=1024)]


class Schema(BaseModel):
    """What all requests share: no field that is not known, no value of another type, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def refuse(kind: str, message: str) -> None:
    """Refuse a request with a sentence."""
    raise PydanticCustomError("unsupported", "{what}: {message}", {"what": kind, "message": message})


def understood(time: str) -> str:
    """Return a time that can be read, as it was given."""
    if timestamp_of(time) is None:
        refuse("time", f"{time!r} cannot be read as one; give {UNDERSTOOD}, or leave it out.")
    return time


class StreamOptions(Schema):
    """Of a stream."""

    include_usage: bool = False


class Generation(Schema):
    """What completions and chats share."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None

    @model_validator(mode="after")
    def refuse_what_is_not_served(self) -> "Generation":
        """Refuse more than one choice, and what would change the model's probabilities."""
        if self.n not in (None, 1):
            refuse("n", "one choice is made for a request; send it once for every choice, with seeds of their own.")
        if self.presence_penalty or self.frequency_penalty or self.logit_bias:
            refuse("presence_penalty, frequency_penalty, logit_bias", "these are not served; leave them out.")
        if self.stream_options is not None and not self.stream:
            refuse("stream_options", "these are for streams; leave them out, or ask for a stream.")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Return all stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(Generation):
    """Of `/v1/completions`."""

    prompt: (
        Annotated[str, Field(max_length=TEXT)]
        | Annotated[list[str], Field(min_length=1)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1)]
    )
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    @model_validator(mode="after")
    def refuse_other_prompts(self) -> "CompletionRequest":
        """Refuse more than one prompt, and what completions of others can."""
        if isinstance(self.prompt, list) and not isinstance(self.prompt[0], int) and len(self.prompt) > 1:
            refuse("prompt", "one prompt is completed by a request; send one for every prompt.")
        if self.suffix or self.best_of not in (None, 1):
            refuse("suffix, best_of", "these are not served; leave them out.")
        if self.max_tokens == 0 and not self.echo:
            refuse("max_tokens", "with none to write, only the prompt is left; give echo, or at least 1.")
        return self

    @property
    def one(self) -> str | list[int]:
        """Return the prompt, as text or tokens."""
        return self.prompt[0] if isinstance(self.prompt, list) and not isinstance(self.prompt[0], int) else self.prompt


class TextPart(Schema):
    """A part of a message."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=TEXT)]


class Message(Schema):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=TEXT)] | Annotated[list[TextPart], Field(min_length=1, max_length=256)]
    name: Annotated[str, Field(max_length=64)] | None = None

    @property
    def text(self) -> str:
        """Return the text of all parts."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Generation):
    """Of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    parallel_tool_calls: bool | None = None  # from here on ignored
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: Annotated[str, Field(max_length=64)] | None = None

    @model_validator(mode="after")
    def refuse_tools(self) -> "ChatRequest":
        """Refuse tools and forms of an answer, and what contradicts itself."""
        if self.tools:
            refuse("tools", "the model calls none; leave them out.")
        if self.response_format not in (None, {"type": "text"}):
            refuse("response_format", "answers are text; leave it out.")
        if self.top_logprobs is not None and not self.logprobs:
            refuse("top_logprobs", "this needs logprobs to be true.")
        if self.messages[-1].role != "user" or not self.messages[-1].text.strip():
            refuse("messages", "a message of the user that is not empty has to come last.")
        return self


class DocumentIn(Schema):
    """A document to be read."""

    id: Id
    text: Annotated[str, Field(min_length=1, max_length=TEXT)]
    time: Annotated[Time, AfterValidator(understood)] | None = None


class ReadRequest(Schema):
    """Of `/v1/read`: one text, or documents."""

    text: Annotated[str, Field(min_length=1, max_length=TEXT)] | None = None
    documents: Annotated[list[DocumentIn], Field(min_length=1, max_length=256)] | None = None

    @model_validator(mode="after")
    def refuse_both(self) -> "ReadRequest":
        """Refuse all but exactly one of the two."""
        if (self.text is None) == (self.documents is None):
            refuse("text, documents", "a text or documents can be read; give one of the two.")
        return self


class ForgetRequest(Schema):
    """Of `/v1/memory/forget`; without ids, a purge is of what was forgotten before."""

    ids: Ids
    purge: bool = False
    cost: bool = False

    @model_validator(mode="after")
    def refuse_none(self) -> "ForgetRequest":
        """Refuse a request with nothing to do."""
        if not self.ids and not self.purge:
            refuse("ids", "no document was named; give some, or purge to forget earlier ones in snapshots as well.")
        return self


class ExpireRequest(Schema):
    """Of `/v1/memory/expire`."""

    before: Time
    purge: bool = False
    cost: bool = False


class SnapshotRequest(Schema):
    """Of `/v1/snapshots`."""

    name: Annotated[str, Field(min_length=1, max_length=64)]


class RestoreRequest(Schema):
    """Of `/v1/snapshots/restore`."""

    snapshot: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    before: Id | None = None
    as_of: Time | None = None
    cost: bool = False

    @model_validator(mode="after")
    def refuse_others(self) -> "RestoreRequest":
        """Refuse all but exactly one of the three."""
        if sum(one is not None for one in (self.snapshot, self.before, self.as_of)) != 1:
            refuse("snapshot, before, as_of", "these are three ways to name a state; give one of them.")
        return self


class Failure(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: str | None


class Refusal(BaseModel):
    """Of every answer that is not a success; `read` are the documents of a request that were read before."""

    error: Failure
    read: list[str] | None = None
