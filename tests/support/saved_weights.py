"""Saved weights as other tools read them: nats by plain transformers and peft, and by the command line."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.running import QUICK, driftlm, words

Capture = pytest.CaptureFixture[str]
TEXT = words(12, 5)  # one window: a plain forward pass scores it
RATES = {"all": 0.2, "norms": 2.0, "lora": 1.0, "dora": 1.0}


def plain_nats(folder: str | Path) -> float:
    """Nats of `TEXT` by transformers and peft alone."""
    folder = Path(folder)
    kind = AutoPeftModelForCausalLM if (folder / "adapter_config.json").exists() else AutoModelForCausalLM
    model = kind.from_pretrained(str(folder)).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(TEXT, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1]
    return F.cross_entropy(logits.double(), ids[0, 1:], reduction="sum").item()


def static_nats(capsys: Capture, *source: object) -> float:
    """Nats of `TEXT` by the model that a reading begins with."""
    name = f"static-{len(list(Path().glob('static-*')))}"
    outcome = driftlm(capsys, "read", "text.txt", *QUICK, "--context", 64, "--stride", 64, *source, "--run", name)
    return outcome.summary["static_nats"]


def close(one: float, other: float) -> bool:
    """Equal but for rounding."""
    return abs(one - other) <= 1e-5 * other
