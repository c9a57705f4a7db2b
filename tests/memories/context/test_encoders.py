"""Encoders: each text as if it were alone, pooled as said, from folders that are complete."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from driftlm import DriftError
from driftlm.memories.context.dense import DenseIndex, Encoder
from driftlm.memories.context.encoders import PooledEncoder, StatesOfModel
from driftlm.memories.context.sentence_encoder import SentenceEncoder
from tests.support.build import language_model
from tests.support.families import BOS, FAMILIES, tiny_tokenizer
from tests.support.made_encoders import SIZES, saved, states, tiny_bert, tiny_dpr

TEXTS = ["the sea", "", "Ada lives in Lisbon, and the harp is hers.", "x"]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return saved(tiny_bert(), tmp_path / "bert")


def as_if_alone(encoder: Encoder, texts: list[str]) -> None:
    together, alone = encoder.documents(texts), torch.cat([encoder.documents([text]) for text in texts])
    assert together.dtype == torch.float32 and (together - alone).abs().max() <= 1e-5
    assert (alone[0] - alone[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_the_language_model_do_not_depend_on_padding(family: str) -> None:
    as_if_alone(StatesOfModel(language_model(family)), TEXTS)


def test_states_are_the_mean_over_the_tokens_of_a_text() -> None:
    model = language_model("llama")
    ids = model.tokenizer(" the sea")["input_ids"]
    with torch.no_grad():
        found = model.model(torch.tensor([[BOS, *ids]]), output_hidden_states=True).hidden_states[-1][0]
    expected = found[1:].mean(dim=0)
    assert (StatesOfModel(model).questions(["the sea"])[0] - expected / expected.norm()).abs().max() <= 1e-6
    long = "harp " * 2000
    assert StatesOfModel(model, longest=9).documents([long]).isfinite().all()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_folder_is_pooled_as_said(bert: Path, pooling: Any) -> None:
    texts = [text or "z" for text in TEXTS]
    encoder = PooledEncoder(bert, pooling=pooling)
    as_if_alone(encoder, texts)
    found = states(tiny_bert(), texts[2])
    expected = found.mean(dim=0) if pooling == "mean" else found[0]
    assert (encoder.documents(texts)[2] - expected).abs().max() <= 1e-5
    normal = PooledEncoder(bert, pooling=pooling, normalize=True).questions(texts)
    assert (normal.norm(dim=1) - 1).abs().max() <= 1e-6
    assert encoder.documents(["harp " * 500]).isfinite().all()  # cut to the positions there are


def test_questions_may_have_an_encoder_of_their_own(bert: Path, tmp_path: Path) -> None:
    other = saved(tiny_bert(1), tmp_path / "other")
    both = PooledEncoder(bert, other)
    assert torch.equal(both.documents(["sea"]), PooledEncoder(bert).documents(["sea"]))
    assert torch.equal(both.questions(["sea"]), PooledEncoder(other).documents(["sea"]))
    assert both.fingerprint != PooledEncoder(bert).fingerprint == PooledEncoder(bert).fingerprint
    index = DenseIndex(PooledEncoder(bert))
    index.add(["a", "b", "a"], ["harp", "sea", "Oslo"])
    assert index.documents == ["b", "a"] and index.search("sea", 1)[0][0] in ("a", "b")


def test_both_encoders_of_dpr_are_loaded_as_what_they_are(tmp_path: Path) -> None:
    context, question = tiny_dpr()
    folders = saved(context, tmp_path / "context"), saved(question, tmp_path / "question")
    encoder = PooledEncoder(*folders, pooling="cls")
    as_if_alone(encoder, ["the sea", "Ada sings and sings."])
    ids = torch.tensor([tiny_tokenizer()("the sea")["input_ids"]])
    with torch.no_grad():
        assert (encoder.documents(["the sea"]) - context(ids).pooler_output).abs().max() <= 1e-5
        assert (encoder.questions(["the sea"]) - question(ids).pooler_output).abs().max() <= 1e-5
    with pytest.raises(DriftError, match="pools by itself; give pooling cls"):
        PooledEncoder(*folders, pooling="mean").documents(["sea"])


def test_what_is_no_encoder_is_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(DriftError, match="the pooling was 'max'; give mean or cls"):
        PooledEncoder(bert, pooling="max")  # type: ignore[arg-type]
    with pytest.raises(DriftError, match="no text encoder can be loaded from"):
        PooledEncoder(tmp_path / "nowhere")
    shallow = BertModel(BertConfig(**SIZES | {"num_hidden_layers": 1}), add_pooling_layer=False)
    broken = saved(shallow, tmp_path / "broken")
    BertConfig(**SIZES, architectures=["BertModel"]).save_pretrained(broken)
    with pytest.raises(DriftError, match="is not complete: .* tensors are missing, such as encoder.layer.1"):
        PooledEncoder(broken)


def test_sentence_transformers_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(DriftError, match=r'sentence_transformers.*; run pip install "driftlm\[dense\]"'):
        SentenceEncoder("any")


def test_sentence_transformers_encodes_each_side_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub(torch.nn.Linear):
        """The part of the package's model that is used; `pip` need not have it for this test."""

        def __init__(self, name: str, device: str, local_files_only: bool) -> None:
            assert local_files_only
            if name == "broken":
                raise OSError("no such folder.")
            super().__init__(2, 2)

        def rows(self, texts: list[str], side: float, **how: bool) -> torch.Tensor:
            assert how == {"convert_to_tensor": True, "normalize_embeddings": True, "show_progress_bar": False}
            return torch.tensor([[len(text), side] for text in texts], dtype=torch.float16)

        def encode_document(self, texts: list[str], **how: bool) -> torch.Tensor:
            return self.rows(texts, 0.0, **how)

        def encode_query(self, texts: list[str], **how: bool) -> torch.Tensor:
            return self.rows(texts, 1.0, **how)

    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = Stub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    encoder = SentenceEncoder("any")
    assert encoder.documents(["abc"]).tolist() == [[3.0, 0.0]] and encoder.questions(["ab"]).tolist() == [[2.0, 1.0]]
    assert encoder.questions(["ab"]).dtype == torch.float32 and encoder.fingerprint != SentenceEncoder("b").fingerprint
    with pytest.raises(DriftError, match=r"'broken' \(no such folder\); give a folder of one"):
        SentenceEncoder("broken")
