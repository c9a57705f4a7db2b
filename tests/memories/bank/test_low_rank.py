"""Low-rank changes of a model's linear maps: the same as changed weights, row by row, and gone afterwards."""

import pytest
import torch

from driftlm.core.errors import DriftError
from driftlm.memories.bank.low_rank import LowRank, LowRankModulation
from driftlm.models.answers import answer_nats, generate
from driftlm.models.loading import LanguageModel
from tests.support.families import BOS, FAMILIES
from tests.support.made_modulations import Ids, frozen, low_rank_network, spelled

VECTORS, RANK = 3, 2
PROMPTS, ANSWERS = [[BOS, 5], [BOS, *range(20, 31)], [BOS, 9, 8, 7]], [[8, 9], [10], [11, 12, BOS]]
families = pytest.mark.parametrize("family", FAMILIES)


def changes(model: LanguageModel, targets: str = "") -> LowRank:
    """One for each prompt."""
    with torch.no_grad():
        return low_rank_network(model, targets)(torch.randn(len(PROMPTS), VECTORS, model.model.config.hidden_size))


def merged(family: str, changed: LowRank, row: int) -> LanguageModel:
    """The model with the change of one row added to its weights."""
    model = frozen(family)
    for name, (down, up) in changed.factors.items():
        module = model.model.get_submodule(name)
        delta = torch.einsum("ir,ro->io", down[row], up[row])
        module.weight.add_(delta if type(module).__name__ == "Conv1D" else delta.T)
    return model


def bits(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.model.state_dict().items()}


@families
def test_the_targets_are_the_attentions_queries_and_values(family: str) -> None:
    model = frozen(family)
    found = {name.rsplit(".", 1)[-1] for name in low_rank_network(model).shapes}
    assert found == {"gpt2": {"c_attn"}, "neox": {"query_key_value"}}.get(family, {"q_proj", "v_proj"})
    layers = model.model.config.num_hidden_layers
    assert len(low_rank_network(model).shapes) == len(found) * layers


@families
@pytest.mark.parametrize("targets", ["", "all-linear"])
def test_each_row_answers_as_if_its_change_were_in_the_weights(family: str, targets: str) -> None:
    model = frozen(family)
    changed = changes(model, targets)
    nats, _, right = answer_nats(model, PROMPTS, ANSWERS, changed)
    plain = answer_nats(model, PROMPTS, ANSWERS, None)[0]
    assert ((nats - plain).abs().amax(dim=1) > 1e-2).all()
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        own = answer_nats(merged(family, changed, row), [prompt], [answer], None)
        torch.testing.assert_close(nats[row, : len(answer)], own[0][0], atol=1e-5, rtol=1e-5)
        assert right[row, : len(answer)].tolist() == own[2][0].tolist()


@families
@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_changed_weights_whatever_rows_stand_beside_them(family: str, beams: int) -> None:
    model = frozen(family)
    model.tokenizer = Ids()
    changed = changes(model)
    said = generate(model, PROMPTS, changed, 5, beams)
    for row, prompt in enumerate(PROMPTS):
        own = merged(family, changed, row)
        own.tokenizer = Ids()
        assert said[row] == generate(own, [prompt], None, 5, beams)[0]
    assert said != generate(model, PROMPTS, None, 5, beams) and len(set(said)) > 1


@families
def test_an_answer_is_the_likeliest_token_of_each_full_forward_pass(family: str) -> None:
    model = frozen(family)
    model.tokenizer = Ids()
    changed = changes(model).rows([2])
    said: list[int] = []
    with torch.no_grad(), changed.on(model.model):
        while len(said) < 5 and BOS not in said:
            logits = model.model(input_ids=torch.tensor([[*PROMPTS[2], *said]]), use_cache=False).logits
            said.append(int(logits[0, -1].argmax()))
    assert generate(model, [PROMPTS[2]], changed, 5) == [spelled([token for token in said if token != BOS])]


@families
def test_before_training_the_model_is_itself(family: str) -> None:
    model = frozen(family)
    fresh = LowRankModulation(model.model, VECTORS, RANK)
    changed = fresh(torch.randn(len(PROMPTS), VECTORS, model.model.config.hidden_size))
    nats = answer_nats(model, PROMPTS, ANSWERS, changed)[0]
    assert torch.equal(nats, answer_nats(model, PROMPTS, ANSWERS, None)[0])
    nats.sum().backward()
    assert fresh.up.weight.grad is not None and fresh.up.weight.grad.abs().max() > 0


@families
def test_gradients_reach_the_modulation_and_no_weight_of_the_model(family: str) -> None:
    model = frozen(family)
    before, made = bits(model), low_rank_network(model)
    modulation = torch.randn(len(PROMPTS), VECTORS, model.model.config.hidden_size, requires_grad=True)
    answer_nats(model, PROMPTS, ANSWERS, made(modulation))[0].sum().backward()
    assert modulation.grad is not None and (modulation.grad.abs().amax(dim=2) > 0).all()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in made.parameters())
    assert all(weight.grad is None for weight in model.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


def test_a_gradient_is_the_difference_of_nats() -> None:
    """A loss's slope along a random direction of the modulation, in float64."""
    model = frozen("gpt2")
    made = low_rank_network(model).double()
    model.model.double()
    modulation = torch.randn(3, VECTORS, 32, dtype=torch.float64, requires_grad=True)
    direction, step = torch.randn_like(modulation), 1e-5

    def cost(at: torch.Tensor) -> torch.Tensor:
        return answer_nats(model, PROMPTS, ANSWERS, made(at))[0].double().sum()

    (slope,) = torch.autograd.grad(cost(modulation), modulation)
    with torch.no_grad():
        difference = (cost(modulation + step * direction) - cost(modulation - step * direction)) / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), difference, rtol=2e-2, atol=2e-2)


@families
def test_nothing_stays_behind_even_after_an_error(family: str) -> None:
    model = frozen(family)
    before, plain = bits(model), answer_nats(model, PROMPTS, ANSWERS, None)[0]
    changed = changes(model)
    with pytest.raises(RuntimeError, match="stop"), changed.on(model.model):
        raise RuntimeError("stop")
    unknown = LowRank(changed.factors | {"no.such.map": (torch.zeros(3, 1, 1), torch.zeros(3, 1, 1))})
    with pytest.raises(AttributeError), unknown.on(model.model):
        pass
    assert not any(module._forward_hooks for module in model.model.modules())
    assert torch.equal(answer_nats(model, PROMPTS, ANSWERS, None)[0], plain)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


def test_a_change_for_other_rows_is_refused() -> None:
    model = frozen("llama")
    with pytest.raises(DriftError, match=r"sees \(3, 12, 32\) for 2 rows"):
        answer_nats(model, PROMPTS, ANSWERS, changes(model).rows([0, 1]))


def test_a_linear_map_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(DriftError, match="'wte_proj', which is no linear map of this model"):
        LowRankModulation(frozen("llama").model, VECTORS, RANK, "wte_proj")


def test_a_model_in_bfloat16_takes_a_change_in_float32() -> None:
    model = frozen("llama")
    changed = changes(model)
    expected = answer_nats(model, PROMPTS, ANSWERS, changed)[0]
    with torch.autocast("cpu", torch.bfloat16):
        cast = answer_nats(model, PROMPTS, ANSWERS, changed)[0]
    model.model.bfloat16()
    for other in (cast, answer_nats(model, PROMPTS, ANSWERS, changed)[0]):
        assert 0 < (other - expected).abs().max() < 0.3
