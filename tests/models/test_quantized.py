"""Models in 4 and 8 bit: what is asked of bitsandbytes, what is refused, and, where it is installed, that it is so."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from driftlm import DriftError, Learning, WeightMemory, Windows, load
from driftlm.models.fingerprint import fingerprint
from driftlm.models.machine import Machine
from driftlm.models.quantized import keep_as_loaded, quantization
from driftlm.runs.formats import save, start_from
from driftlm.streams.windows import split

TEXT = "It rained in Dorset, and the coach was late. Ada Lowell lives in Paris and plays the violin. " * 3


def installed(monkeypatch: pytest.MonkeyPatch, package: Any) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, None)
    assert quantization(0, torch.float32, "cpu") == {}
    with pytest.raises(
        DriftError, match=r"`Machine.bits` 4 needs the package bitsandbytes; run pip install .driftlm\[quanti"
    ):
        Machine(bits=4).load()


def test_what_bitsandbytes_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, SimpleNamespace(supported_torch_devices={"cuda", "xpu"}, __version__="0.1"))
    with pytest.raises(
        DriftError, match=r"bitsandbytes 0\.1 cannot do on `Machine.device` cpu; give one of cuda, xpu, or `Machine.bi"
    ):
        quantization(8, torch.float32, "cpu")
    with pytest.raises(DriftError, match="`Machine.bits` was 3; give 4 or 8, or 0"):
        quantization(3, torch.float32, "cpu")


def test_8_bit_has_no_outlier_columns_and_goes_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, SimpleNamespace(supported_torch_devices={"cuda"}, __version__="0.1"))
    asked = quantization(8, torch.bfloat16, "cuda:1")
    assert asked["device_map"] == {"": "cuda:1"}
    assert asked["quantization_config"].load_in_8bit and asked["quantization_config"].llm_int8_threshold == 0.0


def test_weights_stay_as_loaded() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    model[0].support_avx512bf16_for_cpu = True  # type: ignore[assignment]
    keep_as_loaded(model)
    assert not model[0].support_avx512bf16_for_cpu and not hasattr(model[1], "support_avx512bf16_for_cpu")


# ------------------------------------------------------------------------------------------------------- with the extra


@pytest.fixture(scope="module", params=[4, 8])
def bits(request: pytest.FixtureRequest) -> int:
    pytest.importorskip("bitsandbytes", reason="the extra `quantized` is not installed")
    return int(request.param)


def test_weights_are_near_and_no_score_sees_a_later_token(bits: int) -> None:
    plain, small = load(), load(bits=bits)
    assert small.model.get_memory_footprint() < 0.5 * plain.model.get_memory_footprint()
    assert small.fingerprint != plain.fingerprint
    ids = torch.tensor([plain.encode(TEXT)[0]])
    later = ids.clone()
    later[0, -10:] = 7
    with torch.no_grad():
        logits, other, exact = (one.model(input).logits for one, input in ((small, ids), (small, later), (plain, ids)))
    assert torch.equal(logits[0, :-10], other[0, :-10])
    assert (logits - exact).norm() < (0.5 if bits == 4 else 0.1) * exact.norm()
    assert fingerprint(small.model, small.tokenizer) == small.fingerprint  # as before it was read with


def test_a_lora_learns_and_nothing_else(bits: int, tmp_path: Path) -> None:
    learning = Learning(learn="lora", rule="sgd", learning_rate=0.05)
    memory = WeightMemory(load(bits=bits), Windows("overlapping", 32, 32), learning)
    ids, ends = memory.encode(TEXT)
    nats = []
    for _ in range(2):
        total = 0.0
        for window in split("a", ids, ends, memory.windows):
            total += memory.score(window).sum().item()
            memory.learn(window)
        nats.append(total)
    assert nats[1] < nats[0]
    with pytest.raises(DriftError, match="quantized and cannot learn; give `Learning.learn` lora"):
        WeightMemory(load(bits=bits), Windows("overlapping", 32, 32), Learning())
    saved = save(memory.language_model, memory.trainable, tmp_path / "adapter")
    assert start_from(saved, learning, Machine(bits=bits)).trainable is not None
    with pytest.raises(
        DriftError, match="would be rounded .*; give `Machine.bits` 0, or `Learning.learn` lora to go on with it"
    ):
        start_from(saved, Learning(learn="none"), Machine(bits=bits))
