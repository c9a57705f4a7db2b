"""The studies of a bank's parts and of its costs: which rows there are, and that they measure what they say."""

import json

import pytest
import torch

from driftlm.evaluation import bank_cost, bank_studies
from driftlm.evaluation.answering import summarized
from driftlm.evaluation.asking import bank_of, from_bank
from driftlm.evaluation.bank_cost import Spent, cost_rows, grown
from driftlm.evaluation.bank_studies import aggregations, compared, text_rows
from driftlm.evaluation.settings import Asking
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import EXACT, Aggregation
from tests.support.made_banks import SMALL, networks, stream

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def made() -> BankNetworks:
    return networks()


def test_a_bank_is_compared_in_every_way_that_is_not_exact(made: BankNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_studies, "GROUPS", (4, 1000))
    monkeypatch.setattr(bank_studies, "NEAREST", (3, 1000))
    whole = stream()
    rows = compared(made, whole, whole.questions, Asking(), 7)
    bank = bank_of(made, whole.documents)
    entries = len(bank.keys)
    half, eighth = entries // 2, entries // 8
    ways = [("exact", None), ("hierarchical", 4), ("nearest", 3)]
    ways += [(way, size) for way in ("pruned", "averaged", "nearest-averaged") for size in (half, eighth)]
    assert [(row["aggregation"], row["size"]) for row in rows] == ways
    assert len({tuple(row) for row in rows}) == 1 and json.dumps(rows, allow_nan=False)
    for row in rows:
        assert (row["vectors"], row["encoder"], row["modulation"]) == (SMALL.vectors, "states", "prefix")
        one = Aggregation(row["aggregation"], row["size"] or 0, 7)
        again = summarized(from_bank(made, bank, whole.questions, aggregation=one))
        assert row["nats"] == pytest.approx(again["nats"]) and row["weight"] == again["weight"]
    whole_bytes = rows[0]["bytes_per_document"]
    assert rows[3]["bytes_per_document"] == pytest.approx(whole_bytes * half / entries)
    assert rows[1]["bytes_per_document"] == rows[2]["bytes_per_document"] == whole_bytes
    unscored = bank.select(torch.arange(entries))
    unscored = type(bank)(bank.vectors, bank.keys[:, :0], bank.timestamps, bank.owner, bank.ids)
    assert not {"nearest", "nearest-averaged"} & {one.way for one in aggregations(unscored, 0)}
    assert aggregations(bank.select(torch.arange(1)), 0) == [EXACT]


def test_running_text_is_read_with_a_bank_of_its_first_half(made: BankNetworks) -> None:
    documents = [document for document in stream().documents if document.text.count("rained") > 1]
    rows = text_rows(made, documents)
    assert [(row["text"], row["documents"]) for row in rows] == [("adapted", 4), ("unseen", 4)]
    for row, some in zip(rows, (documents[:4], documents[4:]), strict=True):
        assert row["tokens"] == sum(len(made.language_model.encode(one.text)[0]) - 1 for one in some)
        assert row["nats"] != row["plain_nats"] and row["perplexity"] == pytest.approx(2.718281828 ** row["nats"])
    assert text_rows(made, documents[:1]) == []


def test_costs_of_growing_banks(made: BankNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_cost, "SIZES", (4, 30, 1000))
    rows = cost_rows(made, stream(), 999)
    assert [(row["documents"], row["measured_documents"]) for row in rows] == [(4, 4), (30, 12)]
    for row in rows:
        assert min(row["seconds_adapt"], row["seconds_ask"], row["seconds_prepare"]) > 0
        vectors = bank_of(made, stream().documents[: row["measured_documents"]])
        kept = 4 * (vectors.vectors.numel() + vectors.keys.numel()) / row["measured_documents"]
        assert row["bytes_per_document"] > kept  # the text and the file's own
    assert json.dumps(rows, allow_nan=False)
    assert [row["documents"] for row in cost_rows(made, stream(), 3)] == [3]


@pytest.mark.parametrize("documents", [2, 12, 13, 40])
def test_a_bank_is_grown_by_noisy_copies(documents: int, made: BankNetworks) -> None:
    bank = bank_of(made, stream().documents)
    found = grown(bank, documents)
    entries = min(len(bank.keys), len(found.keys))
    assert torch.equal(found.vectors[:entries], bank.vectors[:entries])
    assert found.owner.unique().tolist() == list(range(documents)) and len(set(found.ids[:documents])) == documents
    torch.testing.assert_close(found.keys.norm(dim=1), torch.ones(len(found.keys)))
    copied = torch.arange(len(found.keys)) % len(bank.keys)
    difference = (found.vectors - bank.vectors[copied])[entries:]
    assert difference.numel() == 0 or 0.005 < (difference.std() / bank.vectors.std()).item() < 0.02
    parts = bank.owner.bincount()
    assert torch.equal(found.owner.bincount(), parts.repeat(4)[:documents])


def test_growth_of_memory_is_the_peak_inside() -> None:
    with Spent(torch.device("cpu")) as little:
        pass
    with Spent(torch.device("cpu")) as much:
        torch.ones(1 << 24)  # 64 MiB, given back before the end
    if much.bytes is None or little.bytes is None:
        pytest.skip("the system does not tell of memory")
    assert little.bytes < 1 << 23 < 1 << 25 < much.bytes < 1 << 27
