"""SmolLM2-135M as it is fetched, loaded, shown and told from others."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from driftlm import Document, WeightMemory, Windows, load
from driftlm.memories.weights.learning import FROZEN
from driftlm.models.catalogue import PUBLISHED, SOURCE
from driftlm.models.fetching import write_folder
from driftlm.models.loading import LanguageModel
from tests.support.build import read
from tests.support.running import driftlm

pytestmark = pytest.mark.long

PARAMETERS = 134_515_008


def test_it_is_the_model_that_was_pinned(smollm2: LanguageModel, folder: Path) -> None:
    assert sum(parameter.numel() for parameter in smollm2.model.parameters()) == PARAMETERS
    assert smollm2.positions == 8_192 and smollm2.vocabulary == 49_152 and smollm2.tokenizer.chat_template
    held = json.loads((folder / SOURCE).read_bytes())
    assert smollm2.sha256 == PUBLISHED["smollm2"].sha256 == held["sha256"] and held["licence"] == "Apache-2.0"


def test_it_answers_by_its_template(smollm2: LanguageModel) -> None:
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = smollm2.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    said = smollm2.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in smollm2.tokenizer.decode(said)


def test_bfloat16_is_the_same_model_and_reads_in_cached_windows(
    smollm2: LanguageModel, folder: Path, text: str
) -> None:
    half = load(folder, dtype="bfloat16")
    assert half.fingerprint == smollm2.fingerprint != half.earlier_fingerprint
    nats = []
    for model in (smollm2, half):
        memory = WeightMemory(model, Windows("cached", 48, 24), FROZEN)  # once refused bfloat16 as absolute positions
        assert memory.rotary is not None and memory.rotary.turns
        nats.append(read(memory, [Document("d", text[:400])]).float().mean())
    assert abs(nats[0] - nats[1]) < 0.02 * nats[0]


def test_it_is_listed_and_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in driftlm(capsys, "model", "ls", "--json").summary["models"]}
    assert rows["smollm2"]["here"] and rows["smollm2"]["folder"] == str(folder)
    facts = driftlm(capsys, "model", "show", "smollm2", "--json").summary
    assert facts["parameters"] == PARAMETERS and facts["positions"] == 8_192 and facts["template"]
    assert facts["bytes"]["float32"] == 4 * PARAMETERS and facts["sha256"] == PUBLISHED["smollm2"].sha256
    assert 1 < facts["tokens_per_second"]["static"] < 1e6


@pytest.mark.slow
def test_the_file_and_every_folder_of_it_are_one_model(
    smollm2: LanguageModel, file: Path, tmp_path: Path, text: str
) -> None:
    direct = {dtype: load(file, dtype=dtype) for dtype in ("float32", "bfloat16")}
    write_folder(direct["float32"], tmp_path / "again")
    found = [*direct.values(), load(tmp_path / "again"), load(tmp_path / "again", dtype="bfloat16")]
    assert {one.fingerprint for one in found} == {smollm2.fingerprint}
    assert {one.sha256 for one in direct.values()} == {smollm2.sha256}
    ids = torch.tensor([smollm2.encode(text)[0][:64]])
    expected: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    with torch.no_grad():
        logits = [model(input_ids=ids).logits for model in (smollm2.model, direct["float32"].model, expected)]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    assert direct["float32"].encode(text) == smollm2.encode(text)
    half = zip(found[1].model.parameters(), found[3].model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in half)
