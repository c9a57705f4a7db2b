"""The routes `/v1/completions` and `/v1/chat/completions`, as the OpenAI API has them."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from driftlm.core.errors import DriftError
from driftlm.homes.completing import Sampling, turn
from driftlm.homes.prompts import Prompt, Role, continued, tokenized
from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import tokens
from driftlm.serving.replies import CHAT, COMPLETION, Form, Reply
from driftlm.serving.requests import Missing, Requests
from driftlm.serving.streaming import Spoken

if TYPE_CHECKING:
    from driftlm.serving.schemas import CompletionRequest, Generation

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "text/event-stream": {}}, "description": "Whole, or a stream of pieces."}
}


def sampling_of(requests: Requests, asked: "Generation", tokens: int | None, alternatives: int | None) -> Sampling:
    """Return how a request wants its tokens chosen.

    Raises:
        DriftError: when it asks for another model, or for more tokens than the server writes.
    """
    if asked.model != requests.name:
        raise Missing(f"there is no model {asked.model!r}; this server has {requests.name!r}.")
    if tokens is not None and tokens > requests.limits.max_tokens:
        raise DriftError(f"{tokens} tokens were asked for, and {requests.limits.max_tokens} are written at most.")
    temperature = 1.0 if asked.temperature is None else asked.temperature
    top_p = 1.0 if asked.top_p is None else asked.top_p
    return Sampling(tokens, temperature, top_p, asked.seed, asked.stops, alternatives)


def prompt_of(language_model: LanguageModel, asked: "CompletionRequest") -> Prompt:
    """Return what a completion continues; one that is echoed has tokens of its own."""
    if isinstance(asked.one, str) and not asked.echo:
        return continued(language_model, asked.one)
    ids = tokens(language_model, asked.one) if isinstance(asked.one, str) else asked.one
    return tokenized(language_model, ids)


def completion_routes(requests: Requests) -> Any:
    """Return the router of completions."""
    from fastapi import APIRouter, Request
    from fastapi.responses import JSONResponse, Response, StreamingResponse

    from driftlm.serving.schemas import ChatRequest, CompletionRequest

    router = APIRouter(prefix="/v1")

    async def respond(request: Request, asked: Any, form: Form, prompt: Prompt, sampling: Sampling) -> Response:
        spoken = Spoken(requests, request, prompt, sampling)
        reply = Reply(form, requests.name, sampling.alternatives is not None)
        if not asked.stream:
            completion = await spoken.completion()
            return JSONResponse(reply.whole(completion), headers=spoken.timing())
        first = await spoken.first()
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return StreamingResponse(
            reply.events(spoken, first, usage),
            media_type="text/event-stream",
            headers={"cache-control": "no-store"} | spoken.timing(),
        )

    @router.post("/completions", responses=STREAMED)
    async def completions(request: Request, asked: CompletionRequest) -> Response:
        sampling = replace(sampling_of(requests, asked, asked.max_tokens, asked.logprobs), echo=bool(asked.echo))
        return await respond(request, asked, COMPLETION, prompt_of(requests.language_model, asked), sampling)

    @router.post("/chat/completions", responses=STREAMED)
    async def chat(request: Request, asked: ChatRequest) -> Response:
        alternatives = (asked.top_logprobs or 0) if asked.logprobs else None
        tokens = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
        turns: list[tuple[Role, str]] = [
            ("system" if one.role == "developer" else one.role, one.text) for one in asked.messages
        ]
        prompt, sampling = turn(requests.language_model, turns, sampling_of(requests, asked, tokens, alternatives))
        return await respond(request, asked, CHAT, prompt, sampling)

    return router
