"""Which parameters may change: the right ones and no other, in every family; what cannot be is refused."""

import warnings
from types import MethodType

import pytest
import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn

from driftlm import DriftError, Windows
from driftlm.models import lora
from driftlm.models.trainable import Trainable, choose
from tests.support.build import language_model, read, spelled, weight_memory
from tests.support.families import FAMILIES, random_ids

BLOCKS = {"llama": 2, "gpt2": 2, "neox": 2, "qwen": 2, "gemma": 3}
# Vectors that scale a norm's output, and their offsets; queries and keys have norms of their own in two families.
NORMS = {"llama": 2 * 2 + 1, "gpt2": 2 * (2 * 2 + 1), "neox": 2 * (2 * 2 + 1), "qwen": 2 * 4 + 1, "gemma": 3 * 6 + 1}
LINEAR = {"llama": 2 * 7, "gpt2": 2 * 4, "neox": 2 * 4, "qwen": 2 * 7, "gemma": 3 * 7}
DOCUMENT = spelled(random_ids(40)[1:])


def asking(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_are_all_and_a_tied_one_counts_once(family: str) -> None:
    language = language_model(family)
    chosen = choose(language, "all")
    assert set(chosen.parameters) == asking(language.model) == {name for name, _ in language.model.named_parameters()}
    assert len({id(parameter) for parameter in chosen.parameters.values()}) == len(chosen.parameters)
    assert choose(language, "none").parameters == {} and not asking(language.model)


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_the_norms(family: str) -> None:
    language = language_model(family)
    chosen = choose(language, "norms").parameters
    assert len(chosen) == NORMS[family] and set(chosen) == asking(language.model)
    assert all(parameter.ndim == 1 for parameter in chosen.values())
    assert all("norm" in name.lower() or "ln_" in name for name in chosen)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_range_of_layers_leaves_embeddings_and_head(family: str) -> None:
    language, last = language_model(family), BLOCKS[family] - 1
    chosen = set(choose(language, "all", layers=(last, last)).parameters)
    everything = {name for name, _ in language.model.named_parameters()}
    assert chosen == {name for name in everything if f".{last}." in name} == asking(language.model)
    assert chosen | set(choose(language, "all", layers=(0, last - 1)).parameters) == {
        name for name in everything if any(f".{layer}." in name for layer in range(last + 1))
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_embeddings_take_a_tied_head_with_them(family: str) -> None:
    language = language_model(family)
    frozen = set(choose(language, "all").parameters) - set(choose(language, "all", freeze_embeddings=True).parameters)
    table = language.model.get_input_embeddings().weight
    assert {id(dict(language.model.named_parameters())[name]) for name in frozen} == {id(table)}
    tied = language.model.get_output_embeddings().weight is table
    assert tied == (family in ("llama", "gpt2", "gemma"))
    assert language.model.get_output_embeddings().weight.requires_grad == (not tied)


def test_no_gradient_work_below_the_lowest_trainable_layer() -> None:
    language = language_model("llama")
    choose(language, "all", layers=(1, 1))
    asked: list[bool] = []
    for block in language.model.model.layers:
        block.register_forward_hook(lambda module, args, output: asked.append(bool(output[0].requires_grad)))
    language.model(input_ids=torch.tensor([[1, 2, 3]]))
    assert asked == [False, True]


# ------------------------------------------------------------------------------------------------------ LoRA and DoRA


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("learn", ["lora", "dora"])
def test_an_adapter_sits_on_every_linear_map_of_the_blocks_and_warns_of_nothing(family: str, learn: str) -> None:
    language = language_model(family)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = choose(language, learn, rank=3)
    assert set(chosen.parameters) == asking(language.model)
    assert len(chosen.parameters) == LINEAR[family] * (2 if learn == "lora" else 3)
    assert not any("lm_head" in name or "embed" in name for name in chosen.parameters)
    assert all(3 in p.shape for name, p in chosen.parameters.items() if "magnitude" not in name)
    assert chosen.fresh == (learn == "lora")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("learn", ["lora", "dora"])
def test_a_new_adapter_changes_nothing_and_never_the_base(family: str, learn: str) -> None:
    grid = Windows("overlapping", 16, 8)
    static = read(weight_memory(family, grid, learn="none"), [DOCUMENT])
    memory = weight_memory(family, grid, learn=learn, rule="adam", learning_rate=0.0)
    assert (read(memory, [DOCUMENT]) - static).abs().max() <= (0.0 if learn == "lora" else 1e-5)
    memory = weight_memory(family, grid, learn=learn, rule="adam", learning_rate=1e-2)
    base = {name: p.clone() for name, p in memory.language_model.model.named_parameters() if not p.requires_grad}
    assert not torch.equal(read(memory, [DOCUMENT]), static)
    now = dict(memory.language_model.model.named_parameters())
    assert len(base) > 10 and all(torch.equal(now[name], value) for name, value in base.items())


def test_the_seed_decides_the_random_half_and_nothing_else() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, again, other = (choose(language_model("llama"), "lora", seed=seed).parameters for seed in (7, 7, 8))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(bool((first[name] == 0).all()) for name in first if "lora_B" in name)


@pytest.mark.parametrize(
    ("targets", "layers", "count"),
    [
        ("all-linear", None, 14), ("attention", None, 8), ("mlp", None, 6), ("q_proj,v_proj", None, 4),
        ("mlp", (1, 1), 3), ("model.layers.0.mlp.up_proj", None, 1),
    ],
)  # fmt: skip
def test_target_modules_and_layers_say_where(targets: str, layers: tuple[int, int] | None, count: int) -> None:
    chosen = choose(language_model("llama"), "lora", targets=targets, layers=layers).parameters
    assert len(chosen) == 2 * count
    if layers is not None:
        assert all(".layers.1." in name for name in chosen)


@pytest.mark.parametrize("family", ["llama", "neox"])  # without and with a bias
def test_the_fast_path_of_lora_gives_the_numbers_of_peft(family: str) -> None:
    slow, fast = (weight_memory(family, Windows("cached", 16, 8), learn="lora", rank=3) for _ in range(2))
    for memory in (slow, fast):
        for index, parameter in enumerate(memory.parameters):  # both halves, so that every term counts
            generator = torch.Generator().manual_seed(index)
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    layers = [module for module in slow.language_model.model.modules() if isinstance(module, LoraLinear)]
    for layer in layers:
        layer.forward = MethodType(LoraLinear.forward, layer)
    for scaled in (slow, fast):
        for module in scaled.language_model.model.modules():
            if isinstance(module, LoraLinear):
                module.scaling["default"] = 0.7
    ids = torch.tensor([random_ids(20)])
    losses = [memory.language_model.model(input_ids=ids, labels=ids).loss for memory in (slow, fast)]
    for loss in losses:
        loss.backward()
    assert abs(losses[0].item() - losses[1].item()) < 1e-5
    for a, b in zip(slow.parameters, fast.parameters, strict=True):
        assert a.grad is not None and b.grad is not None
        assert torch.allclose(a.grad, b.grad, atol=1e-5) and b.grad.abs().max() > 0


def test_the_fast_path_is_taken_by_lora_alone() -> None:
    language = language_model("llama")
    choose(language, "lora")
    assert lora.take_fast_path(language.model) == 14
    language = language_model("llama")
    choose(language, "dora")
    assert lora.take_fast_path(language.model) == 0
    language = language_model("gpt2")  # its maps are stored transposed
    choose(language, "lora")
    assert lora.take_fast_path(language.model) == 0


# ----------------------------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_learned_is_refused() -> None:
    language = language_model("llama")
    for layers in ((0, 2), (1, 0), (2, 2), (-1, 0)):
        with pytest.raises(
            DriftError, match=rf"`Learning.layers` was {layers[0]}-{layers[1]}; this model has layers 0-1"
        ):
            choose(language, "all", layers=layers)
    with pytest.raises(DriftError, match="`Learning.rank` was 0"):
        choose(language, "lora", rank=0)
    with pytest.raises(DriftError, match="'k_porj', which is no linear map of this model; give some of down_proj, "):
        choose(language, "lora", targets="q_proj,k_porj")
    with pytest.raises(DriftError, match="no linear map"):
        choose(language, "lora", targets="")
    # Nothing was added to the model by all that; and a second adapter would take the place of the first.
    choose(language, "lora")
    with pytest.raises(DriftError, match="already carries the adapter of another memory"):
        choose(language, "lora")


@pytest.mark.parametrize(
    ("family", "targets", "largest"),
    [("llama", "all-linear", 32), ("llama", "k_proj", 16), ("gpt2", "attention", 32)],  # k_proj is 32 x 16
)
@pytest.mark.parametrize("learn", ["lora", "dora"])
def test_a_rank_that_no_change_can_have_is_refused(learn: str, family: str, targets: str, largest: int) -> None:
    language = language_model(family)
    before = {name: parameter.shape for name, parameter in language.model.named_parameters()}
    for rank in (largest + 1, 100_000_000):  # the latter could not be allocated
        with pytest.raises(DriftError, match=f"`Learning.rank` was {rank}, .* above {largest}; give at most {largest}"):
            choose(language, learn, rank=rank, targets=targets)
    assert {name: parameter.shape for name, parameter in language.model.named_parameters()} == before
    chosen = choose(language, learn, rank=largest, targets=targets).parameters
    assert all(largest in p.shape for name, p in chosen.items() if "magnitude" not in name)


def test_quantized_weights_learn_only_through_an_adapter() -> None:
    language = language_model("llama")
    language.model.is_quantized = True
    with pytest.raises(DriftError, match="quantized and cannot learn; give `Learning.learn` lora"):
        choose(language, "all")


def test_a_learned_state_must_fit() -> None:
    chosen = choose(language_model("llama"), "norms")
    values = {name: torch.full_like(parameter, 2.0) for name, parameter in chosen.parameters.items()}
    chosen.start_from(values)
    assert all(bool((parameter == 2).all()) for parameter in chosen.parameters.values()) and not chosen.fresh
    values["model.norm.weight"] = torch.zeros(3)
    with pytest.raises(DriftError, match=r"no model\.norm\.weight of shape \(32,\)"):
        chosen.start_from(values)
    assert Trainable({}).start_from({}) is None
