"""What SmolLM2-135M learned, loaded by plain transformers and peft."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from driftlm import Document, Learning, WeightMemory, Windows, load, read_stream
from driftlm.models.loading import LanguageModel
from driftlm.runs.formats import BASE, save

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")]


def saved(model: LanguageModel, learn: str, text: str, folder: Path) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """What is loaded of what was learned on a text; its logits, and those of the model that learned."""
    memory = WeightMemory(model, Windows("cached", 32, 32), Learning(learn=learn, learning_rate=1e-3))
    for _ in read_stream(memory, [Document("d", text[:300])]):
        pass
    assert memory.counts.updates
    save(model, memory.trainable, folder)
    kind: Any = AutoModelForCausalLM if learn == "all" else AutoPeftModelForCausalLM
    loaded = kind.from_pretrained(folder, dtype=model.model.dtype)
    ids = torch.tensor([model.encode(text[300:500])[0]])
    with torch.no_grad():
        return loaded, loaded(input_ids=ids).logits, model.model(input_ids=ids).logits


def test_a_lora_is_loaded_on_the_fetched_folder(own: LanguageModel, folder: Path, tmp_path: Path, text: str) -> None:
    loaded, found, expected = saved(own, "lora", text, tmp_path / "lora")
    assert loaded.peft_config["default"].base_model_name_or_path == str(folder.resolve())
    assert (found - expected).abs().max() < 1e-3


@pytest.mark.slow
def test_all_weights_are_a_folder_of_their_own(own: LanguageModel, tmp_path: Path, text: str) -> None:
    before = own.fingerprint
    _, found, expected = saved(own, "all", text, tmp_path / "all")
    assert torch.equal(found, expected)
    assert load(tmp_path / "all").fingerprint != before


@pytest.mark.slow
@pytest.mark.parametrize(("learn", "dtype"), [("dora", "float32"), ("lora", "bfloat16")])
def test_an_adapter_of_a_file_brings_its_base(
    loaded: LanguageModel, file: Path, tmp_path: Path, text: str, learn: str, dtype: str
) -> None:
    place = tmp_path / "adapter"
    again, found, expected = saved(load(file, dtype=dtype), learn, text, place)
    assert again.peft_config["default"].base_model_name_or_path == str((place / BASE).resolve())
    assert load(place / BASE).fingerprint == loaded.fingerprint
    assert (found.float() - expected.float()).abs().max() < (1e-3 if dtype == "float32" else 1.0)
