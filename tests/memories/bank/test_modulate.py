"""A prefix of keys and values: what it does to answers, and that it does so in every family alike; beam search."""

from collections.abc import Sequence
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LlamaConfig, LlamaForCausalLM

from driftlm.core.errors import DriftError
from driftlm.memories.bank.modulate import Prefix, PrefixModulation
from driftlm.models.answers import answer_nats, generate
from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import end_token
from tests.support.families import BOS, FAMILIES, SLIDING_WINDOW
from tests.support.made_modulations import VECTORS, Ids, frozen, random_prefix, spelled

pytestmark = pytest.mark.long

families = pytest.mark.parametrize("family", FAMILIES)
without_window = pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gemma"])


@torch.no_grad()
def kept(model: LanguageModel, rows: Sequence[Sequence[int]]) -> Prefix:
    """Keys and values of real tokens, as the model itself makes them."""
    cache = DynamicCache()
    model.model(input_ids=torch.tensor(rows), past_key_values=cache, use_cache=True)
    return Prefix((layer.keys, layer.values) for layer in cache.layers)


@torch.no_grad()
def plain_nats(model: LanguageModel, before: Sequence[int], answer: Sequence[int]) -> Tensor:
    logits = model.model(input_ids=torch.tensor([[*before, *answer]]), use_cache=False).logits[0]
    return F.cross_entropy(logits[len(before) - 1 : -1], torch.tensor(answer), reduction="none")


@torch.no_grad()
def greedy(model: LanguageModel, prompt: Sequence[int], prefix: Prefix | None, longest: int) -> list[int]:
    """One row, everything behind the prefix read again for each token."""
    said: list[int] = []
    while len(said) < longest:
        cache, before = DynamicCache(prefix), 0 if prefix is None else prefix[0][0].shape[2]
        ids = torch.tensor([[*prompt, *said]])
        places = torch.arange(before, before + ids.shape[1])[None]
        logits = model.model(input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True).logits
        said.append(int(logits[0, -1].argmax()))
        if said[-1] == end_token(model):
            return said[:-1]
    return said


@families
def test_a_prefix_has_the_key_value_heads_and_the_head_width_of_the_model(family: str) -> None:
    model = frozen(family)
    prefix = random_prefix(model, rows=2)
    real = kept(model, [[BOS, 5, 6], [BOS, 7, 8]])
    assert len(prefix) == len(real) == model.model.config.num_hidden_layers
    for (keys, values), (real_keys, real_values) in zip(prefix, real, strict=True):
        assert keys.shape == real_keys.shape and values.shape == real_values.shape


def test_grouped_queries_have_fewer_heads_in_the_prefix() -> None:
    shapes = {name: tuple(random_prefix(frozen(name), rows=2)[0][0].shape) for name in FAMILIES}
    few, all_heads = (2, 2, VECTORS, 8), (2, 4, VECTORS, 8)
    assert shapes == {"llama": few, "qwen": few, "gemma": few, "gpt2": all_heads, "neox": all_heads}


@families
def test_a_prefix_of_real_tokens_gives_the_nats_of_reading_them(family: str) -> None:
    """All of it within Gemma's window."""
    model = frozen(family)
    read = [[BOS, 11, 42], [BOS, 99, 250]]
    prompts, answers = [[17, 33], [201]], [[61, 62], [64, 65, BOS]]
    assert max(len(r) + len(p) + len(a) for r, p, a in zip(read, prompts, answers)) <= SLIDING_WINDOW
    with torch.no_grad():
        nats, there, right = answer_nats(model, prompts, answers, kept(model, read))
    assert there.tolist() == [[True, True, False], [True, True, True]]
    assert nats[0, 2] == 0 and not right[0, 2]
    for row, (before, prompt, answer) in enumerate(zip(read, prompts, answers, strict=True)):
        expected = plain_nats(model, [*before, *prompt], answer)
        torch.testing.assert_close(nats[row, : len(answer)], expected, atol=1e-5, rtol=1e-5)


@without_window
def test_a_long_prefix_of_real_tokens_gives_the_nats_of_reading_them(family: str) -> None:
    model = frozen(family)
    read = [BOS, *torch.randint(1, 300, (40,)).tolist()]
    prompt, answer = torch.randint(1, 300, (20,)).tolist(), torch.randint(1, 300, (7,)).tolist()
    with torch.no_grad():
        nats, _, _ = answer_nats(model, [prompt], [answer], kept(model, [read]))
    torch.testing.assert_close(nats[0], plain_nats(model, [*read, *prompt], answer), atol=1e-5, rtol=1e-5)


@families
def test_the_likeliest_token_is_right_and_any_other_wrong(family: str) -> None:
    model = frozen(family)
    prompt, prefix = [BOS, 5], random_prefix(model, rows=1)
    first = greedy(model, prompt, prefix, 1) or [end_token(model)]
    assert answer_nats(model, [prompt], [first], prefix)[2].tolist() == [[True]]
    assert answer_nats(model, [prompt], [[(first[0] + 1) % 300]], prefix)[2].tolist() == [[False]]


@families
def test_nats_depend_on_the_prefix(family: str) -> None:
    model = frozen(family)
    one, other = (answer_nats(model, [[BOS, 5]], [[6, 7]], random_prefix(model, rows=1))[0] for _ in range(2))
    assert (one - other).abs().min() > 1e-4


@families
def test_without_a_prefix_nats_and_answers_are_the_plain_models(family: str) -> None:
    model = frozen(family)
    model.tokenizer = Ids()
    prompt, answer = [BOS, 17, 33], [61, 62, BOS]
    nats, _, _ = answer_nats(model, [prompt], [answer], None)
    torch.testing.assert_close(nats[0], plain_nats(model, prompt, answer), atol=1e-5, rtol=1e-5)
    said: list[int] = []
    while len(said) < 4 and BOS not in said:
        said.append(int(model.model(input_ids=torch.tensor([[*prompt, *said]])).logits[0, -1].argmax()))
    assert generate(model, [prompt], None, longest=4) == [spelled([token for token in said if token != BOS])]


def check_answers(family: str, prompts: list[list[int]], longest: int) -> None:
    model = frozen(family)
    model.tokenizer = Ids()
    prefix = random_prefix(model, len(prompts), scale=3.0)
    alone = [prefix.rows([row]) for row in range(len(prompts))]
    expected = [spelled(greedy(model, prompt, one, longest)) for prompt, one in zip(prompts, alone, strict=True)]
    assert generate(model, prompts, prefix, longest) == expected
    assert [generate(model, [p], one, longest)[0] for p, one in zip(prompts, alone, strict=True)] == expected
    assert len(set(expected)) > 1


@without_window
def test_an_answer_is_a_loop_without_a_cache_whatever_rows_stand_beside_it(family: str) -> None:
    prompts = [[BOS, 5], [BOS, *torch.randint(1, 300, (17,)).tolist()], [BOS, 9, 8, 7, 6, 44]]
    check_answers(family, prompts, longest=12)


def test_an_answer_within_the_window_is_a_loop_without_a_cache_whatever_rows_stand_beside_it() -> None:
    check_answers("gemma", [[BOS, 5], [BOS, 6, 120]], longest=SLIDING_WINDOW - VECTORS - 3)


@families
def test_answers_end_before_the_end_token(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever token a row says last is made the end token: that row stops there, the other goes on."""
    model = frozen(family)
    model.tokenizer = Ids()
    prefix = random_prefix(model, rows=2)
    prompts = [[BOS, 5], [BOS, 60]]
    whole = [list(map(int, text.split())) for text in generate(model, prompts, prefix, longest=3)]
    monkeypatch.setattr(Ids, "eos_token_id", whole[0][0])
    ended = [row[: row.index(whole[0][0])] if whole[0][0] in row else row for row in whole]
    assert generate(model, prompts, prefix, longest=3) == list(map(spelled, ended))
    assert ended[0] == []


@families
def test_what_comes_with_a_model_changes_no_answer(family: str) -> None:
    """Hub models bring penalties and forbidden tokens in their generation settings; they stay there, unused."""
    model = frozen(family)
    model.tokenizer = Ids()
    prompts, prefix = [[BOS, 5], [BOS, 60]], random_prefix(model, rows=2, scale=3.0)
    expected = generate(model, prompts, prefix, longest=3)
    tokens = [int(token) for text in expected for token in text.split()]
    held = GenerationConfig(suppress_tokens=tokens, repetition_penalty=9.0, num_beams=3, min_new_tokens=2)
    model.model.generation_config = held
    assert generate(model, prompts, prefix, longest=3) == expected
    assert model.model.generation_config is held


def few_words(seed: int) -> LanguageModel:
    """Six tokens, of which 0 ends an answer: all answers can be counted."""
    config = LlamaConfig(
        vocab_size=6,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=BOS,
        eos_token_id=BOS,
    )
    torch.manual_seed(seed)
    made = LlamaForCausalLM(config).eval().requires_grad_(False)
    for weight in made.parameters():
        weight.add_(0.3 * torch.randn(weight.shape))
    return LanguageModel(made, Ids(), "few words", BOS, "")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("with_prefix", [False, True])
def test_many_beams_find_the_best_of_all_answers(seed: int, with_prefix: bool) -> None:
    """Best by the mean log-probability of its tokens, the end token among them; rows of other lengths beside it."""
    model, longest, prompts = few_words(seed), 3, [[BOS, 2], [BOS, 4, 4, 1, 5]]
    prefix = random_prefix(model, rows=2, scale=3.0) if with_prefix else None
    inner = [list(one) for length in range(longest + 1) for one in product(range(1, 6), repeat=length)]
    every = [answer if len(answer) == longest else [*answer, BOS] for answer in inner]
    best = []
    for row, prompt in enumerate(prompts):
        rows = None if prefix is None else prefix.rows([row] * len(every))
        nats, there, _ = answer_nats(model, [prompt] * len(every), every, rows)
        found = every[int((nats.sum(1) / there.sum(1)).argmin())]
        best.append(spelled([token for token in found if token != BOS]))
    assert generate(model, prompts, prefix, longest, beams=36) == best


@torch.no_grad()
def searched(model: LanguageModel, prompt: list[int], prefix: Prefix, longest: int, beams: int) -> list[int]:
    """Beam search to the last token: an end counts where it is among the best continuations, and never stops others."""
    running, ended = [(0.0, list[int]())], []
    for length in range(1, longest + 1):
        found = []
        for score, said in running:
            cache, ids = DynamicCache(prefix), torch.tensor([[*prompt, *said]])
            places = torch.arange(VECTORS, VECTORS + ids.shape[1])[None]
            logits = model.model(input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True).logits
            every = logits[0, -1].log_softmax(0).tolist()
            found += [(score + more, [*said, token]) for token, more in enumerate(every)]
        found.sort(reverse=True)
        over = [one for one in found[:beams] if one[1][-1] == BOS or length == longest]
        ended += [(score / length, said) for score, said in over]
        running = [one for one in found if one[1][-1] != BOS][:beams]
    return max(ended)[1]


@pytest.mark.parametrize("beams", [2, 3])
def test_few_beams_find_what_a_search_to_the_last_token_finds(beams: int) -> None:
    """A search that stops early, once as many answers have ended as there are beams, finds others."""
    ends = set()
    for seed in range(12):
        model = few_words(seed)
        prompt, prefix = [BOS, 2], random_prefix(model, rows=1, scale=3.0)
        best = searched(model, prompt, prefix, 6, beams)
        ends.add(len(best))
        assert generate(model, [prompt], prefix, 6, beams) == [spelled([token for token in best if token != BOS])]
    assert len(ends) > 1


@families
def test_a_beam_search_answers_no_worse_than_greedily_and_row_by_row_alike(family: str) -> None:
    model = frozen(family)
    model.tokenizer = Ids()
    prompts = [[BOS, 5], [BOS, 6, 120], [BOS, 7], [BOS, 90, 8], [BOS, 33], [BOS, 200]]
    longest, prefix = 2, random_prefix(model, len(prompts), scale=3.0)
    costs = []
    for beams in (1, 8):
        said = generate(model, prompts, prefix, longest, beams)
        assert said == [generate(model, [p], prefix.rows([n]), longest, beams)[0] for n, p in enumerate(prompts)]
        spoken = [[*map(int, text.split())] for text in said]
        answers = [one if len(one) == longest else [*one, BOS] for one in spoken]
        nats, there, _ = answer_nats(model, prompts, answers, prefix)
        costs.append(nats.sum(1) / there.sum(1))
    assert (costs[1] <= costs[0] + 1e-5).all() and (costs[1] < costs[0] - 1e-3).any()


@pytest.mark.parametrize(("longest", "beams"), [(0, 1), (1, 0)])
def test_an_answer_of_nothing_is_refused(longest: int, beams: int) -> None:
    with pytest.raises(DriftError, match="give at least 1 of each"):
        generate(frozen("llama"), [[BOS]], None, longest, beams)


@families
def test_a_model_in_bfloat16_takes_a_prefix_in_float32(family: str) -> None:
    """The model's type decides, and under autocast that one."""
    model = frozen(family)
    prompts, answers, prefix = [[BOS, 5, 6], [BOS, 7]], [[8], [9, 10]], random_prefix(model, rows=2)
    expected = answer_nats(model, prompts, answers, prefix)[0]
    with torch.autocast("cpu", torch.bfloat16):
        cast = answer_nats(model, prompts, answers, prefix)[0]
    model.model.bfloat16()
    half = answer_nats(model, prompts, answers, prefix)[0]
    for other in (cast, half):
        assert 0 < (other - expected).abs().max() < 0.3
    assert len(generate(model, prompts, prefix, longest=2, beams=2)) == 2


@families
def test_gradients_reach_the_modulation_and_no_weight_of_the_model(family: str) -> None:
    model = frozen(family)
    made = PrefixModulation(model.model.config, VECTORS)
    modulation = torch.randn(2, VECTORS, model.model.config.hidden_size, requires_grad=True)
    prefix = made(modulation)
    for tensor in (tensor for layer in prefix for tensor in layer):
        tensor.retain_grad()
    answer_nats(model, [[BOS, 5, 6], [BOS, 7]], [[8], [9, 10]], prefix)[0].sum().backward()
    # Keys too: softmax over two or more positions depends on each.
    for tensor in (tensor for layer in prefix for tensor in layer):
        assert tensor.grad is not None and (tensor.grad.flatten(2).abs().amax(dim=2) > 0).all()
    assert modulation.grad is not None and (modulation.grad.abs().amax(dim=2) > 0).all()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in made.parameters())
    assert all(weight.grad is None for weight in model.model.parameters())
