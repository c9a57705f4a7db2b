"""Retrieved texts: their layout in a budget, what a source supplies, and a memory against the model called by hand."""

import math
from typing import Any

import pytest
import torch

from driftlm import Document, DriftError, Windows
from driftlm.memories.context.bm25 import BM25Index
from driftlm.memories.context.dense import DenseIndex
from driftlm.memories.context.encoders import StatesOfModel
from driftlm.memories.context.prompt import laid_out
from driftlm.memories.context.source import RetrievalSource
from driftlm.memories.retrieval import BM25Memory, DenseMemory
from driftlm.models.prompting import tokens
from tests.support.build import language_model, numbers, read, reads_numbers, spelled, through_files
from tests.support.families import BOS

MODEL = language_model("llama")
TOLD = [
    Document("lisbon", "Ada lives in Lisbon."),
    Document("oslo", "Bo lives in Oslo, near the sea."),
    Document("harp", "Ada plays the harp, and Bo the flute."),
    Document("rain", "It rained all day."),
]


def length(text: str) -> int:
    return len(tokens(MODEL, f" {text}"))


def source_of(kind: str, **settings: Any) -> RetrievalSource:
    index = BM25Index() if kind == "bm25" else DenseIndex(StatesOfModel(MODEL))
    return RetrievalSource(index, MODEL, **settings)


def test_whole_documents_are_laid_out_while_they_fit() -> None:
    texts = ["the sea and the harp", "x", "Oslo again and again"]
    for budget in range(1, 60):
        text = laid_out(MODEL, texts, budget)
        assert length(text) <= budget or not text
        fitting = [count for count in (1, 2, 3) if length("\n".join(texts[:count])) <= budget]
        if fitting:
            assert text == "\n".join(texts[: fitting[-1]])
        else:  # as much of the first as fits, to the token
            assert texts[0].startswith(text) and length(text) >= budget - 1
    assert laid_out(MODEL, [], 5) == ""


def test_a_character_of_many_tokens_is_not_cut_apart() -> None:
    assert [laid_out(MODEL, ["日本"], budget) for budget in (1, 2, 5, 7, 8)] == ["", "", "日", "日本", "日本"]


@pytest.mark.parametrize("kind", ["bm25", "dense"])
def test_a_source_supplies_the_texts_it_found_and_names_all(kind: str) -> None:
    source = source_of(kind, k=3, budget=16)
    source.add_all(TOLD)
    supply = source.supply(["Where does Ada live in?", TOLD[2].text])
    found = [source.index.search(question, 3) for question in ("Where does Ada live in?", TOLD[2].text)]
    assert [[id for id, _ in named] for named in supply.documents] == [[id for id, _ in some] for some in found]
    for some, named in zip(found, supply.documents):
        weights = [math.exp(score - some[0][1]) for _, score in some]
        assert [share for _, share in named] == pytest.approx([weight / sum(weights) for weight in weights])
    assert supply.documents[1][0][0] == "harp" and len(supply.documents[1]) == 3
    assert all(0 < length(text) <= 16 for text in supply.texts) and supply.modulated is None
    assert TOLD[2].text.startswith(supply.texts[1])


def test_no_word_in_common_is_no_text() -> None:
    source = source_of("bm25")
    source.add_all(TOLD)
    supply = source.supply(["???", "Zanzibar"])
    assert supply.texts == ["", ""] and supply.documents == [[], []]


@pytest.mark.parametrize("kind", ["bm25", "dense"])
def test_a_source_is_restored_exactly(kind: str) -> None:
    first, second = source_of(kind, k=4), source_of(kind, k=4)
    first.add_all(TOLD)
    first.add("oslo", "Bo moved to Rome, by the river.")
    first.drop("rain")
    first.drop("never held")
    second.add("old", "other")
    second.restore(through_files(first.state()))
    assert second.documents == first.documents == ["lisbon", "harp", "oslo"]
    for question in ("Bo lives in Rome", "harp"):
        assert second.supply([question]) == first.supply([question])
    second.reset()
    assert second.documents == [] == list(second.index.documents)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(DriftError, match="another index or encoder"):
        source_of("bm25").restore(source_of("dense").state())
    for settings in ({"k": 0}, {"budget": 0}):
        with pytest.raises(DriftError, match="give 1 or more of each"):
            source_of("bm25", **settings)
    index = BM25Index()
    index.add(["a"], ["ada"])
    with pytest.raises(DriftError, match="other documents than were given"):
        RetrievalSource(index, MODEL)
    assert RetrievalSource(index, MODEL, texts={"a": "ada"}).supply(["Ada?"]).texts == ["ada"]


def test_windows_are_read_behind_what_the_window_before_found() -> None:
    model = language_model("llama")
    memory = reads_numbers(DenseMemory(model, Windows("overlapping", 12, 5), budget=4))
    known, text = [17, 4, 99, 23, 8, 61, 35], [40, 41, 17, 4, 99, 23, 8, 250, 61, 4]
    read(memory, [spelled(known, "known")])
    kept = model.tokenizer.decode(known)
    before = [BOS, *tokens(model, laid_out(model, [kept], 4))][: 12 - 5]
    ids, expected = [BOS, *text], []
    for first in (1, 6):
        new = ids[first : first + 5]
        found = before if first > 1 else []
        # The left end is where a full window would put it.
        fed = found + ids[max(0, first - 1 + 5 - (12 - len(found))) : first - 1 + len(new)]
        with torch.no_grad():
            logits = model.model(torch.tensor([fed])).logits[0, -len(new) :].log_softmax(-1)
        expected.append(-logits[torch.arange(len(new)), torch.tensor(new)])
    assert len(before) > 2
    assert (read(memory, [spelled(text, "new")]) - torch.cat(expected)).abs().max() <= 1e-5
    assert memory.encode("17 4") == numbers("17 4")


def test_a_short_last_window_sees_no_more_than_a_full_one() -> None:
    text = [17, 4, 99, 23, 8, 250, 61, 4, 180, 35, 70, 20, 21, 22, 23]
    scores = []
    for count in (15, 12):
        memory = reads_numbers(DenseMemory(language_model("llama"), Windows("overlapping", 12, 5), budget=3))
        read(memory, [spelled(text, "known")])
        scores.append(read(memory, [spelled(text[:count], "again")]))
    assert (scores[0][:12] - scores[1]).abs().max() <= 1e-5


def test_an_answer_has_the_whole_budget_and_names_its_documents() -> None:
    memory = BM25Memory(language_model("llama"), Windows("overlapping", 8, 8), k=2)  # no room before windows
    memory.sources[0].add("lisbon", "Ada lives in Lisbon.")
    memory.sources[0].add("oslo", "Bo lives in Oslo.")
    assert [id for id, _ in memory.answer("Does Bo live in Oslo?").documents] == ["oslo", "lisbon"]
