"""Memories by name: each against the model called by hand or against another way to the same, and what is refused."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from driftlm import Document, DriftError, Windows
from driftlm.evaluation import candidates, study, sweep
from driftlm.evaluation.answering import Answered, summarized
from driftlm.evaluation.asking import answered, gold_nats
from driftlm.evaluation.candidates import Candidate, Terms, checked, learner_of, parts_of, taking_part
from driftlm.evaluation.forgetting import forgotten
from driftlm.evaluation.study import compare
from driftlm.evaluation.sweep import chosen_rate, cost_of
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.base import Supply
from driftlm.streams.questions import Question, QuestionStream
from tests.support.build import read
from tests.support.families import BOS
from tests.support.made_banks import networks, stream

pytestmark = pytest.mark.long

RATE = 1e-2


@pytest.fixture(scope="module")
def made() -> BankNetworks:
    return networks()


@pytest.fixture
def terms(made: BankNetworks) -> Terms:
    return Terms(made.language_model, made, learning_rate=RATE)


def weights(made: BankNetworks) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in made.language_model.model.state_dict().items()}


def asked(candidate: Candidate, questions: Sequence[Question]) -> list[Answered]:
    return answered(candidate.language_model, questions, candidate.supply, positions=candidate.positions)


def said(found: Sequence[Answered]) -> list[tuple[str, float, int]]:
    return [(one.prediction, one.nats, one.prompt) for one in found]


def test_uniform_takes_one_plain_step_of_adam_a_document(made: BankNetworks, terms: Terms) -> None:
    before, text = weights(made), stream().documents[2]
    model = networks().language_model.model.requires_grad_(True)  # the same weights, another object
    ids = torch.tensor([[BOS, *made.language_model.tokenizer(text.text, add_special_tokens=False)["input_ids"]]])
    logits = model(ids).logits[0, :-1]
    F.cross_entropy(logits, ids[0, 1:]).backward()
    torch.optim.Adam(model.parameters(), lr=RATE).step()
    with taking_part("uniform", terms, [text], RATE) as candidate:
        candidate.adapt([text])
        assert candidate.memory.counts.updates == 1
        for name, value in model.state_dict().items():
            torch.testing.assert_close(made.language_model.model.state_dict()[name], value, atol=2e-5, rtol=0)
        moved = max((value - before[name]).abs().max().item() for name, value in weights(made).items())
        assert moved == pytest.approx(RATE, rel=0.01)
    after = weights(made)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(parameter.requires_grad for parameter in made.language_model.model.parameters())


def test_a_document_is_a_step_as_long_as_the_positions_hold_it(made: BankNetworks, terms: Terms) -> None:
    some = [*stream(3).documents, Document("long", "é and " * 300)]
    tokens = [len(made.language_model.encode(one.text)[1]) for one in some]
    held = 512 - made.settings.vectors
    assert max(tokens) > held > sorted(tokens)[-2]
    with taking_part("uniform+bank", terms, some, RATE) as candidate:
        assert candidate.memory.windows == Windows("overlapping", held, held, sink=0)
        candidate.adapt(some)
        assert candidate.memory.weights.counts.updates == 3 + -(-tokens[-1] // held)
    assert Candidate("bank", terms, some[:3]).memory.windows.stride == max(tokens[:3])


@pytest.mark.parametrize("alone", ["bank", "uniform", "bm25"])
def test_a_partner_that_holds_nothing_changes_nothing(alone: str, terms: Terms) -> None:
    whole = stream()
    text = [Document("new", "It rained in Paris, and then it rained in Rome. " * 4)]
    both = {"bank": "bank+dense", "uniform": "uniform+bm25", "bm25": "bm25+bank"}[alone]
    found = []
    for name in (alone, both):
        with taking_part(name, terms, whole.documents, RATE) as candidate:
            candidate.adapt(whole.documents)
            if name == both:
                candidate.memory.sources[-1].reset()
            answers = said(asked(candidate, whole.questions))
            candidate.memory.stay(Windows("overlapping", 24, 8))
            found.append((answers, read(candidate.memory, text)))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])
    with taking_part("none", terms, whole.documents) as candidate:
        assert said(asked(candidate, whole.questions)) != found[0][0]


def test_partners_are_both_there(made: BankNetworks, terms: Terms) -> None:
    whole = stream()
    with taking_part("uniform+bm25+bank", terms, whole.documents, RATE) as candidate:
        candidate.adapt(whole.documents)
        supply = candidate.supply(whole.questions[:2])
        assert supply.modulated is not None and candidate.positions == made.settings.vectors
        assert all("rained in" in text for text in supply.texts) and candidate.memory.counts.updates > len(
            whole.documents
        )
        with_weights = said(asked(candidate, whole.questions))
    with taking_part("bank+bm25", terms, whole.documents) as candidate:
        candidate.adapt(whole.documents)
        assert candidate.supply(whole.questions[:2]).documents == supply.documents  # sources work with the prior
        assert said(asked(candidate, whole.questions)) != with_weights
    with taking_part("context", terms, whole.documents) as candidate:
        candidate.adapt(whole.documents, whole.questions)
        texts = {document.id: document.text for document in whole.documents}
        assert candidate.supply(whole.questions).texts == [texts[one.document] for one in whole.questions]


@pytest.mark.parametrize("name", ["uniform", "bank+bm25"])
def test_adapting_goes_on(name: str, terms: Terms) -> None:
    whole, found = stream(), []
    for cuts in ((0, 12), (0, 5, 12)):
        with taking_part(name, terms, whole.documents, RATE) as candidate:
            for start, stop in pairwise(cuts):
                candidate.adapt(whole.documents[start:stop])
            found.append(asked(candidate, whole.questions))
    for one, other in zip(*found, strict=True):
        assert one.prediction == other.prediction and one.nats == pytest.approx(other.nats, abs=1e-4)


def test_recall_counts_texts_that_were_given_and_else_the_largest_share(made: BankNetworks) -> None:
    texts = ["It rained.", "", "", "It snowed.", ""]
    named = [[("b", 0.6), ("a", 0.4)], [("a", 0.9), ("b", 0.1)], [("b", 0.6), ("a", 0.4)], [("c", 1.0)], []]
    questions = [Question("Where?", ("here",), "a") for _ in texts]
    found = answered(made.language_model, questions, lambda some: Supply(texts, None, named))
    assert [one.recalled for one in found] == [True, True, False, False, False]
    assert [one.weight for one in found] == [0.4, 0.9, 0.4, 0.0, 0.0]
    summary = summarized(found)
    assert summary["recall"] == 0.4 and summary["weight"] == pytest.approx(0.34)
    assert found[0].prompt > found[1].prompt == found[2].prompt
    assert summary["recall_at_1"] is None and {one.recalled_first for one in found} == {None}
    (alone,) = answered(made.language_model, questions[:1], lambda some: Supply([""], None, [[]]))
    assert alone.recalled is None and alone.weight is None


def test_recall_at_k_counts_the_k_largest_shares_and_every_text_that_was_found(made: BankNetworks) -> None:
    texts = ["It rained.", "", "", "", "It snowed.", ""]
    shares = {"a": [("a", 0.9), ("b", 0.1)], "b": [("b", 0.6), ("a", 0.4)], "c": [("c", 0.5), ("b", 0.3), ("a", 0.2)]}
    named = [shares["b"], shares["a"], shares["b"], shares["c"], shares["c"], []]
    questions = [Question("Where?", ("here",), "a") for _ in texts]
    for retrieved, wanted in ((2, [True, True, True, False, True, False]), (3, [True, True, True, True, True, False])):
        found = answered(made.language_model, questions, lambda some: Supply(texts, None, named), retrieved=retrieved)
        assert [one.recalled for one in found] == wanted
        assert [one.recalled_first for one in found] == [False, True, False, False, False, False]
        summary = summarized(found)
        assert (summary["recall"], summary["recall_at_1"]) == (pytest.approx(sum(wanted) / 6), pytest.approx(1 / 6))
    (alone,) = answered(made.language_model, questions[:1], lambda some: Supply([""], None, [[]]), retrieved=2)
    assert alone.recalled is None and alone.recalled_first is None


def test_an_encoder_is_loaded_once_and_before_anything_is_measured(
    made: BankNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, loaded = stream(), list[str]()
    real = candidates.encoder_named
    monkeypatch.setattr(candidates, "encoder_named", lambda name, model: loaded.append(name) or real(name, model))
    rows = compare(Terms(made.language_model, made), whole, ["none", "dense", "bm25+dense"], whole.questions)
    assert loaded == ["states"] and [row["encoder"] for row in rows] == [None, "states", "states"]
    assert [row["retrieved"] for row in rows] == [None, 1, 1]
    (kept,) = forgotten(Terms(made.language_model, made), whole, ["dense"], [Document("other", "Ideas sleep.")])
    assert kept["encoder"] == "states"
    monkeypatch.setattr(study, "taking_part", lambda *_: pytest.fail("a memory was measured"))
    with pytest.raises(DriftError, match="no text encoder can be loaded from"):
        compare(Terms(made.language_model, made, encoder=f"bge:{tmp_path}"), whole, ["none", "dense"], whole.questions)


def test_the_cost_of_answers_is_that_of_the_table(terms: Terms) -> None:
    whole = stream()
    with taking_part("uniform+bm25", terms, whole.documents, RATE) as candidate:
        candidate.adapt(whole.documents)
        nats = gold_nats(candidate.language_model, whole.questions, candidate.supply)
    (row,) = compare(terms, whole, ["uniform+bm25"], whole.questions)
    assert row["nats"] == pytest.approx(nats, rel=1e-6) and row["nats"] == pytest.approx(
        cost_of("uniform+bm25", terms, whole, RATE), rel=1e-6
    )
    assert (row["learning_rate"], row["learning_rates"]) == (RATE, {})


def test_the_rate_with_the_cheapest_answers_is_chosen(made: BankNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    open_terms, costs = Terms(made.language_model, made), {1e-4: 0.5, 3e-4: 0.5, 1e-3: float("inf")}
    monkeypatch.setattr(sweep, "cost_of", lambda name, terms, stream, rate: costs.get(rate, 1.0))
    rate, tried = chosen_rate("uniform", open_terms, stream())
    assert rate == 1e-4 and tried["0.001"] is None and tried["0.0003"] == 0.5 and len(tried) == len(sweep.RATES)
    assert chosen_rate("bank", open_terms, None) == (None, {})
    monkeypatch.setattr(sweep, "cost_of", lambda *_: float("inf"))
    with pytest.raises(DriftError, match="diverged at every learning rate"):
        chosen_rate("uniform", open_terms, stream())
    for nothing in (None, QuestionStream((), ())):
        with pytest.raises(DriftError, match="no questions are left to choose the learning rate of uniform on"):
            chosen_rate("uniform", open_terms, nothing)


def test_what_adapting_does_to_other_text(made: BankNetworks, terms: Terms) -> None:
    whole, texts = stream(), [Document("other", "Colourless green ideas sleep furiously. " * 20)]
    none, uniform, bank = forgotten(terms, whole, ["none", "uniform", "bank"], texts)
    assert none["bits_per_byte_before"] == none["bits_per_byte_after"] and none["bits_per_byte_difference"] == 0
    assert uniform["bits_per_byte_before"] == bank["bits_per_byte_before"] == none["bits_per_byte_before"]
    assert none["bytes"] == len(texts[0].text)
    with taking_part("uniform", terms, whole.documents, RATE) as candidate:
        candidate.adapt(whole.documents)
        adapted = weights(made)
        ids = torch.tensor([[BOS, *made.language_model.encode(texts[0].text)[0][1:129]]])
        with torch.no_grad():
            logits = made.language_model.model(ids).logits[0, :-1]
        wanted = F.cross_entropy(logits, ids[0, 1:], reduction="none")
        candidate.memory.stay(Windows("overlapping", 256, 128))
        first = read(candidate.memory, texts)
        assert torch.equal(read(candidate.memory, texts), first)
        torch.testing.assert_close(first[:128], wanted, atol=1e-4, rtol=0)
        assert all(torch.equal(weights(made)[name], value) for name, value in adapted.items())
        bits = first.double().sum().item() / 0.6931471805599453 / len(texts[0].text)
    assert uniform["bits_per_byte_after"] == pytest.approx(bits, rel=1e-9) != uniform["bits_per_byte_before"]
    with pytest.raises(DriftError, match="where context would give its document"):
        forgotten(terms, whole, ["context"], texts)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "`QuestionStudy.memories` was empty"),
        ([","], "`QuestionStudy.memories` was empty"),
        (["bnak"], "named 'bnak'; give some of none, uniform"),
        (["bank+"], "named 'bank+', where a + joins nothing"),
        (["bank,bank"], "named bank twice"),
        (["bank+bank"], "has bank twice"),
        (["none+bank"], "leave it out there"),
        (["uniform+spans"], "uniform and spans change the weights; keep one"),
        (["bank+one"], "bank and one modulate the model; keep one"),
        (["context+one"], "context and one are the right document"),
    ],
)
def test_names_that_make_no_memory_are_refused(names: list[str], sentence: str) -> None:
    with pytest.raises(DriftError) as refused:
        checked(names)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_names_are_parted_by_spaces_or_commas() -> None:
    names = ["none,uniform", "bm25+bank, one", "camels"]
    assert checked(names) == ["none", "uniform", "bm25+bank", "one", "camels"]
    assert parts_of("bm25+bank") == ["bm25", "bank"] and learner_of("bm25+tfidf") == "tfidf"


def test_saliences_learn_from_some_tokens(terms: Terms) -> None:
    whole, found = stream(), {}
    for name in ("uniform", "spans", "tfidf"):
        with taking_part(name, terms, whole.documents, RATE) as candidate:
            candidate.adapt(whole.documents)
            found[name] = [nats for _, nats, _ in said(asked(candidate, whole.questions))]
    assert found["uniform"] != found["spans"] != found["tfidf"] != found["uniform"]
