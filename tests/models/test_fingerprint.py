"""Fingerprints: one for a model in every type, and those of earlier folders."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from driftlm import load
from driftlm.homes.identity import about_model, refuse_other_model
from driftlm.models.fingerprint import earlier_fingerprint, fingerprint
from tests.support.running import tiny_model

TYPES = ["float32", "bfloat16"]


def test_the_bundled_model_has_the_name_that_its_networks_were_trained_under() -> None:
    assert load().fingerprint == load(dtype="bfloat16").fingerprint == "579757b120fd9da3e8c82c1b57fa278d"


def test_a_value_that_bfloat16_rounds_away_still_counts(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    before = {load(folder, dtype=dtype).fingerprint for dtype in TYPES}
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] += 1e-6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    after = {load(folder, dtype=dtype).fingerprint for dtype in TYPES}
    assert len(before) == len(after) == 1 and before != after


def test_weights_that_are_stored_in_half_are_loaded_as_they_are(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    load(folder, dtype="bfloat16").model.save_pretrained(folder)
    half, full = (load(folder, dtype=dtype) for dtype in ("bfloat16", "float32"))
    assert half.fingerprint == full.fingerprint == fingerprint(half.model, half.tokenizer)
    assert all(torch.equal(a.float(), b) for a, b in zip(half.model.parameters(), full.model.parameters(), strict=True))


def test_a_folder_of_an_earlier_version_is_recognised_in_bfloat16(tmp_path: Path) -> None:
    model = load(tiny_model(tmp_path), dtype="bfloat16")
    earlier = earlier_fingerprint(model.model, model.tokenizer)
    assert earlier == model.earlier_fingerprint != model.fingerprint
    assert not model.goes_by("f00d") and not model.goes_by("") and model.fingerprint != earlier
    refuse_other_model(tmp_path, about_model(model) | {"fingerprint": earlier}, model)
    assert model.fingerprint == earlier  # what was made under that name fits together still
    plain = load(tiny_model(tmp_path))
    assert plain.earlier_fingerprint == plain.fingerprint  # in float32 nothing changed


@pytest.mark.parametrize("dtype", TYPES)
def test_the_place_and_the_way_of_saving_do_not_count(tmp_path: Path, dtype: str) -> None:
    first = load(tiny_model(tmp_path))
    first.model.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    first.tokenizer.save_pretrained(tmp_path / "again")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    assert load(tmp_path / "again", dtype=dtype).fingerprint == first.fingerprint
