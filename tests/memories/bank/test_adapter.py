"""What a bank says to a question, as peft's own formats: plain transformers and peft give the same logits."""

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.bank.adapter import adapter_of, flattened
from driftlm.memories.bank.modulate import Prefix
from driftlm.models.loading import LanguageModel, load
from driftlm.models.modulated import Modulated
from driftlm.runs import formats
from driftlm.storage.files import appearing
from tests.support.families import FAMILIES, random_ids
from tests.support.made_modulations import low_rank_network, random_prefix
from tests.support.running import tiny_model

IDS = random_ids(30)
POSITIONS = 3
families = pytest.mark.parametrize("family", FAMILIES)


@torch.no_grad()
def logits(model: LanguageModel, modulated: Modulated) -> Tensor:
    with modulated.on(model.model) as cache:
        before = cache.get_seq_length()
        places = torch.arange(before, before + len(IDS))[None]
        return model.model(
            input_ids=torch.tensor([IDS]), position_ids=places, past_key_values=cache, use_cache=True
        ).logits


def modulation(model: LanguageModel, kind: str) -> Modulated:
    """Of one question."""
    torch.manual_seed(3)
    if kind == "prefix":
        return random_prefix(model, 1, POSITIONS)
    with torch.no_grad():
        return low_rank_network(model)(torch.randn(1, POSITIONS, model.model.config.hidden_size))


@families
@pytest.mark.parametrize(("kind", "format_"), [("prefix", "PREFIX_TUNING"), ("lora", "LORA")])
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing|.*fan_in_fan_out")
def test_peft_gives_the_logits_of_the_modulation(kind: str, format_: str, family: str, tmp_path: Path) -> None:
    model = load(tiny_model(tmp_path, family))
    modulated = modulation(model, kind)
    ours = logits(model, modulated)
    adapter = adapter_of(model, modulated, IDS[:5])
    with appearing(tmp_path / "said") as partial:
        formats.write(model, adapter, partial)
    plain: PeftModel = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "said").eval()
    assert plain.peft_config["default"].peft_type.value == format_
    with torch.no_grad():
        found = plain(input_ids=torch.tensor([IDS])).logits
        without = plain.get_base_model()(input_ids=torch.tensor([IDS])).logits if kind == "prefix" else None
    torch.testing.assert_close(found, ours, atol=1e-5, rtol=1e-5)
    assert without is None or (found - without).abs().max() > 1e-1
    assert not list(tmp_path.glob("*.partial"))


def test_a_prefix_that_peft_would_put_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny_model(tmp_path))
    prefix = modulation(model, "prefix")
    assert isinstance(prefix, Prefix)
    swapped = Prefix((values, keys) for keys, values in prefix)
    for wrong in (flattened(swapped), flattened(prefix)[:, 1:]):  # elsewhere, and of another shape
        monkeypatch.setattr("driftlm.memories.bank.adapter.flattened", lambda _, wrong=wrong: wrong)
        with pytest.raises(DriftError, match="driftlm ask"):
            adapter_of(model, prefix, IDS)
