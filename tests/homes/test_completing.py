"""What is written is what transformers' own generation writes, cut at the stops, with the model's own probabilities."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from driftlm import Document, DriftError, Learning, Windows, read_stream
from driftlm.homes.completing import Piece, Sampling, Text, choose, room_for
from driftlm.homes.decoding import complete
from driftlm.homes.prompts import chatted, continued
from driftlm.memories.build import memory_for
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.models.answers import generate
from driftlm.models.prompting import prompt_ids
from tests.support.build import language_model
from tests.support.families import FAMILIES
from tests.support.homes import KINDS, model
from tests.support.running import words

PROMPTS = ["the sea and the ship", "thing", "in that storm é was red on 1999"]


def frozen(family: str = "llama") -> WeightMemory:
    return WeightMemory(language_model(family), Windows("overlapping", 32, 16), Learning("none"))


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_is_that_of_transformers(family: str) -> None:
    memory = frozen(family)
    for prompt in PROMPTS:
        pieces = list[Piece]()
        ids = continued(memory.language_model, prompt).ids("")
        made = complete(
            memory, continued(memory.language_model, prompt), Sampling(20, temperature=0), 99, pieces.append
        )
        out = memory.language_model.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            max_new_tokens=20,
            do_sample=False,
            pad_token_id=0,
        )[0].tolist()
        decode = memory.language_model.tokenizer.decode
        whole = decode(out, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert made.text == whole.removeprefix(prompt) and whole.startswith(prompt)
        assert "".join(piece.text for piece in pieces) == made.text
        assert made.prompt_tokens == len(ids)
        assert made.completion_tokens == len([id for id in out[len(ids) :] if id != 0])
        assert made.reason == ("stop" if made.completion_tokens < 20 else "length")


@pytest.mark.parametrize("kind", ["all adam", "learns behind words"])
def test_it_writes_with_what_was_learned_behind_what_was_kept(kind: str) -> None:
    memory = memory_for(KINDS[kind], model(), None)
    question = f"the ship {words(3)}"
    before = complete(memory, chatted(model(), [("user", question)]), Sampling(24, temperature=0), 24)
    for _ in read_stream(memory, [Document("a", f"{question} the storm was here " * 8)]):
        pass
    made = complete(memory, chatted(model(), [("user", question)]), Sampling(24, temperature=0, strip=True), 24)
    if kind == "all adam":
        assert made.text == generate(memory.language_model, [prompt_ids(model(), question)], None)[0]
        assert made.documents == ()
    else:
        answer = memory.answer(question)
        assert (made.text, made.documents) == (answer.text, answer.documents)
    assert made.text != before.text.strip()


def test_log_probabilities_are_those_of_one_forward_pass() -> None:
    memory = frozen()
    made = complete(memory, continued(model(), "the sea"), Sampling(12, 1.3, 0.9, seed=3, alternatives=4), 12)
    ids = [0, *memory.language_model.tokenizer("the sea", add_special_tokens=False)["input_ids"]]
    for token in made.tokens:
        nats = torch.log_softmax(memory.language_model.model(torch.tensor([ids])).logits[0, -1].double(), -1)
        decode = memory.language_model.tokenizer.decode
        order = nats.argsort(descending=True)[:4].tolist()
        assert [text for text, _ in token.likeliest] == [decode([id]) for id in order]
        assert [value for _, value in token.likeliest] == pytest.approx(nats[order].tolist(), abs=1e-5)
        fitting = [id for id in range(len(nats)) if decode([id]) == token.text]
        chosen = min(fitting, key=lambda id: abs(float(nats[id]) - token.logprob))
        assert token.logprob == pytest.approx(float(nats[chosen]), abs=1e-5)
        ids.append(chosen)
    assert len(made.tokens) == made.completion_tokens > 0


LETTERS = [model().tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "theé "]


@given(
    st.lists(st.sampled_from(LETTERS) | st.integers(1, 299), max_size=40),
    st.lists(st.text("theé ", min_size=1, max_size=3), max_size=3),
)
def test_text_ends_before_the_first_stop_and_never_takes_back(ids: list[int], stops: list[str]) -> None:
    """The stop that is complete first ends it: of those, the one that begins first."""
    tokenizer = model().tokenizer
    text = Text(tokenizer, [], Sampling(stop=tuple(stops), alternatives=0))
    said, logits = "", torch.zeros(300)
    for id in ids:
        piece, stopped = text.add(id, logits)
        said += piece.text
        assert not any(stop in said for stop in stops)
        if stopped:
            break
    said += text.rest().text
    whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert whole.startswith(said) and text.said == said
    if not any(stop in whole for stop in stops):
        assert said == whole and not text.stopped
    else:
        assert text.stopped and any(whole[len(said) :].startswith(stop) for stop in stops)
    assert all(token.offset < max(len(said), 1) or not stopped for token in text.tokens for stopped in [text.stopped])


@given(st.lists(st.integers(1, 299), max_size=30))
def test_white_space_at_both_ends_is_left_out(ids: list[int]) -> None:
    text, said = Text(model().tokenizer, [], Sampling(strip=True)), ""
    for id in ids:
        said += text.add(id, torch.zeros(300))[0].text
        assert said == said.strip()
    said += text.rest().text
    assert said == model().tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()


def test_tokens_are_drawn_by_their_probability() -> None:
    probabilities = torch.tensor([0.4, 0.3, 0.2, 0.1])
    generator = torch.Generator().manual_seed(0)
    for temperature, top_p, kept in ((1.0, 1.0, 4), (0.5, 1.0, 4), (1.0, 0.69, 2), (1.0, 0.71, 3), (2.0, 1e-9, 1)):
        weights = [p ** (1 / temperature) for p in (0.4, 0.3, 0.2, 0.1)[:kept]]
        sampling = Sampling(temperature=temperature, top_p=top_p)
        seen = Counter(choose(probabilities.log(), sampling, generator) for _ in range(1500))
        for token in range(4):
            share = weights[token] / sum(weights) if token < kept else 0.0
            assert abs(seen[token] / 1500 - share) <= 5 * math.sqrt(share * (1 - share) / 1500)


def test_a_seed_gives_the_same_text_again() -> None:
    memory, prompt = frozen(), continued(model(), "the")
    texts = [complete(memory, prompt, Sampling(16, seed=seed), 16).text for seed in (1, 1, 2, -5, None, None)]
    assert texts[0] == texts[1] and len(set(texts)) == 5


def test_what_cannot_be_written_is_refused() -> None:
    memory = frozen()
    with pytest.raises(DriftError, match="512 positions"):
        complete(memory, continued(model(), "the " * 700), Sampling(), 8)
    with pytest.raises(DriftError, match="shorten one of them"):
        complete(memory, continued(model(), "the sea"), Sampling(511), 8)
    assert room_for(model(), 8, 500, None, 99) == 4
    mixture = memory_for(KINDS["mixture"], model(), None)
    with pytest.raises(DriftError, match="mixture"):
        complete(mixture, continued(model(), "the"), Sampling(), 8)
    with pytest.raises(DriftError, match="no numbers"):
        choose(torch.tensor([0.0, math.nan]), Sampling(), torch.Generator())


def test_nothing_is_written_for_nobody() -> None:
    asked = iter([False, False, True])
    made = complete(
        frozen(), continued(model(), "the"), Sampling(50, temperature=1, seed=1), 50, gone=lambda: next(asked)
    )
    assert made.completion_tokens == 2
