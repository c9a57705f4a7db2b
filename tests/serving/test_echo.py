"""An echo scores a prompt as the model itself does, whoever tokenized it, and what is scored is not learned."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from driftlm import Document, Windows, read_stream
from driftlm.homes.completing import ECHOED, Sampling
from driftlm.homes.decoding import complete
from driftlm.homes.prompts import tokenized
from driftlm.memories.build import memory_for
from driftlm.models.prompting import tokens
from driftlm.streams.windows import split
from tests.support.homes import KINDS, model
from tests.support.running import words
from tests.support.servers import Server, events, server

TEXT = f"the sea was red and é {words(6)}"
STORM = ("a", "the storm was here and the ship " * 12)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose home has learned from a text."""
    with server(tmp_path_factory.mktemp("homes"), "all adam") as one:
        assert one.read(STORM).status_code == 200
        yield one


def scored(settings: Any, read: list[tuple[str, str]], ids: list[int]) -> list[float]:
    """Nats of tokens by a memory that has read the same, as it scores a window before it would learn."""
    memory = memory_for(settings, model(), None)
    for _ in read_stream(memory, [Document(*one) for one in read]):
        pass
    whole = [model().bos, *ids]
    ends = list(range(len(whole)))  # nothing is said of bytes
    (window,) = split("asked", whole, ends, Windows("overlapping", 64, 64))
    return memory.scorer.forward(window).nats.tolist()


@pytest.mark.parametrize("given", ["text", "tokens", "batch of one", "behind BOS"])
def test_an_echo_has_the_scores_of_the_process(learned: Server, given: str) -> None:
    ids = tokens(model(), TEXT)
    prompt = {"text": TEXT, "tokens": ids, "batch of one": [ids], "behind BOS": [model().bos, *ids]}[given]
    made = learned.complete(prompt, echo=True, logprobs=2, max_tokens=0).json()  # type: ignore[arg-type]
    found = made["choices"][0]["logprobs"]
    if given == "behind BOS":
        assert found["token_logprobs"].pop(0) is None and found["top_logprobs"].pop(0) is None
        assert found["text_offset"].pop(0) == 0 and found["tokens"].pop(0)
    nats = scored(KINDS["all adam"], [STORM], ids)
    assert found["token_logprobs"] == pytest.approx([-one for one in nats], abs=1e-5)
    assert nats != pytest.approx(scored(KINDS["all adam"], [], ids), abs=1e-2)  # of what was learned
    assert made["choices"][0]["text"] == TEXT and made["choices"][0]["finish_reason"] == "length"
    assert made["usage"] == {"prompt_tokens": len(ids) + 1, "completion_tokens": 0, "total_tokens": len(ids) + 1}
    assert [
        len(one) <= 2 and one == dict(sorted(one.items(), key=lambda two: -two[1])) for one in found["top_logprobs"]
    ]
    assert all(max(top.values()) >= own for top, own in zip(found["top_logprobs"], found["token_logprobs"]))
    assert "".join(found["tokens"]).encode().count(b"sea") == 1 and found["text_offset"] == sorted(found["text_offset"])
    again = learned.complete(prompt, echo=True, logprobs=2, max_tokens=0).json()  # type: ignore[arg-type]
    assert again["choices"][0]["logprobs"]["token_logprobs"][-len(ids) :] == found["token_logprobs"]
    assert len(learned.client.get("/v1/memory").json()["data"]) == 1


def test_behind_an_echo_it_writes_as_without(learned: Server) -> None:
    plain = learned.complete(TEXT, max_tokens=7, logprobs=1).json()["choices"][0]
    whole = learned.complete(TEXT, max_tokens=7, logprobs=1, echo=True).json()["choices"][0]
    assert whole["text"] == TEXT + plain["text"]
    count = len(plain["logprobs"]["tokens"])
    assert whole["logprobs"]["tokens"][-count:] == plain["logprobs"]["tokens"]
    assert whole["logprobs"]["token_logprobs"][-count:] == pytest.approx(plain["logprobs"]["token_logprobs"], abs=1e-5)
    shift = len(TEXT)
    assert whole["logprobs"]["text_offset"][-count:] == [shift + one for one in plain["logprobs"]["text_offset"]]
    stopped = learned.complete(TEXT, max_tokens=7, echo=True, stop=["sea", plain["text"][2:4]]).json()["choices"][0]
    assert stopped["text"] == TEXT + plain["text"][:2]  # what stands in the prompt stops nothing
    streamed = events(learned.complete(TEXT, max_tokens=7, logprobs=1, echo=True, stream=True).text)
    choices = [choice for event in streamed for choice in event["choices"]]
    assert "".join(one["text"] for one in choices) == whole["text"]
    parts = [one for choice in choices if choice["logprobs"] for one in choice["logprobs"]["token_logprobs"]]
    assert parts == whole["logprobs"]["token_logprobs"]


def test_the_end_token_counts_behind_an_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = memory_for(KINDS["words"], model(), None)
    ids = tokens(model(), TEXT)
    sampling = Sampling(1, temperature=0, alternatives=1, echo=True)
    before = complete(memory, tokenized(model(), ids), sampling, 1)
    chosen = memory.language_model.model(torch.tensor([[model().bos, *ids]])).logits[0, -1].argmax()
    monkeypatch.setattr("driftlm.homes.completing.end_tokens", lambda _: {int(chosen)})
    after = complete(memory, tokenized(model(), ids), sampling, 1)
    assert [one.logprob for one in after.tokens] == [one.logprob for one in before.tokens]
    assert len(after.tokens) == len(ids) + 1
    assert (after.reason, after.completion_tokens, after.text) == ("stop", 0, TEXT)


def test_a_long_prompt_is_scored_in_parts_behind_what_sources_supply(tmp_path: Path) -> None:
    memory = memory_for(KINDS["words"], model(), None)
    for _ in read_stream(memory, [Document(*STORM)]):
        pass
    ids = (tokens(model(), f"the storm {words(400)}"))[: ECHOED + 40]
    prompt = tokenized(model(), ids)
    (supplied,) = memory.supplied([prompt.question]).texts
    made = complete(memory, prompt, Sampling(0, alternatives=0, echo=True), 1)
    assert supplied and len(made.tokens) == len(ids) and made.documents
    whole = [model().bos, *tokens(model(), f"{supplied}\n"), *ids]
    nats = torch.log_softmax(memory.language_model.model(torch.tensor([whole])).logits[0].double(), -1)
    expected = [float(nats[place - 1, whole[place]]) for place in range(len(whole) - len(ids), len(whole))]
    assert [one.logprob for one in made.tokens] == pytest.approx(expected, abs=1e-5)
    assert replace(made.tokens[0], likeliest=()).offset == 0
