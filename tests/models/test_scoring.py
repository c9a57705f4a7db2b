"""Windows become nats in one place; here it is held against transformers' own logits, of every family."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from driftlm import WeightMemory, Windows
from driftlm.memories.weights.learning import Learning
from driftlm.models import head, scoring
from driftlm.models.cache import KeyValues
from driftlm.models.loading import LanguageModel
from driftlm.models.scoring import Scorer
from driftlm.streams.windows import Window, split
from tests.support.build import TOKENIZER, language_model
from tests.support.counted_windows import weighing
from tests.support.families import BOS, FAMILIES, VOCABULARY, random_ids


def window(ids: list[int]) -> Window:
    """All tokens of a document as one window."""
    return Window("d", 0, 1, tuple(ids[:-1]), tuple(ids[1:]), len(ids) - 1, True)


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


@pytest.mark.parametrize("family", ["llama", "gemma"])  # the latter's head is its embeddings
@pytest.mark.parametrize(
    "settings",
    [{}, {"every": 2, "cadence": "accumulate"}, {"learn": "lora"}, {"learn": "norms"}, {"salience": "tfidf"}],
    ids=str,
)
def test_a_large_vocabulary_is_learned_from_as_a_small_one(
    monkeypatch: pytest.MonkeyPatch, family: str, settings: dict[str, Any]
) -> None:
    ids, learned = random_ids(45), []
    for kept in (1 << 25, 3 * VOCABULARY):
        for module in (head, scoring):
            monkeypatch.setattr(module, "KEPT_LOGITS", kept)
        learning = Learning(rule="sgd", learning_rate=0.1, **settings)
        memory = weighing(WeightMemory(language_model(family), Windows("cached", 16, 8), learning))
        for one in split("d", ids, range(1, len(ids)), memory.windows):
            memory.score(one)
            memory.learn(one)
        memory.finish("d")
        assert memory.counts.updates > 2 and bool(memory.scorer.spare) == (kept < 1 << 25 and "learn" not in settings)
        learned.append(memory.values())
    torch.testing.assert_close(learned[1], learned[0], rtol=1e-4, atol=1e-6)
    moved = zip(learned[0], memory.prior.values, strict=True)
    assert max((one - prior).abs().max() for one, prior in moved) > 1e-3
