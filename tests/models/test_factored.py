"""Low-rank factors of a change: as near as any of their rank, and as a LoRA the weights they stand for."""

import numpy as np
import pytest
import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.models.factored import factored, lora_of, low_rank_delta
from tests.support.families import FAMILIES, changed, random_ids

IDS = torch.tensor([random_ids(40)])


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("rank", [1, 3, 5, 9])
def test_factors_miss_what_the_eigenvalues_beyond_their_rank_hold(rank: int) -> None:
    change = torch.randn(7, 5)
    down, up = factored(change, rank)
    assert down.shape == (7, min(rank, 5)) and up.shape == (min(rank, 5), 5)
    eigenvalues = np.linalg.eigvalsh((change.double().T @ change.double()).numpy())[::-1]
    missed = (change - down @ up).double().square().sum().item()
    assert missed == pytest.approx(eigenvalues[rank:].sum(), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_of_the_factors_is_the_prior_with_their_products_added(family: str) -> None:
    prior, learned = FAMILIES[family](), changed(family)
    delta = low_rank_delta(prior, learned, 3)
    by_hand = FAMILIES[family]()
    squares = {"whole": 0.0, "missed": 0.0, "left out": 0.0}
    with torch.no_grad():
        after = dict(learned.named_parameters())
        for name, parameter in by_hand.named_parameters():
            change = after[name] - parameter
            inside = ".0." in name or ".1." in name or ".2." in name
            kept = torch.zeros_like(change)
            if inside and change.ndim == 2:
                u, s, v = np.linalg.svd(change.double().numpy(), full_matrices=False)
                kept = torch.tensor((u[:, :3] * s[:3]) @ v[:3]).float()
            parameter.add_(kept)
            squares["whole"] += change.double().square().sum().item()
            squares["missed"] += (change - kept).double().square().sum().item()
            squares["left out"] += 0.0 if inside and change.ndim == 2 else change.double().square().sum().item()
    assert delta.error == pytest.approx((squares["missed"] / squares["whole"]) ** 0.5, rel=1e-4)
    assert delta.left_out_share == pytest.approx(squares["left out"] / squares["whole"], rel=1e-4)
    expected, before = logits(by_hand), logits(prior)
    found = logits(lora_of(prior, delta.factors))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - before).abs().max() > 1e-2


def test_what_did_not_change_gets_no_factors_and_maps_of_less_rank_are_filled() -> None:
    prior, learned = FAMILIES["llama"](), FAMILIES["llama"]()
    with torch.no_grad():
        learned.model.layers[1].self_attn.k_proj.weight.mul_(1.5)  # (16, 32)
        learned.model.layers[1].mlp.up_proj.weight.mul_(0.5)  # (64, 32)
    delta = low_rank_delta(prior, learned, 100)
    assert sorted(delta.factors) == ["model.layers.1.mlp.up_proj", "model.layers.1.self_attn.k_proj"]
    assert delta.error < 1e-5 and delta.left_out_share == 0
    adapter = lora_of(prior, delta.factors)
    config = adapter.peft_config["default"]
    assert (config.r, config.lora_alpha, config.rank_pattern, config.use_rslora) == (32, 32, {}, False)
    torch.testing.assert_close(logits(adapter), logits(learned), atol=1e-5, rtol=1e-5)


def test_what_no_factors_can_stand_for_is_refused() -> None:
    prior = FAMILIES["llama"]()
    with pytest.raises(DriftError, match="`export.rank` was 0"):
        low_rank_delta(prior, changed("llama"), 0)
    with pytest.raises(DriftError, match="another model"):
        low_rank_delta(prior, changed("qwen"), 2)
    learned = FAMILIES["llama"]()
    learned.model.norm.weight.data += 1
    with pytest.raises(DriftError, match="no linear map"):
        low_rank_delta(prior, learned, 2)
