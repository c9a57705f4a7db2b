"""What memories are composed of: supplies put together, and sources that are filled at once."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from driftlm import Document, DriftError, Windows
from driftlm.memories.bank.asked import AskedBank
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.memories.bank.source import BankSource, bank_of
from driftlm.memories.base import Supply
from driftlm.memories.composed import BankMemory
from driftlm.memories.context.bm25 import BM25Index
from driftlm.memories.context.source import RetrievalSource
from tests.support.build import read
from tests.support.made_banks import networks, stream, tensors

QUESTIONS = [question.text for question in stream().questions[:3]]


@pytest.fixture(scope="module")
def made() -> BankNetworks:
    return networks()


def test_supplies_are_put_together() -> None:
    def supply(text: str, *named: tuple[str, float], modulated: Any = None) -> Supply:
        return Supply([text], modulated, [list(named)])

    bank = supply("", ("c", 0.7), ("a", 0.3), modulated="modulated")
    found, other = supply("It rained.", ("a", 1.0)), supply("It snowed.", ("b", 0.75), ("a", 0.25))
    nothing = supply("")
    for several in ([bank, found], [found, bank], [nothing, bank, found]):
        assert Supply.of(several, 1) == supply("It rained.", ("a", 1.0), modulated="modulated")
    both = Supply.of([found, other, bank], 1)
    assert both.texts == ["It rained.\nIt snowed."] and both.documents == [[("a", 0.625), ("b", 0.375)]]
    assert Supply.of([nothing, bank], 1) == bank and Supply.of([], 2) == Supply(["", ""], None, [[], []])


@pytest.mark.parametrize("aggregation", [EXACT, Aggregation("nearest", 3), Aggregation("averaged", 4, 1)])
@pytest.mark.parametrize("asked", [1, 3])
def test_a_bank_supplies_what_its_aggregation_says(made: BankNetworks, aggregation: Aggregation, asked: int) -> None:
    source, bank = BankSource(made, aggregation), bank_of(made, stream().documents)
    source.add_all(stream().documents)
    supply = source.supply(QUESTIONS[:asked])
    modulated, shares = AskedBank(made, bank, aggregation).asked(QUESTIONS[:asked])
    for one, other in zip(tensors(supply.modulated), tensors(modulated), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    for row, named in enumerate(supply.documents):
        assert [share for _, share in named] == sorted((share for _, share in named), reverse=True)
        for document, share in named:
            assert share == pytest.approx(shares[row, bank.ids.index(document)].item(), abs=1e-5)
        assert len(named) == bank.documents


def test_a_bank_is_filled_in_batches_and_keeps_the_times_that_documents_name(
    made: BankNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = BankNetworks.amortize

    def counting(self: BankNetworks, texts: Sequence[str]) -> Any:
        calls.append(len(texts))
        return real(self, texts)

    monkeypatch.setattr(BankNetworks, "amortize", counting)
    source, documents = BankSource(made), stream().documents
    source.add_all(documents[:5])
    source.add_all([documents[2], documents[6], Document(documents[0].id, "It snowed.")])
    assert calls == [5, 3]
    order = [documents[place] for place in (1, 3, 4, 2, 6)]
    assert source.documents == [*(one.id for one in order), documents[0].id]
    wanted = bank_of(made, [*order, Document(documents[0].id, "It snowed.")])
    for name in ("vectors", "keys", "timestamps"):
        torch.testing.assert_close(getattr(source.bank, name), getattr(wanted, name), equal_nan=True)
    assert source.bank.timestamps.isnan().any()
    newest = source.bank.timestamps.nan_to_num(0.0).max().item()
    source.add("last", "It rained again.")
    assert (source.bank.timestamps[source.bank.owner == 6] == newest + 1).all()
    source.reset()
    source.add_all([])
    assert source.documents == []


def test_retrieval_takes_documents_alone_or_together(made: BankNetworks) -> None:
    given = [RetrievalSource(BM25Index(), made.language_model) for _ in range(2)]
    for document in stream().documents:
        given[0].add(document.id, document.text)
    given[1].add_all(stream().documents)
    assert given[0].documents == given[1].documents
    assert given[0].supply(QUESTIONS) == given[1].supply(QUESTIONS)


def test_a_memory_that_stays_learns_nothing(made: BankNetworks) -> None:
    memory = BankMemory(made, Windows("overlapping", 24, 24))
    memory.add_all(stream().documents)
    text = [Document("new", "It rained in Paris, and then it rained in Rome. " * 3)]
    memory.stay(Windows("overlapping", 24, 8))
    scores = read(memory, text)
    assert torch.equal(read(memory, text), scores) and len(memory.sources[0].documents) == len(stream().documents)
    again = BankMemory(made, Windows("overlapping", 24, 8))
    again.add_all(stream().documents)
    assert torch.equal(read(again, text), scores)
    with pytest.raises(DriftError, match="512 positions"):
        memory.stay(Windows("overlapping", 511, 8))
