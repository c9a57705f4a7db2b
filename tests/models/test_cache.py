"""Cached keys and values: rotated back on long documents, refused where they would depend on the window's place."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from driftlm import DriftError, Windows, read_stream
from driftlm.models import cache
from driftlm.models.cache import KeyValues, RotaryCache, rope_types, rotated
from driftlm.models.loading import LanguageModel
from driftlm.models.scoring import Scorer
from driftlm.streams.windows import split
from tests.support.build import (
    TOKENIZER,
    language_model,
    nats_of,
    numbers,
    read,
    spelled,
    through_files,
    weight_memory,
)
from tests.support.families import BOS, CACHED_FAMILIES, VOCABULARY, random_ids

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "pad_token_id": None, "bos_token_id": BOS, "eos_token_id": BOS,
}  # fmt: skip


def tiny(name: str, **settings: Any) -> LanguageModel:
    """A model of any architecture of transformers, with random weights that let it look back."""
    kind: type[PreTrainedModel] = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
    config = kind.config_class(**(SMALL | settings))  # type: ignore[misc]
    model = kind(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0, 0.2)
    return LanguageModel(model, TOKENIZER, f"tiny-{name}", BOS, "")


# ------------------------------------------------------------------------------------------------------- rotate back


@pytest.mark.parametrize("family", CACHED_FAMILIES)
@pytest.mark.parametrize(("context", "stride"), [(16, 8), (30, 7), (8, 8), (60, 20)])
def test_rotating_keys_back_changes_no_score(
    monkeypatch: pytest.MonkeyPatch, family: str, context: int, stride: int
) -> None:
    document, grid = spelled(random_ids(230)[1:]), Windows("cached", context, stride)
    expected = read(weight_memory(family, grid, learning_rate=0.02), [document])
    monkeypatch.setattr(cache, "LAST_POSITION", 40)
    memory = weight_memory(family, grid, learning_rate=0.02)
    steps = []
    for step in read_stream(memory, [document], baseline=memory.static()):
        steps.append(step)
        assert memory.scored is not None and memory.scored.forward.cache is not None
        # 40 positions are 0 ... 39; a context beyond that can only be counted from its own first token.
        end = step.window.position - 1 + step.window.new - memory.scored.forward.cache.origin
        assert end <= max(40, context + grid.sink)
    assert (nats_of(steps) - expected).abs().max() < 1e-4
    unturned = torch.cat([step.static_nats for step in steps if step.static_nats is not None])
    monkeypatch.undo()
    alone = weight_memory(family, grid, learn="none")
    assert (unturned - read(alone, [document])).abs().max() < 1e-4


def test_a_memory_with_rotated_keys_is_restored_bit_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LAST_POSITION", 40)
    document, grid = spelled(random_ids(120)[1:]), Windows("cached", 16, 8)
    first, second = (weight_memory("gemma", grid, learning_rate=0.05) for _ in range(2))
    windows = list(split("d", *numbers(document.text), grid))
    for window in windows[:9]:
        first.score(window)
        first.learn(window)
    state = through_files(first.state())
    assert state.values["origin"] > 0
    second.restore(state)
    for window in windows[9:]:
        assert torch.equal(first.score(window), second.score(window))
        first.learn(window)
        second.learn(window)


@pytest.mark.parametrize("offset", [1, 1000, 65_000, 1_000_000])
def test_rotation_is_the_rotation_of_earlier_positions(offset: int) -> None:
    frequencies = 10_000.0 ** -(torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    keys = torch.randn(1, 2, 3, 12)

    def rope(positions: Tensor) -> Tensor:
        angles = positions[:, None].double() * frequencies
        left, right, rest = keys[..., :4].double(), keys[..., 4:8].double(), keys[..., 8:].double()
        cosine, sine = angles.cos(), angles.sin()
        return torch.cat([left * cosine - right * sine, right * cosine + left * sine, rest], dim=-1).float()

    late, early = rope(torch.arange(3) + offset), rope(torch.arange(3))
    assert torch.allclose(rotated(late, frequencies, -offset), early, atol=1e-6)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 128},
    ],
    ids=lambda rope: rope["rope_type"],
)  # fmt: skip
def test_rope_types_that_do_not_change_with_length_are_rotated_back_too(
    monkeypatch: pytest.MonkeyPatch, rope: dict[str, Any]
) -> None:
    grid, ids = Windows("cached", 16, 8), random_ids(150)

    def static() -> Tensor:
        torch.manual_seed(1)
        language = tiny("Llama", max_position_embeddings=512, rope_parameters={"rope_theta": 10_000.0, **rope})
        rotary, held, nats = RotaryCache(language), KeyValues(), []
        scorer = Scorer(language)
        for window in split("d", ids, list(range(1, 151)), grid):
            forward = scorer.forward(window, rotary.before(held, window))
            assert forward.cache is not None
            held = forward.cache.trimmed(8)
            nats.append(forward.nats)
        return torch.cat(nats)

    expected = static()
    monkeypatch.setattr(cache, "LAST_POSITION", 40)
    assert (static() - expected).abs().max() < 1e-4


def test_an_unknown_rotary_layout_is_refused_only_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    # Cohere pairs neighbouring dimensions.
    rotary, grid = RotaryCache(tiny("Cohere", num_key_value_heads=2)), Windows("cached", 16, 8)
    windows = list(split("d", random_ids(64), list(range(1, 65)), grid))
    empty = tuple((torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)) for _ in range(2))
    assert rotary.before(KeyValues(empty), windows[3]).origin == 0
    monkeypatch.setattr(cache, "LAST_POSITION", 40)
    with pytest.raises(DriftError, match=r"beyond 40 tokens.*`Windows.window` overlapping.*`Stream.piece` BYTES"):
        rotary.before(KeyValues(empty), windows[-1])


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
         "original_max_position_embeddings": 128},
    ],
    ids=lambda rope: rope["rope_type"],
)  # fmt: skip
def test_rope_types_that_change_with_length_are_refused_by_name(rope: dict[str, Any]) -> None:
    language = tiny("Llama", max_position_embeddings=512, rope_parameters={"rope_theta": 10_000.0, **rope})
    with pytest.raises(DriftError, match=rf"tiny-Llama.*{rope['rope_type']}.*`Windows.window` overlapping"):
        RotaryCache(language)


def test_a_rope_type_is_found_in_one_kind_of_layer_only() -> None:
    nested = {"full_attention": {"rope_type": "longrope"}, "sliding_attention": {"rope_type": "default"}}
    assert set(rope_types(nested)) == {"longrope", "default"}
    assert rope_types(None) == rope_types({}) == []


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("GPT2", {"n_positions": 512, "n_embd": 32, "n_layer": 2, "n_head": 4}),
        ("OPT", {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 512}),
        ("Bloom", {"n_layer": 2, "n_head": 4}),
        ("Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_positions_that_are_not_rotary_are_refused(name: str, settings: dict[str, Any], dtype: torch.dtype) -> None:
    language = tiny(name, **settings)
    language.model.to(dtype)
    with pytest.raises(DriftError, match=rf"tiny-{name}.*has absolute positions.*`Windows.window` overlapping"):
        RotaryCache(language)


def test_rounding_is_not_taken_for_absolute_positions() -> None:
    # Sharp attention passes on what a rounded angle changes, as a trained model's does: a tenth of the logits' spread.
    language = tiny("Llama", num_hidden_layers=12)
    for name, parameter in language.model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            parameter.mul_(10)
    language.model.to(torch.bfloat16)
    assert RotaryCache(language).turns


def test_rotary_angles_from_a_table_are_refused() -> None:
    language = tiny("GPTJ", n_positions=64, n_embd=32, n_layer=2, n_head=4, rotary_dim=8)
    with pytest.raises(DriftError, match="tiny-GPTJ.* rotary angles from a table.*`Windows.window` overlapping"):
        RotaryCache(language)


def test_chunked_attention_is_refused() -> None:
    language = language_model("llama")
    language.model.config.layer_types = ["chunked_attention", "full_attention"]
    with pytest.raises(DriftError, match="fixed chunks of the document.*`Windows.window` overlapping"):
        RotaryCache(language)


# --------------------------------------------------------------------------------------------------------- the cache


def test_a_cache_keeps_the_last_positions_without_a_graph() -> None:
    grid, ids = Windows("cached", 12, 4), random_ids(20)
    memory = weight_memory("gemma", grid)
    for count, window in enumerate(split("d", ids, list(range(1, 21)), grid), start=1):
        memory.score(window)
        memory.learn(window)
        assert memory.cache is not None and memory.cache.length == min(8, 4 * count)
        held = [tensor for pair in memory.cache.layers for tensor in pair]
        assert len(held) == 6 and not any(tensor.requires_grad for tensor in held)
        # Storage of their own: nothing of the longer cache stays in memory.
        assert all(tensor.untyped_storage().nbytes() == 4 * tensor.numel() for tensor in held)
    memory.finish("d")
    assert memory.cache == KeyValues()


def test_a_cache_is_named_and_found_again() -> None:
    layers = tuple((torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)) for _ in range(12))
    held = KeyValues(layers, 7)
    again = KeyValues.of(dict(sorted(held.tensors().items())), 7)
    assert again.origin == 7 and again.length == 5
    assert all(torch.equal(a, b) for x, y in zip(layers, again.layers, strict=True) for a, b in zip(x, y, strict=True))
    assert KeyValues.of({}, 3) == KeyValues((), 3)
    assert held.trimmed(2).length == 2 and held.trimmed(9).length == 5 and held.trimmed(0).length == 0
