"""A prefix of keys and values: what it does to answers, and that it does so in every family alike."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from driftlm.bank.modulate import Prefix, PrefixModulation, answer_nats, behind, generate
from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import end_token
from tests.conformance.build import language_model
from tests.families import BOS, FAMILIES, SLIDING_WINDOW

VECTORS = 3
families = pytest.mark.parametrize("family", FAMILIES)
without_window = pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gemma"])


def frozen(family: str) -> LanguageModel:
    made = language_model(family)
    made.model.requires_grad_(False)
    return made


def random_prefix(model: LanguageModel, rows: int, positions: int = VECTORS, scale: float = 1.0) -> Prefix:
    made = PrefixModulation(model.model.config, positions).requires_grad_(False)
    prefix = made(torch.randn(rows, positions, model.model.config.hidden_size))
    return [(scale * keys, scale * values) for keys, values in prefix]


@torch.no_grad()
def kept(model: LanguageModel, rows: Sequence[Sequence[int]]) -> Prefix:
    """Keys and values of real tokens, as the model itself makes them."""
    cache = DynamicCache()
    model.model(input_ids=torch.tensor(rows), past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


@torch.no_grad()
def plain_nats(model: LanguageModel, before: Sequence[int], answer: Sequence[int]) -> Tensor:
    logits = model.model(input_ids=torch.tensor([[*before, *answer]]), use_cache=False).logits[0]
    return F.cross_entropy(logits[len(before) - 1 : -1], torch.tensor(answer), reduction="none")


@torch.no_grad()
def greedy(model: LanguageModel, prompt: Sequence[int], prefix: Prefix | None, longest: int) -> list[int]:
    """One row, everything behind the prefix read again for each token."""
    said: list[int] = []
    while len(said) < longest:
        cache, before = behind(prefix)
        ids = torch.tensor([[*prompt, *said]])
        places = torch.arange(before, before + ids.shape[1])[None]
        logits = model.model(input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True).logits
        said.append(int(logits[0, -1].argmax()))
        if said[-1] == end_token(model):
            return said[:-1]
    return said


class Ids:
    """A tokenizer that spells ids in decimal, so that no two answers look alike."""

    eos_token_id = BOS

    def batch_decode(self, rows: list[list[int]], skip_special_tokens: bool) -> list[str]:
        return [spelled(row) for row in rows]


def spelled(row: Sequence[int]) -> str:
    return " ".join(map(str, row))


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
    alone = [[(k[row, None], v[row, None]) for k, v in prefix] for row in range(len(prompts))]
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
