"""The networks of a bank: padding never shows, no token is lost, and what was saved is what is loaded."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from driftlm.core.errors import DriftError
from driftlm.memories.bank.low_rank import LowRank
from driftlm.memories.bank.networks import SETTINGS, WEIGHTS, BankNetworks, load_networks, saved
from driftlm.memories.bank.settings import NetworksSettings
from driftlm.models.answers import generate
from driftlm.models.batching import MOST_ROWS
from driftlm.models.prompting import prompt_ids
from tests.support.at_once import asked as asked_at_once
from tests.support.build import language_model
from tests.support.families import BOS, FAMILIES

SMALL = NetworksSettings(
    vectors=3,
    encoder_width=16,
    encoder_layers=2,
    encoder_heads=2,
    blocks=2,
    heads=2,
    head_width=8,
    key_width=8,
    longest=24,
)
QUESTIONS = ["Who?", "Where did the rain fall on that day, and why there?"]
families = pytest.mark.parametrize("family", FAMILIES)


def networks(family: str = "llama", settings: NetworksSettings = SMALL, seed: int = 0) -> BankNetworks:
    """Far from their start: questioner and amortizer differ, biases are not zero."""
    torch.manual_seed(seed)
    model = language_model(family)
    model.model.requires_grad_(False)
    made = BankNetworks(model, settings).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return made


@families
@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_the_vectors_of_a_text_do_not_depend_on_longer_ones_beside_it(family: str, training: bool) -> None:
    made = networks(family).train(training)
    rows = [[BOS, 5], [BOS, *range(20, 40)], [BOS, 7, 8, 9]]
    beside = made.amortize_rows(rows)
    assert beside.shape == (3, SMALL.vectors, 32)
    for row, vectors in zip(rows, beside, strict=True):
        torch.testing.assert_close(made.amortize_rows([row])[0], vectors, atol=1e-5, rtol=1e-5)
    asked = made.question_vectors(QUESTIONS)
    for question, vectors in zip(QUESTIONS, asked, strict=True):
        torch.testing.assert_close(made.question_vectors([question])[0], vectors, atol=1e-5, rtol=1e-5)
    assert (beside[0] - beside[2]).abs().max() > 1e-2 < (asked[0] - asked[1]).abs().max()


@torch.no_grad()
def test_documents_keep_their_order_and_the_order_of_their_parts() -> None:
    """More parts than a batch holds, lengths mixed, so that the order by length is another."""
    made = networks()
    texts = [f"{'rain and ' * (number * 7 % 11)} {number}." for number in range(2 * MOST_ROWS // 3)]
    parts = [made.reader.parts(text) for text in texts]
    rows = [row for part in parts for row in part]
    assert len(rows) > MOST_ROWS and sorted(rows, key=len) != rows and max(map(len, parts)) > 1
    found = list(made.amortize(texts))
    assert len(found) == len(texts)
    for (vectors, keys), part in zip(found, parts, strict=True):
        expected = torch.cat([made.amortize_rows([row]) for row in part])
        torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(keys, made.aggregator.document_key(expected), atol=1e-5, rtol=1e-5)
    assert list(made.amortize([])) == []


@torch.no_grad()
def test_a_long_question_is_read_at_its_end() -> None:
    made = networks()
    question = f"{'It rained and rained. ' * 10} Where?"
    ids = made.questioner.tokens(question)
    last = [made.reader.parts(question)[0][0], *ids[1 - made.settings.longest :]]
    assert len(ids) > made.settings.longest == len(last)
    assert torch.equal(made.question_vectors([question]), made.questioner([last]))


def test_questions_and_documents_are_read_alike_before_training() -> None:
    model = language_model("llama")
    made = BankNetworks(model, SMALL).eval()
    ((vectors, key),) = made.amortize(["It rained."])
    asked = made.question_vectors(["It rained."])
    torch.testing.assert_close(asked, vectors)
    torch.testing.assert_close(made.aggregator.query_key(asked), key)


@families
def test_what_was_saved_gives_the_same_bits(family: str, tmp_path: Path) -> None:
    made = networks(family)
    made.save(tmp_path / "deep" / "folder")
    again = load_networks(tmp_path / "deep" / "folder", language_model(family))
    assert again.settings == SMALL and again.fingerprint() == made.fingerprint()
    assert not again.training and not any(weight.requires_grad for weight in again.parameters())
    outputs = []
    for one in (made, again):
        ((vectors, keys),) = one.amortize(["It rained in Paris."])
        prefix, shares = asked_at_once(one, QUESTIONS, vectors, keys, torch.tensor([1.0], dtype=torch.float64))
        outputs.append([vectors, keys, shares, *(tensor for layer in prefix for tensor in layer)])
    assert all(torch.equal(one, other) for one, other in zip(*outputs, strict=True))


def test_networks_saved_in_bfloat16_are_loaded_as_their_rounded_selves(tmp_path: Path) -> None:
    made = networks()
    made.save(tmp_path, dtype=torch.bfloat16)
    loaded = load_networks(tmp_path, language_model("llama")).state_dict()
    for name, value in made.state_dict().items():
        assert loaded[name].dtype == torch.float32 and torch.equal(loaded[name], value.bfloat16().float())


def test_networks_without_a_document_score_are_saved_and_loaded(tmp_path: Path) -> None:
    settings = NetworksSettings(encoder_width=16, encoder_heads=2, head_width=8, document_score=False)
    networks(settings=settings).save(tmp_path)
    again = load_networks(tmp_path, language_model("llama"))
    ((vectors, keys),) = again.amortize(["It rained."])
    assert again.settings == settings and keys.shape == (1, 0)
    asked_at_once(again, ["Where?"], vectors, keys, torch.tensor([1.0], dtype=torch.float64))


@families
def test_networks_with_a_lora_are_saved_and_loaded_and_answer(family: str, tmp_path: Path) -> None:
    settings = replace(SMALL, modulation="lora", rank=2, target_modules="attention")
    made = networks(family, settings)
    made.save(tmp_path)
    again = load_networks(tmp_path, language_model(family))
    assert again.settings == settings
    ((vectors, keys),) = made.amortize(["It rained in Paris."])
    (one, _), (other, _) = (
        asked_at_once(each, QUESTIONS, vectors, keys, torch.zeros(1).double()) for each in (made, again)
    )
    assert isinstance(one, LowRank) and isinstance(other, LowRank)
    assert list(one.factors) == list(other.factors)
    for factors, others in zip(one.factors.values(), other.factors.values(), strict=True):
        assert factors[0].shape[::2] == (len(QUESTIONS), settings.rank)
        assert all(map(torch.equal, factors, others))
    prompts = [prompt_ids(made.language_model, question) for question in QUESTIONS]
    said = generate(made.language_model, prompts, one, longest=4)
    assert said == generate(again.language_model, prompts, other, longest=4)
    assert said != generate(made.language_model, prompts, None, longest=4)


def test_networks_saved_before_a_setting_existed_have_its_default(tmp_path: Path) -> None:
    made = networks()
    made.save(tmp_path)
    facts = json.loads((tmp_path / SETTINGS).read_text())
    for name in ("encoder", "t5", "modulation", "rank", "target_modules"):
        del facts["settings"][name]
    (tmp_path / SETTINGS).write_text(json.dumps(facts))
    assert load_networks(tmp_path, language_model("llama")).fingerprint() == made.fingerprint()
    assert saved(tmp_path)[0]["settings"] == asdict(SMALL)


def test_weights_keep_the_names_that_saved_networks_have() -> None:
    names = set(networks().state_dict())
    encoder = {name.removeprefix("amortizer.") for name in names if name.startswith("amortizer.")}
    assert {"norms.0.weight", "into.weight", "learned", "norm.weight", "out.bias"} < encoder
    assert {f"questioner.{name}" for name in encoder} < names
    assert {name.split(".")[0] for name in names} == {"amortizer", "questioner", "aggregator", "readout", "modulation"}
    modulation = {name.removeprefix("modulation.") for name in names if name.startswith("modulation.")}
    linear = {f"feed_forward.{number}.{kind}" for number in (0, 2) for kind in ("weight", "bias")}
    norms = {f"{norm}.{kind}" for norm in ("norm", "last") for kind in ("weight", "bias")}
    assert modulation == linear | norms | {"out.weight", "place"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vectors": 0}, "vectors was 0; give at least 1"),
        ({"rank": -1}, "rank was -1; give at least 1"),
        ({"longest": 1}, "longest was 1; give at least 2"),
        ({"encoder_width": 10, "encoder_heads": 4}, "give a width that the heads divide"),
        ({"encoder": "t5"}, "name a folder of a T5 with the encoder t5"),
        ({"t5": "some/t5"}, "and none with states"),
        ({"encoder": "t6", "t5": "some/t5"}, "give states or t5, and prefix or lora"),
        ({"modulation": "adapter"}, "give states or t5, and prefix or lora"),
    ],
)
def test_shapes_that_cannot_be_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DriftError, match=message):
        NetworksSettings(**wrong)


def test_networks_of_another_language_model_are_refused(tmp_path: Path) -> None:
    networks("llama").save(tmp_path)
    with pytest.raises(DriftError, match="trained for another language model than 'tiny-qwen'"):
        load_networks(tmp_path, language_model("qwen"))


@pytest.mark.parametrize("missing", [SETTINGS, WEIGHTS, None])
def test_a_folder_without_networks_is_refused(missing: str | None, tmp_path: Path) -> None:
    if missing:
        networks().save(tmp_path)
        (tmp_path / missing).unlink()
    with pytest.raises(DriftError, match="holds no bank networks; give one that `driftlm train bank` wrote"):
        load_networks(tmp_path, language_model("llama"))


@families
@torch.no_grad()
def test_the_order_of_a_banks_entries_changes_no_answer(family: str) -> None:
    made = networks(family)
    found = list(made.amortize([f"It rained in {place}. " * 3 for place in ("Paris", "Rome", "Oslo", "Bern")]))
    vectors, keys = (torch.cat(one) for one in zip(*found, strict=True))
    timestamps = torch.rand(len(vectors), dtype=torch.float64)
    timestamps[1] = torch.nan
    order = torch.randperm(len(vectors))
    assert not torch.equal(order, torch.arange(len(vectors)))
    prefix, shares = asked_at_once(made, QUESTIONS, vectors, keys, timestamps)
    again, permuted = asked_at_once(made, QUESTIONS, vectors[order], keys[order], timestamps[order])
    torch.testing.assert_close(permuted, shares[:, order], atol=1e-5, rtol=1e-5)
    for layer, other in zip(prefix, again, strict=True):
        torch.testing.assert_close(layer, other, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(len(QUESTIONS)))


def test_the_fingerprint_names_every_weight_and_the_language_model() -> None:
    made = networks()
    first = made.fingerprint()
    assert networks().fingerprint() == first != networks(seed=1).fingerprint()
    for name, weight in made.named_parameters():
        before = weight.detach().clone()
        with torch.no_grad():
            weight.view(-1)[-1] += 1e-3
            assert made.fingerprint() != first, name
            weight.copy_(before)
    assert made.fingerprint() == first
    made.language_model.fingerprint = "another"
    assert made.fingerprint() != first


def test_the_language_model_is_no_part_of_the_weights() -> None:
    made = networks()
    own = {weight.data_ptr() for weight in made.state_dict().values()}
    assert own.isdisjoint(weight.data_ptr() for weight in made.language_model.model.parameters())
    assert not any(name.startswith("reader") for name in made.state_dict())
