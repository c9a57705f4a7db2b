"""A head's logits become nats and gradients; held against torch's own cross-entropy over all logits at once."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from driftlm.models import head as head_module
from driftlm.models.head import HeadNats, every_finite, one_gradient
from tests.support.build import language_model
from tests.support.families import BOS

S, D, V = 7, 5, 11


def head(dtype: torch.dtype, bias: bool, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """hidden, weight, bias, targets."""
    hidden, weight = torch.randn(S, D, dtype=dtype), torch.randn(V, D, dtype=dtype) * scale
    offset = torch.randn(V, dtype=dtype) if bias else None
    for tensor in (hidden, weight, offset):
        if tensor is not None:
            tensor.requires_grad_()
    return hidden, weight, offset, torch.randint(V, (S,))


@pytest.fixture(params=["kept", "a row at a time", "three rows at a time"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way the backward pass comes to its softmax; 3 does not divide S."""
    kept = {"kept": 1 << 24, "a row at a time": 1, "three rows at a time": 3 * V}
    monkeypatch.setattr(head_module, "KEPT_LOGITS", kept[request.param])


# What tokens weigh in a loss: its mean, its sum as where gradients accumulate, each something else, a document's part.
WEIGHTS = {
    "mean": torch.full((S,), 1 / S),
    "sum": torch.ones(S),
    "mixed": torch.linspace(-1, 2, S),
    "some": torch.tensor([0.0, 0, 0, 1, 1, 1, 0]),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 40.0])  # 40: probabilities that underflow
@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize("alike", [True, False])
def test_values_and_gradients_are_those_of_cross_entropy(
    chunks: None, bias: bool, scale: float, weighing: str, alike: bool
) -> None:
    hidden, weight, offset, targets = head(torch.float32, bias, scale)
    inputs = [hidden, weight] + ([offset] if offset is not None else [])
    nats, finite = HeadNats.apply(hidden, weight, offset, targets, True, alike, [])
    assert nats.dtype == torch.float32 and bool(finite.all())
    weights = WEIGHTS[weighing]
    ours = torch.autograd.grad((nats * weights).sum(), inputs)
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = F.cross_entropy(F.linear(*wide), targets, reduction="none")
    theirs = torch.autograd.grad((expected * weights.double()).sum(), wide)
    assert torch.allclose(nats.double(), expected, rtol=1e-6, atol=1e-6)
    assert all(torch.allclose(a.double(), b, rtol=1e-5, atol=1e-5 * scale) for a, b in zip(ours, theirs, strict=True))
    assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in zip(ours, inputs, strict=True))


@pytest.mark.parametrize("rows", [1, 3])
def test_the_gradient_is_the_slope(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    # gradcheck goes back more than once, which the kept softmax refuses. Values are float32, hence the wide steps.
    monkeypatch.setattr(head_module, "KEPT_LOGITS", rows * V)
    hidden, weight, offset, targets = head(torch.float64, True, 0.3)

    def mean(*inputs: Tensor) -> Tensor:
        return HeadNats.apply(*inputs, targets, True, True, [])[0].mean()

    assert torch.autograd.gradcheck(mean, (hidden, weight, offset), eps=3e-3, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("learned", [(True, False), (False, True)])
def test_only_what_asks_for_a_gradient_gets_one(chunks: None, learned: tuple[bool, bool]) -> None:
    hidden, weight, _, targets = head(torch.float32, False)
    hidden, weight = hidden.detach().requires_grad_(learned[0]), weight.detach().requires_grad_(learned[1])
    HeadNats.apply(hidden, weight, None, targets, True, True, [])[0].sum().backward()
    assert [hidden.grad is not None, weight.grad is not None] == list(learned)


def test_a_second_backward_is_refused_and_never_wrong() -> None:
    hidden, weight, _, targets = head(torch.float32, False)
    total = HeadNats.apply(hidden, weight, None, targets, True, True, [])[0].sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("weighing", WEIGHTS)
@pytest.mark.parametrize("learns", [True, False], ids=["weight learns", "weight is frozen"])
@pytest.mark.parametrize("alike", [True, False])
def test_no_more_logits_than_a_chunk_and_no_product_twice(
    monkeypatch: pytest.MonkeyPatch, weighing: str, learns: bool, alike: bool
) -> None:
    monkeypatch.setattr(head_module, "KEPT_LOGITS", 3 * V)
    hidden, weight, _, targets = head(torch.float32, False)
    weight.requires_grad_(learns)
    with Rows() as rows, FlopCounterMode(display=False) as counter:
        nats, _ = HeadNats.apply(hidden, weight, None, targets, True, alike, [])
        (nats * WEIGHTS[weighing]).sum().backward()
    assert rows.most == 3
    products = counter.get_total_flops() // (2 * S * V * D)
    if learns and not alike:
        assert products == 4  # logits once more, for there are no gradients until it is known what each token weighs
    elif learns:
        assert products == (3 if weighing in ("mean", "sum") else 6)  # all of them once more
    else:
        assert products == 2


class Rows(TorchDispatchMode):
    """The most rows of V logits in a tensor that an operation makes."""

    most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        shapes = [one.shape for one in tree_leaves(result) if isinstance(one, Tensor) and one.ndim == 2]
        self.most = max([self.most, *(rows for rows, width in shapes if width == V and rows != D)])  # D: weight^T
        return result


def test_a_gradient_takes_the_storage_that_is_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "KEPT_LOGITS", 3 * V)
    hidden, weight, _, targets = head(torch.float32, False)
    spare, found = [torch.full_like(weight.detach(), math.nan)], []
    place = spare[0].data_ptr()
    for _ in range(2):
        HeadNats.apply(hidden, weight, None, targets, True, True, spare)[0].mean().backward()
        found.append(weight.grad)
        weight.grad = None
    assert [one.data_ptr() == place for one in found] == [True, False] and not spare
    assert torch.equal(*found) and bool(found[0].isfinite().all())


@pytest.mark.parametrize("rows", [1, 3])
def test_chunks_go_back_more_than_once(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(head_module, "KEPT_LOGITS", rows * V)
    hidden, weight, offset, targets = head(torch.float32, True)
    total = HeadNats.apply(hidden, weight, offset, targets, True, True, [])[0].mean()
    first, again = (torch.autograd.grad(total, [hidden, weight, offset], retain_graph=True) for _ in range(2))
    torch.testing.assert_close(again, first, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_summed_in_float32(chunks: None) -> None:
    hidden, weight, _, targets = head(torch.bfloat16, False)
    nats, _ = HeadNats.apply(hidden, weight, None, targets, True, True, [])
    nats.mean().backward()
    expected = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")
    assert nats.dtype == torch.float32 and torch.allclose(nats, expected, atol=1e-6)
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16
    wide = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    found = torch.autograd.grad(F.cross_entropy(F.linear(*wide), targets), wide)
    torch.testing.assert_close([hidden.grad.double(), weight.grad.double()], list(found), rtol=0.05, atol=2e-3)


# ----------------------------------------------------------------------------------------------- logits not finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_is_found_wherever_it_stands(chunks: None, value: float) -> None:
    hidden, weight = torch.ones(3, 2), torch.randn(V, 2)
    for row in range(V):
        broken = weight.clone()
        broken[row, 0] = value
        assert not HeadNats.apply(hidden, broken, None, torch.zeros(3, dtype=torch.long), False, True, [])[1].any()
    assert HeadNats.apply(hidden, weight, None, torch.zeros(3, dtype=torch.long), False, True, [])[1].all()
    logits = torch.randn(4, V)
    logits[2, 3] = value
    assert every_finite(logits).tolist() == [True, True, False, True]


def test_finite_logits_give_finite_nats_or_are_called_not_finite() -> None:
    largest = torch.finfo(torch.float32).max
    # A sum that overflows is no reason to give up on a row, a spread that does is: its nats would be infinite.
    # No spread at all is what is left of a model whose norms divided by infinity.
    rows = torch.tensor([[largest, largest, 1e38], [largest, -largest, 0.0], [0.0, 0.0, 0.0]])
    assert every_finite(rows).tolist() == [True, False, False]
    hidden, weight = torch.eye(3), rows.T.contiguous()
    for target in range(3):
        nats, finite = HeadNats.apply(hidden, weight, None, torch.full((3,), target), False, True, [])
        assert finite.tolist() == [True, False, False] and bool(nats[finite].isfinite().all())


# ------------------------------------------------------------------------------------------- embeddings and head in one


@pytest.fixture
def tied(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model whose embeddings are its head, larger than a chunk."""
    model = language_model("gemma").model.requires_grad_(True)
    weight = model.get_input_embeddings().weight
    assert weight is model.get_output_embeddings().weight
    monkeypatch.setattr(head_module, "KEPT_LOGITS", weight.numel() - 1)
    return model


def gradient(model: Any, seen: list[str]) -> Tensor:
    """Of embeddings and head; the names of what the backward pass calls."""

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    ids = torch.tensor([[BOS, 5, 7, 5, 5, 9]])
    with one_gradient(model):
        nats = F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:])
    weight = model.get_input_embeddings().weight
    with Calls():
        return torch.autograd.grad(nats, weight)[0]


def test_a_tied_matrix_has_one_gradient(tied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, calls, plain = tied.get_input_embeddings().weight, [], []
    found = gradient(tied, calls)
    assert tied.get_input_embeddings().weight is weight is tied.get_output_embeddings().weight
    assert isinstance(weight, torch.nn.Parameter) and not tied.get_input_embeddings().sparse
    monkeypatch.setattr(head_module, "KEPT_LOGITS", weight.numel())
    torch.testing.assert_close(found, gradient(tied, plain), rtol=1e-5, atol=1e-7)
    assert "embedding_dense_backward" in plain and "embedding_dense_backward" not in calls


def test_embeddings_alone_have_their_gradient(tied: Any) -> None:
    ids, weight = torch.tensor([[5, 7, 5]]), tied.get_input_embeddings().weight
    plain = torch.autograd.grad(tied.base_model(ids)[0].sum(), weight)[0]
    with one_gradient(tied):
        total = tied.base_model(ids)[0].sum()
    torch.testing.assert_close(torch.autograd.grad(total, weight)[0], plain)


def test_a_pass_that_fails_leaves_a_tied_matrix_as_it_was(tied: Any) -> None:
    weight = tied.get_input_embeddings().weight
    with pytest.raises(RuntimeError, match="stop"), one_gradient(tied):
        raise RuntimeError("stop")
    assert tied.get_input_embeddings().weight is weight is tied.get_output_embeddings().weight


PEAK = """
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from driftlm import Learning, WeightMemory, Windows
from driftlm.cost.summary import peak_resident_bytes
from driftlm.models.loading import LanguageModel
from driftlm.streams.windows import split
torch.set_num_threads(1)
config = Gemma3TextConfig(
    vocab_size=262_144, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=32, sliding_window=512,
)
model = Gemma3ForCausalLM(config).eval().requires_grad_(False)
memory = WeightMemory(LanguageModel(model, None, "", 2, ""), Windows("cached", 512, 512), Learning(learning_rate=1e-5))
before = peak_resident_bytes()
ids = [number * 7919 % 262_144 for number in range(1, 1026)]
for window in split("d", ids, range(1, len(ids)), memory.windows):
    memory.score(window)
    memory.learn(window)
# The prior was there; moments were, but had not been written to.
state = 6 * sum(one.numel() * one.element_size() for one in memory.parameters)
print(peak_resident_bytes() - before - state)
"""


@pytest.mark.slow
def test_a_large_vocabulary_takes_a_chunk_of_memory_beside_its_state() -> None:
    found = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 320 << 20  # all logits of a window are 512 MiB
