"""Token weights: what each method weighs, that the loss is divided by real tokens, and that later text has no say."""

import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from driftlm import Document, DriftError, Learning, WeightMemory, Windows, load, read_stream
from driftlm.memories.weights.camels import SalienceNetwork, hidden_states
from driftlm.memories.weights.spelling import Spelling
from driftlm.memories.weights.tagging import spans_by_rule, tagger_of
from driftlm.streams.windows import Window, split
from tests.support.build import language_model, read, reads_numbers, spelled, weight_memory

GRID = Windows("overlapping", 16, 8)
RAIN = "When it rained, the Duke of York left for Paris on 3 May 1854. Nobody saw him. Anna Karenina wept in 1999."
MODEL = load()


def windows_of(memory: WeightMemory, text: str) -> list[Window]:
    return list(split("d", *memory.encode(text), memory.windows))


def weighed(memory: WeightMemory, text: str) -> list[tuple[str, float]]:
    """Every token's own text and its weight; nothing is learned."""
    assert memory.salience is not None
    found = []
    for window in windows_of(memory, text):
        memory.salience.read(window)
        words, places = Spelling(memory.language_model)(window.targets)
        weights = memory.salience.weights(window).tolist()
        found += [(words[start:end], weight) for (start, end), weight in zip(places, weights, strict=True)]
    return found


def bundled(salience: Any, windows: Windows = Windows("overlapping", 512, 256), **learning: Any) -> WeightMemory:  # noqa: B008
    return WeightMemory(MODEL, windows, Learning(rule="sgd", salience=salience, **learning))


def constant(weight: float) -> Callable[[Window], Tensor]:
    return lambda window: torch.full((window.new,), weight)


# ----------------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("window", ["overlapping", "cached"])
@pytest.mark.parametrize("cadence", ["skip", "accumulate"])
def test_weights_of_one_are_uniform_bit_by_bit(window: Any, cadence: str) -> None:
    documents = [spelled([17, 4, 99, 23, 8] * 7, "a"), spelled([17, 4, 99] * 5, "b")]
    made = [
        weight_memory("llama", Windows(window, 16, 8), learning_rate=0.1, every=2, cadence=cadence, salience=salience)
        for salience in ("uniform", "tfidf")
    ]
    assert made[1].salience is not None
    made[1].salience.weights = constant(1.0)  # type: ignore[method-assign]
    uniform, weighted = (read(memory, documents) for memory in made)
    assert torch.equal(uniform, weighted)
    assert made[0].counts == made[1].counts and made[0].counts.updates > 2


def test_the_loss_is_divided_by_real_tokens() -> None:
    """A weight of 2 on half of the tokens at rate η is the sum of their nats at rate 2 η / S."""
    memory = weight_memory("llama", Windows("overlapping", 16, 16), learning_rate=0.1, salience="spans")
    plain = weight_memory("llama", Windows("overlapping", 16, 16), learning_rate=0.1)
    document = spelled(range(1, 13))
    weights = torch.tensor([2.0, 0.0] * 6)
    assert memory.salience is not None
    memory.salience.weights = lambda window: weights  # type: ignore[method-assign]
    read(memory, [document])
    (window,) = split(document.id, *plain.encode(document.text), plain.windows)
    nats = plain.scorer.forward(window).nats
    (2 * nats[::2].sum() / 12).backward()
    for name, parameter in plain.trainable.parameters.items():
        assert parameter.grad is not None
        stepped = memory.trainable.parameters[name]
        assert torch.allclose(stepped, parameter - 0.1 * parameter.grad, atol=1e-6)


@pytest.mark.parametrize("cadence", ["skip", "accumulate"])
def test_a_document_without_weight_takes_no_step(cadence: str) -> None:
    memory = bundled("spans", Windows("overlapping", 16, 8), cadence=cadence, every=2)
    read(memory, [Document("a", "nobody was there, and nothing came of it, as nothing ever does when it rains.")])
    assert memory.counts.updates == 0
    assert all(map(torch.equal, memory.parameters, memory.prior.values))
    read(memory, [Document("b", RAIN)])
    assert memory.counts.updates > 0
    memory.reset()


# ------------------------------------------------------------------------------------------------------------ methods


def test_names_and_dates_are_found_by_rule() -> None:
    found = [RAIN[start:end] for start, end in spans_by_rule(RAIN)]
    assert found == ["Duke of York", "Paris", "3 May 1854", "Anna Karenina", "1999"]
    for text, expected in (
        ("The Times wrote. London slept.", []),  # one word, where a sentence starts
        ("She and I saw May 3rd, 1901 and 1854-05-03, not 12345 or 3000 or a May.", ["May 3rd, 1901", "1854-05-03"]),
        ("the University of the West and École Normale", ["University of the West and École Normale"]),
        ("In New York it rained", ["New York"]),
    ):
        assert [text[start:end] for start, end in spans_by_rule(text)][: len(expected)] == expected, text
    assert spans_by_rule("") == []


def test_tokens_that_touch_a_span_weigh_one() -> None:
    weights = weighed(bundled("spans"), RAIN)
    assert {weight for _, weight in weights} == {0.0, 1.0}
    kept = "".join(token for token, weight in weights if weight)
    assert kept.split() == ["Duke", "of", "York", "Paris", "3", "May", "1854", "Anna", "Karenina", "1999"]


def test_tf_idf_is_as_defined() -> None:
    memory = bundled("tfidf")
    memory.reset()
    for _ in read_stream(memory, [Document("a", "rain and wind"), Document("b", "rain and snow")]):
        pass
    text = "rain, snow, hail and Hail"
    weights = weighed(memory, text)
    assert sum(weight for _, weight in weights) / len(weights) == pytest.approx(1)
    letters = [weight for token, weight in weights for _ in token]
    # Two documents before: `rain` and `and` in both, `snow` in one, `hail`, twice here, in none.
    raw = {"rain": math.log(4 / 3), "snow": math.log(4 / 2), "hail": 2 * math.log(4), "and": math.log(4 / 3)}
    scale = letters[0] / raw["rain"]
    for word in re.finditer(r"\w+", text):
        for letter in range(*word.span()):
            assert letters[letter] == pytest.approx(scale * raw[word.group().lower()]), word
    assert [weight for token, weight in weights if token == ","] == [0.0, 0.0]
    assert memory.salience is not None and memory.salience.state()["frequencies"] == {
        "rain": 2, "and": 2, "wind": 1, "snow": 1,
    }  # fmt: skip
    memory.reset()
    assert memory.salience.state() == {"documents": 0, "frequencies": {}, "words": {}}


def test_a_text_without_words_weighs_nothing() -> None:
    assert {weight for _, weight in weighed(bundled("tfidf"), "... !!! --- ...")} == {0.0}


@pytest.mark.parametrize("salience", ["spans", "tfidf"])
def test_later_text_has_no_say(salience: str) -> None:
    """Neither what follows a window in its document nor later documents: only then are scores honest."""
    memory = bundled(salience, Windows("overlapping", 16, 8))
    long = weighed(memory, RAIN + " The Queen of Spain reigned, and it rained in Madrid.")
    memory.reset()
    windows = windows_of(memory, RAIN + " Nothing rained.")
    short = weighed(memory, RAIN + " Nothing rained.")
    same = 8 * (len(windows) - 2)
    assert same > 16 and short[:same] == long[:same]
    memory.reset()


@pytest.mark.parametrize("text", ["naïve café — “Zürich”", "日本語のテキスト", " leading\n\nand   spaces ", "😀😀"])
def test_tokens_are_spelled_as_they_stood(text: str) -> None:
    ids, _ = MODEL.encode(text)
    found, places = Spelling(MODEL)(ids)
    assert found == text
    assert places[0] == (0, 0) and places[-1][1] == len(text)
    assert all(first <= second for (_, first), (_, second) in pairwise(places))
    cut, _ = Spelling(MODEL)(ids[:-1])
    assert text.startswith(cut.rstrip("\N{REPLACEMENT CHARACTER}"))


# ------------------------------------------------------------------------------------------------------------- CaMeLS


def network_with(weight: float, width: int = 32) -> SalienceNetwork:
    """One that says `weight` of every token: softplus_3(b) = w."""
    network = SalienceNetwork(width, 8)
    with torch.no_grad():
        network.fc2.bias.fill_(math.log(math.expm1(3 * weight)) / 3)
    return network


def test_camels_with_constant_weights_is_uniform(tmp_path: Path) -> None:
    documents = [spelled([17, 4, 99, 23, 8] * 7, "a"), spelled([17, 4, 99] * 5, "b")]
    model = language_model("llama")
    network_with(1.0).save(tmp_path / "one", model)
    SalienceNetwork(32, 8).save(tmp_path / "fresh", model)
    uniform = read(weight_memory("llama", GRID, learning_rate=0.1), documents)
    one = weight_memory("llama", GRID, learning_rate=0.1, salience="camels", salience_network=str(tmp_path / "one"))
    assert (read(one, documents) - uniform).abs().max() < 1e-4
    fresh = weight_memory(
        "llama", GRID, learning_rate=0.3 / math.log(2), salience="camels", salience_network=str(tmp_path / "fresh")
    )
    assert (read(fresh, documents) - uniform).abs().max() < 1e-4  # ln 2 / 3 of every token


def test_camels_reads_the_prior_up_to_the_token_itself(tmp_path: Path) -> None:
    model = language_model("llama")
    network = SalienceNetwork(32, 8)
    torch.nn.init.normal_(network.fc2.weight)
    network.save(tmp_path, model)
    learning = Learning(rule="sgd", learning_rate=0.1, salience="camels", salience_network=str(tmp_path))
    memory = reads_numbers(WeightMemory(model, Windows("overlapping", 32, 16), learning))
    document = spelled(range(1, 25))
    ids = memory.encode(document.text)[0]
    expected = network(hidden_states(language_model("llama"), torch.tensor(ids)))[1:]
    found = []
    for step in read_stream(memory, [document]):
        assert memory.salience is not None
        found.append(memory.salience.weights(step.window))
    assert memory.counts.updates == 2  # the second window was weighed by the prior all the same
    assert torch.allclose(torch.cat(found), expected, atol=1e-5)
    assert float(torch.cat(found).std()) > 0.01


def test_a_proxy_serves_models_with_its_tokenizer(tmp_path: Path) -> None:
    width = int(MODEL.model.config.hidden_size)
    network_with(1.0, width).save(tmp_path, MODEL)
    learning = Learning(salience="camels", salience_network=str(tmp_path))
    with pytest.raises(DriftError, match=r"whose tokenizer is not that of 'tiny-llama'; train one for this model"):
        WeightMemory(language_model("llama"), GRID, learning)
    other = load()
    other.fingerprint, other.earlier_fingerprint = "another with the same tokenizer", ""
    memory = WeightMemory(other, GRID, learning)
    assert memory.salience is not None and memory.salience.reader is not other  # type: ignore[attr-defined]
    weights = memory.salience.weights(windows_of(memory, RAIN)[0])
    assert torch.allclose(weights, torch.ones(len(weights)), atol=1e-5)


def test_the_bundled_network_learns_from_what_is_told_of_a_name() -> None:
    """The value, which a question can ask for, not the words that every such sentence has."""
    memory = WeightMemory(MODEL, Windows("overlapping", 64, 64), Learning(salience="camels"))
    text = "Ada Lowell lives in Lisbon. Ada Lowell works as a painter."
    (window,) = windows_of(memory, text)
    assert memory.salience is not None
    weights = dict(zip(range(window.new), memory.salience.weights(window).tolist(), strict=True))
    ends = memory.encode(text)[1]
    told = [
        weights[n]
        for n, end in enumerate(ends)
        if any(text.find(one) < end <= text.find(one) + len(one) for one in ("Lisbon", "painter"))
    ]
    rest = [weights[n] for n, end in enumerate(ends) if weights[n] not in told]
    assert sum(told) / len(told) > 2 * sum(rest) / len(rest)


# ----------------------------------------------------------------------------------------------------------- refusals


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for settings, message in (
        ({"salience": "all"}, "`Learning.salience` was 'all'; give one of uniform, spans, tfidf, camels"),
        ({"salience_network": "x"}, "give camels"),
        ({"tagger": "spacy"}, "`Learning.salience` uniform has none; give spans"),
    ):
        with pytest.raises(DriftError, match=message):
            Learning(**settings)  # type: ignore[arg-type]
    with pytest.raises(DriftError, match="`Learning.tagger` was 'ner'; give rules, spacy or spacy:MODEL"):
        tagger_of("ner")
    with pytest.raises(
        DriftError, match="holds no salience network; give `Learning.salience_network` a folder that `driftlm train"
    ):
        WeightMemory(MODEL, GRID, Learning(salience="camels", salience_network=str(tmp_path)))


def test_spacy_leaves_numbers_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the library, which is an extra; it is asked as its documentation says."""
    import sys
    from types import ModuleType
    from types import SimpleNamespace as Object

    def pipeline(text: str) -> Object:
        found = [("York", "GPE"), ("three", "CARDINAL"), ("noon", "TIME"), ("1854", "DATE")]
        places = [(text.index(word), word, label) for word, label in found]
        return Object(ents=[Object(start_char=at, end_char=at + len(w), label_=label) for at, w, label in places])

    asked: list[str] = []
    spacy = ModuleType("spacy")
    spacy.load = lambda name: asked.append(name) or pipeline  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    text = "three left York at noon in 1854"
    assert [text[start:end] for start, end in tagger_of("spacy")(text)] == ["York", "1854"]
    tagger_of("spacy:de_core_news_sm")
    assert asked == ["en_core_web_sm", "de_core_news_sm"]

    def missing(name: str) -> None:
        raise OSError

    spacy.load = missing  # type: ignore[attr-defined]
    with pytest.raises(DriftError, match="spaCy has no model 'en_core_web_sm' here; install it with"):
        tagger_of("spacy")
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(DriftError, match="needs spaCy; install it with `pip install 'driftlm"):
        tagger_of("spacy")


def test_spacy_finds_what_its_pipeline_names(tmp_path: Path) -> None:
    """The library itself, where it is installed, with a pipeline of three rules."""
    spacy = pytest.importorskip("spacy", reason="the extra `ner` is not installed")
    pipeline = spacy.blank("en")
    named = (("PERSON", "Ada Lowell"), ("GPE", "Lisbon"), ("CARDINAL", "three"))
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": label, "pattern": text} for label, text in named])
    pipeline.to_disk(tmp_path / "ruler")
    text = "Ada Lowell left Lisbon with three cats."
    found = tagger_of(f"spacy:{tmp_path / 'ruler'}")(text)
    assert [text[start:end] for start, end in found] == ["Ada Lowell", "Lisbon"]
