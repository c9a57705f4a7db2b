"""Encoders by name: each is the model called by hand, and what is no name is refused in one sentence."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from driftlm import DriftError
from driftlm.memories.context.encoders import StatesOfModel
from driftlm.memories.context.named_encoders import NAMES, Named, encoder_named, parsed
from tests.support.build import language_model
from tests.support.made_encoders import saved, states, tiny_bert, tiny_dpr, tiny_tokenizer

TEXTS = ["Ada lives in Lisbon.", "the sea"]


def unit(row: Tensor) -> Tensor:
    return row / row.square().sum().sqrt()


@pytest.mark.parametrize("kind", ["contriever", "mean", "bge"])
def test_a_kind_pools_as_its_paper_does(kind: str, tmp_path: Path) -> None:
    folder = saved(tiny_bert(), tmp_path / "a, b:c")  # what only separates elsewhere
    encoder = encoder_named(f"{kind}:{folder}", language_model("llama"))
    pooled = [states(tiny_bert(), text) for text in TEXTS]
    by_hand = {
        "contriever": lambda one: one.mean(0),
        "mean": lambda one: unit(one.mean(0)),
        "bge": lambda one: unit(one[0]),
    }
    for side in (encoder.documents(TEXTS), encoder.questions(TEXTS)):
        torch.testing.assert_close(side, torch.stack([by_hand[kind](one) for one in pooled]), atol=1e-5, rtol=0)


def test_dpr_has_an_encoder_for_each_side(tmp_path: Path) -> None:
    context, question = tiny_dpr()
    folders = [saved(one, tmp_path / name) for name, one in (("context", context), ("question", question))]
    encoder = encoder_named(f"dpr:{folders[0]},{folders[1]}", language_model("llama"))
    ids = torch.tensor([tiny_tokenizer()("the sea")["input_ids"]])
    with torch.no_grad():
        for found, wanted in ((encoder.documents, context), (encoder.questions, question)):
            assert (found(["the sea"]) - wanted(ids).pooler_output).abs().max() <= 1e-5


def test_others_are_the_model_itself_or_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model("llama")
    assert torch.equal(encoder_named("states", model).questions(TEXTS), StatesOfModel(model).questions(TEXTS))
    asked: list[tuple[str, str]] = []

    class Stub(torch.nn.Linear):
        def __init__(self, name: str, device: str, local_files_only: bool) -> None:
            asked.append((name, device))
            super().__init__(2, 2)

    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = Stub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    encoder_named("sentence:some/folder", model)
    assert asked == [("some/folder", "cpu")]


def test_a_name_is_parted_once() -> None:
    assert parsed("states") == Named("states")
    assert parsed("bge:C:/models, old/bge") == Named("bge", ("C:/models, old/bge",))
    assert parsed("dpr:a,b") == Named("dpr", ("a", "b"))


@pytest.mark.parametrize(
    "name",
    ["", "bert:folder", "states:folder", "contriever", "mean:", "dpr:a", "dpr:a,", "dpr:,b", "dpr:a,b,c", "sentence"],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(DriftError) as refused:
        encoder_named(name, language_model("llama"))
    assert str(refused.value) == f"`QuestionStudy.encoder` was {name!r}; give one of {', '.join(NAMES)}."
    assert "dpr:FOLDER,QUESTION_FOLDER" in NAMES and "sentence:FOLDER" in NAMES


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DriftError, match="no text encoder can be loaded from"):
        encoder_named(f"mean:{tmp_path}", language_model("llama"))
