"""Gradient statistics: gathered as defined, kept in a file of their own, refused where they do not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from driftlm import DriftError, Learning, WeightMemory, Windows
from driftlm.memories.weights.statistics import Statistics, gather
from driftlm.models.trainable import choose
from tests.support.build import language_model, reads_numbers, spelled
from tests.support.families import CACHED_FAMILIES, FAMILIES, random_ids
from tests.support.reference.reading import statistics as reference

GRID = Windows("overlapping", 6, 4, sink=0)


def gathered(family: str, windows: Windows, *lengths: int, limit: int | None = None) -> Statistics:
    documents = [spelled(random_ids(length, seed)[1:], str(seed)) for seed, length in enumerate(lengths)]
    return gather(reads_numbers(language_model(family)), documents, windows, limit)


def test_a_root_mean_square_over_windows_spelled_out() -> None:
    # C = 6, S = 4, n = 10: inputs and targets of the three windows, the last of them short.
    ids, language = random_ids(10), language_model("llama")
    named = dict(language.model.requires_grad_(True).named_parameters())
    squares = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    for inputs, targets in ((ids[0:4], ids[1:5]), (ids[2:8], ids[5:9]), (ids[6:10], ids[9:11])):
        logits = language.model(torch.tensor([inputs])).logits[0, -len(targets) :]
        loss = F.cross_entropy(logits, torch.tensor(targets))  # the mean over the new tokens
        for (name, _), gradient in zip(named.items(), torch.autograd.grad(loss, list(named.values())), strict=True):
            squares[name] += gradient**2
    statistics = gathered("llama", GRID, 10)
    assert statistics.facts["windows"] == 3 and statistics.facts["tokens"] == 10
    assert statistics.rms.keys() == named.keys()
    for name, total in squares.items():
        assert torch.allclose(statistics.rms[name], (total / 3).sqrt(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("family", "window"),
    [(family, "overlapping") for family in FAMILIES] + [(family, "cached") for family in CACHED_FAMILIES],
)
def test_statistics_are_those_of_the_reference(family: str, window: Any) -> None:
    ours = gathered(family, Windows(window, 14, 8), 50, 21)
    theirs = reference(language_model(family).model, [random_ids(50, 0), random_ids(21, 1)], window, 14, 8, sink=1)
    assert ours.rms.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert torch.allclose(ours.rms[name], expected, rtol=1e-4, atol=2e-7)


def test_the_scale_is_the_unweighted_mean_of_the_tensors_means() -> None:
    statistics = Statistics({"large": torch.full((100, 3), 1.0), "small": torch.tensor([4.0, 8.0])}, {})
    assert statistics.normalizer == pytest.approx((1 + 6) / 2)  # not 3.06, the mean of all numbers


def test_gathering_leaves_the_model_as_it_was() -> None:
    language = reads_numbers(language_model("gemma"))
    before = [parameter.clone() for parameter in language.model.parameters()]
    gather(language, [spelled(random_ids(20)[1:])], GRID)
    after = list(language.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in after)


def test_a_limit_cuts_within_a_document() -> None:
    whole, cut = gathered("llama", GRID, 6, 9), gathered("llama", GRID, 6, 40, 5, limit=15)
    assert cut.facts["tokens"] == 15 and cut.facts["windows"] == 2 + 3
    first = gathered("llama", GRID, 6, 40, limit=6)
    assert first.facts["tokens"] == 6 and whole.facts["tokens"] == 15
    with pytest.raises(DriftError, match="no window to gather statistics from"):
        gather(language_model("llama"), [], GRID)


# ----------------------------------------------------------------------------------------------------------- the file


def test_a_file_keeps_every_bit(tmp_path: Path) -> None:
    statistics = gathered("neox", GRID, 20)
    statistics.save(tmp_path / "s.safetensors")
    again = Statistics.load(tmp_path / "s.safetensors")
    assert again.facts == statistics.facts and again.rms.keys() == statistics.rms.keys()
    assert all(torch.equal(again.rms[name], rms) for name, rms in statistics.rms.items())
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


def test_eight_bits_keep_the_size_of_what_matters(tmp_path: Path) -> None:
    statistics = gathered("neox", GRID, 20)
    statistics.rms["scalar"] = torch.tensor(0.3)
    statistics.save(tmp_path / "s.safetensors", eight_bit=True)
    again = Statistics.load(tmp_path / "s.safetensors")
    assert again.rms.keys() == statistics.rms.keys()
    for name, rms in statistics.rms.items():
        loaded = again.rms[name]
        assert loaded.shape == rms.shape and loaded.dtype == torch.float32 and bool(loaded.isfinite().all())
        # Four bits of mantissa down to 2^-14 of a row's largest; below that the error is a fixed fraction of it.
        largest = rms.amax(dim=-1, keepdim=True).expand_as(rms)
        assert bool(((loaded - rms).abs() <= 0.0626 * rms + largest * 2**-18).all())


def test_what_is_no_statistics_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DriftError, match="does not exist; make it with `driftlm statistics TEXT --out FILE`"):
        Statistics.load(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no tensors here, but a text of some length")
    with pytest.raises(DriftError, match="is not a file of gradient statistics"):
        Statistics.load(tmp_path / "text")
    with pytest.raises(DriftError, match="is not a file of gradient statistics"):
        Statistics.load(tmp_path)
    language_model("llama").model.save_pretrained(tmp_path / "model")
    with pytest.raises(DriftError, match="is not a file of gradient statistics"):
        Statistics.load(tmp_path / "model" / "model.safetensors")


def test_a_memory_needs_statistics_that_fit(tmp_path: Path) -> None:
    with pytest.raises(DriftError, match=r"`Learning.rule` rms needs gradient statistics of this model"):
        WeightMemory(language_model("llama"), GRID, Learning(rule="rms"))
    statistics = gathered("llama", GRID, 12)
    for learn in ("all", "norms"):
        assert len(statistics.of(choose(language_model("llama"), learn).parameters)) > 4
    with pytest.raises(DriftError, match="nothing of the right shape for .*lora_A.*`Learning.learn` all or norms"):
        statistics.of(choose(language_model("llama"), "lora").parameters)
    with pytest.raises(DriftError, match="nothing of the right shape for gpt_neox"):
        statistics.of(choose(language_model("neox"), "all").parameters)
    statistics.rms["model.norm.weight"] = torch.ones(3)
    with pytest.raises(DriftError, match=r"nothing of the right shape for model\.norm\.weight"):
        statistics.of(choose(language_model("llama"), "all").parameters)
