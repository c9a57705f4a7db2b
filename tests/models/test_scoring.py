"""Logits become nats in one place; here it is held against torch's own cross-entropy, values and gradients."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from driftlm import WeightMemory, Windows
from driftlm.memories.weights.learning import Learning
from driftlm.models import scoring
from driftlm.models.cache import KeyValues
from driftlm.models.loading import LanguageModel
from driftlm.models.scoring import HeadNats, Scorer, every_finite
from driftlm.streams.windows import Window, split
from tests.support.build import TOKENIZER, language_model
from tests.support.families import BOS, FAMILIES, VOCABULARY, random_ids

S, D, V = 7, 5, 11


def window(ids: list[int]) -> Window:
    """All tokens of a document as one window."""
    return Window("d", 0, 1, tuple(ids[:-1]), tuple(ids[1:]), len(ids) - 1, True)


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
    monkeypatch.setattr(scoring, "KEPT_LOGITS", kept[request.param])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 40.0])  # 40: probabilities that underflow
def test_values_and_gradients_are_those_of_cross_entropy(chunks: None, bias: bool, scale: float) -> None:
    hidden, weight, offset, targets = head(torch.float32, bias, scale)
    inputs = [hidden, weight] + ([offset] if offset is not None else [])
    nats, finite = HeadNats.apply(hidden, weight, offset, targets, True, True)
    assert nats.dtype == torch.float32 and bool(finite.all())
    mixture = torch.randn(S)  # each token's gradient counts by itself
    ours = torch.autograd.grad((nats * mixture).sum(), inputs)
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = F.cross_entropy(F.linear(*wide), targets, reduction="none")
    theirs = torch.autograd.grad((expected * mixture.double()).sum(), wide)
    assert torch.allclose(nats.double(), expected, rtol=1e-6, atol=1e-6)
    assert all(torch.allclose(a.double(), b, rtol=1e-5, atol=1e-5 * scale) for a, b in zip(ours, theirs, strict=True))
    assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in zip(ours, inputs, strict=True))


@pytest.mark.parametrize("rows", [1, 3])
def test_the_gradient_is_the_slope(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    # gradcheck goes back more than once, which the kept softmax refuses. Values are float32, hence the wide steps.
    monkeypatch.setattr(scoring, "KEPT_LOGITS", rows * V)
    hidden, weight, offset, targets = head(torch.float64, True, 0.3)

    def mean(*inputs: Tensor) -> Tensor:
        return HeadNats.apply(*inputs, targets, True, True)[0].mean()

    assert torch.autograd.gradcheck(mean, (hidden, weight, offset), eps=3e-3, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("learned", [(True, False), (False, True)])
def test_only_what_asks_for_a_gradient_gets_one(chunks: None, learned: tuple[bool, bool]) -> None:
    hidden, weight, _, targets = head(torch.float32, False)
    hidden, weight = hidden.detach().requires_grad_(learned[0]), weight.detach().requires_grad_(learned[1])
    HeadNats.apply(hidden, weight, None, targets, True, True)[0].sum().backward()
    assert [hidden.grad is not None, weight.grad is not None] == list(learned)


def test_a_second_backward_is_refused_and_never_wrong() -> None:
    hidden, weight, _, targets = head(torch.float32, False)
    total = HeadNats.apply(hidden, weight, None, targets, True, True)[0].sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_bfloat16_is_summed_in_float32(chunks: None) -> None:
    hidden, weight, _, targets = head(torch.bfloat16, False)
    nats, _ = HeadNats.apply(hidden, weight, None, targets, True, True)
    nats.mean().backward()
    expected = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")
    assert nats.dtype == torch.float32 and torch.allclose(nats, expected, atol=1e-6)
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16


# ----------------------------------------------------------------------------------------------- logits not finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_is_found_wherever_it_stands(chunks: None, value: float) -> None:
    hidden, weight = torch.ones(3, 2), torch.randn(V, 2)
    for row in range(V):
        broken = weight.clone()
        broken[row, 0] = value
        assert not HeadNats.apply(hidden, broken, None, torch.zeros(3, dtype=torch.long), False, True)[1].any()
    assert HeadNats.apply(hidden, weight, None, torch.zeros(3, dtype=torch.long), False, True)[1].all()
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
        nats, finite = HeadNats.apply(hidden, weight, None, torch.full((3,), target), False, True)
        assert finite.tolist() == [True, False, False] and bool(nats[finite].isfinite().all())


# ----------------------------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_is_scored_as_transformers_does(family: str) -> None:
    language = language_model(family)
    ids = random_ids(40)
    scorer = Scorer(language)
    assert scorer.plain_head
    with torch.no_grad():
        expected = F.cross_entropy(
            language.model(torch.tensor([ids[:-1]])).logits[0], torch.tensor(ids[1:]), reduction="none"
        )
        forward = scorer.forward(window(ids))
    assert torch.allclose(forward.nats, expected, atol=1e-5) and bool(forward.finite.all()) and forward.cache is None
    assert not forward.nats.requires_grad


def capped() -> Iterator[LanguageModel]:
    """Models that change their logits after the head: soft-capping, scaling."""
    small = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": None, "bos_token_id": BOS,
        "eos_token_id": BOS, "max_position_embeddings": 128,
    }  # fmt: skip
    gemma = Gemma2Config(**small, head_dim=8, query_pre_attn_scalar=8, sliding_window=8, final_logit_softcapping=1.5)
    cohere = CohereConfig(**small, logit_scale=0.25)
    for kind, config in ((Gemma2ForCausalLM, gemma), (CohereForCausalLM, cohere)):
        model = kind(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
        yield LanguageModel(model, TOKENIZER, kind.__name__, BOS, "")


def test_a_model_that_changes_its_logits_after_the_head_keeps_its_own_way() -> None:
    for language in capped():
        ids = random_ids(30)
        scorer = Scorer(language)
        assert not scorer.plain_head
        logits = language.model(torch.tensor([ids[:-1]])).logits[0]
        expected = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        hidden = language.model.base_model(torch.tensor([ids[:-1]]))[0][0]
        plain = F.cross_entropy(F.linear(hidden, scorer.head.weight), torch.tensor(ids[1:]), reduction="none")
        assert (plain - expected).abs().max() > 0.1  # the shortcut would be wrong
        assert torch.allclose(scorer.forward(window(ids)).nats, expected, atol=1e-6)
        cached = scorer.forward(window(ids), KeyValues())
        assert torch.allclose(cached.nats, expected, atol=1e-5) and bool(cached.finite.all())


def test_a_model_that_caps_its_logits_learns() -> None:
    for language in capped():
        ids = [BOS, *random_ids(8)[1:] * 8]
        memory = WeightMemory(language, Windows("cached", 16, 8), Learning(rule="sgd", learning_rate=0.5))
        scores = []
        for one in split("d", ids, list(range(1, len(ids))), memory.windows):
            scores.append(memory.score(one).mean().item())
            memory.learn(one)
        assert memory.counts.updates == 8 and scores[-1] < scores[0] - 0.2


def test_scoring_alone_keeps_no_graph_and_learning_needs_no_second_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = WeightMemory(language_model("llama"), Windows("cached", 16, 8), Learning(every=2))
    forwards: list[bool] = []
    forward = memory.scorer.forward

    def counted(*arguments: object) -> scoring.Forward:
        forwards.append(torch.is_grad_enabled())
        return forward(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(memory.scorer, "forward", counted)
    ids = random_ids(40)
    for one in split("d", ids, list(range(1, 41)), memory.windows):
        memory.score(one)
        memory.learn(one)
    assert forwards == [False, True, False, True, False] and memory.counts.updates == 2
