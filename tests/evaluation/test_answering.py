"""Answers against golds: known values, an independent F1, intervals against the analytic ones, summaries."""

import json
import math
import re
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftlm.core.errors import DriftError
from driftlm.evaluation.answering import (
    Answered,
    bootstrap_interval,
    exact_match,
    f1,
    normalized,
    prefix_match,
    retention,
    summarized,
)
from driftlm.streams.questions import Question


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Paris.", "paris"),
        ("a an the", ""),
        ("Theatre, another", "theatre another"),
        ("U.S.-based", "usbased"),
        ("L'Élan\tvital\n", "lélan vital"),
        ("„Köln“", "„köln“"),  # SQuAD drops ASCII punctuation only
        ("...", ""),
        ("", ""),
    ],
)
def test_normalised(text: str, wanted: str) -> None:
    assert normalized(text) == wanted
    assert normalized(normalized(text)) == wanted


@pytest.mark.parametrize(
    ("prediction", "golds", "strict", "prefix"),
    [
        ("Paris", ["Paris"], True, True),
        ("the paris!", ["Paris"], True, True),
        ("Parisian", ["Paris"], False, True),
        ("Paris, France", ["Lyon", "Paris"], False, True),
        ("Par", ["Paris"], False, False),
        ("in Paris", ["Paris"], False, False),
        ("anything", ["The"], False, False),
        ("", ["The"], True, True),
        ("An", ["The"], True, True),
        ("", ["Paris"], False, False),
        ("ZÜRICH.", ["Zürich"], True, True),
        ("zürichsee", ["Zürich"], False, True),
        ("Zu\u0308rich", ["Zürich"], False, False),  # decomposed: other characters, as in SQuAD's script
        ("東京都", ["東京"], False, True),
        ("77 countries", ["seventy-seven", "77"], False, True),
    ],
)
def test_strict_and_prefix_match(prediction: str, golds: list[str], strict: bool, prefix: bool) -> None:
    assert exact_match(prediction, golds) is strict
    assert prefix_match(prediction, golds) is prefix


def test_the_shortest_gold_alone_counts_where_asked() -> None:
    golds = ["seventy-seven", "77", "78"]
    assert exact_match("seventy-seven", golds) and not exact_match("seventy-seven", golds, "shortest")
    assert not prefix_match("78 of them", golds, "shortest") and prefix_match("77 of them", golds, "shortest")
    assert f1("seventy-seven", golds, "shortest") == 0


def reference_f1(prediction: str, gold: str) -> float:
    def words(text: str) -> list[str]:
        kept = "".join(character for character in text.lower() if character not in string.punctuation)
        return [word for word in re.split(r"\s+", kept) if word and word not in ("a", "an", "the")]

    found, wanted = words(prediction), words(gold)
    if not found or not wanted:
        return float(found == wanted)
    left, common = list(wanted), 0
    for word in found:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


WORDS = st.lists(st.sampled_from(["a", "The", "rain", "rain,", "Spain", "in", "élan", "..."]), max_size=6).map(" ".join)


@given(prediction=WORDS, golds=st.lists(WORDS, min_size=1, max_size=3))
def test_f1_is_that_of_the_reference_and_the_scores_are_in_order(prediction: str, golds: list[str]) -> None:
    score = f1(prediction, golds)
    assert score == pytest.approx(max(reference_f1(prediction, gold) for gold in golds))
    assert exact_match(prediction, golds) <= prefix_match(prediction, golds)
    assert exact_match(prediction, golds) <= score <= 1


@pytest.mark.parametrize(
    ("prediction", "golds", "wanted"),
    [
        ("in Paris, France", ["Paris"], 1 / 2),
        ("rain rain", ["rain"], 2 / 3),
        ("Parisian", ["Paris"], 0),
        ("", ["The"], 1),
        ("x", ["The"], 0),
        ("the Seine river", ["river", "Seine"], 2 / 3),
    ],
)
def test_f1_by_hand(prediction: str, golds: list[str], wanted: float) -> None:
    assert f1(prediction, golds) == pytest.approx(wanted)


def test_a_lone_gold_is_one_answer() -> None:
    assert exact_match("Paris", "Paris") and not exact_match("P", "Paris") and f1("P", "Paris") == 0


def test_the_interval_is_near_the_analytic_one_of_a_bernoulli() -> None:
    n, p = 400, 0.3
    low, high = bootstrap_interval([1.0] * int(n * p) + [0.0] * int(n * (1 - p)), seed=3, resamples=20_000)
    half = 1.959964 * math.sqrt(p * (1 - p) / n)
    assert low == pytest.approx(p - half, abs=0.005) and high == pytest.approx(p + half, abs=0.005)
    narrow = bootstrap_interval([1.0] * int(n * p) + [0.0] * int(n * (1 - p)), level=0.5)
    assert low < narrow[0] < p < narrow[1] < high


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    samples = (random.random((300, 100)) < 0.4).astype(float)
    covered = 0
    for number, sample in enumerate(samples):
        low, high = bootstrap_interval(list(sample), seed=number, resamples=500)
        covered += low <= 0.4 <= high
    assert 0.90 <= covered / 300 <= 0.98  # three standard errors around 94 %, a little under 95 % at this size


def test_clusters_are_resampled_whole() -> None:
    # Ten questions a document, all alike: the interval is that of the documents, √10 times as wide.
    values = [float(document < 20) for document in range(50) for _ in range(10)]
    clusters = [str(document) for document in range(50) for _ in range(10)]
    alone = bootstrap_interval(values, resamples=4000)
    whole = bootstrap_interval(values, resamples=4000, clusters=clusters)
    by_document = bootstrap_interval([float(document < 20) for document in range(50)], resamples=4000)
    assert whole == by_document
    assert (whole[1] - whole[0]) / (alone[1] - alone[0]) == pytest.approx(math.sqrt(10), rel=0.1)
    assert bootstrap_interval(values, clusters=[str(n) for n in range(500)]) == bootstrap_interval(values)


def test_clusters_of_different_sizes_weigh_by_their_values() -> None:
    low, high = bootstrap_interval([1.0, 1.0, 1.0, 0.0], clusters=["a", "a", "a", "b"], level=0.999)
    assert (low, high) == (0, 1)
    values, clusters = [1.0, 0.0, 0.0, 0.5, 1.0], ["a", "b", "b", "c", "c"]
    random = np.random.default_rng(0)
    drawn = random.integers(0, 3, (2000, 3))
    sums, counts = np.array([1.0, 0.0, 1.5]), np.array([1.0, 2.0, 2.0])
    wanted = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    assert bootstrap_interval(values, clusters=clusters) == pytest.approx(tuple(wanted))


def test_the_interval_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [float(n % 7) for n in range(60)]
    whole = bootstrap_interval(values, seed=5)
    monkeypatch.setattr("driftlm.evaluation.answering._DRAWS", 700)
    assert bootstrap_interval(values, seed=5) == whole != bootstrap_interval(values, seed=6)


def answered(prediction: str, gold: str = "Paris", document: str = "a", **more: Any) -> Answered:
    number = {name: more.pop(name, default) for name, default in (("nats", 1.0), ("tokens", 2), ("seconds", 0.5))}
    weight = more.pop("weight", None)
    return Answered(Question("Where?", (gold,), document, **more), prediction, weight=weight, **number)


def test_a_summary_by_hand() -> None:
    answers = [
        answered("Paris", kind="place", weight=0.5, nats=1.0, tokens=1),
        answered("Parisian", kind="place", nats=8.0, tokens=3),
        answered("Bob", "Ann", "b", kind="name", weight=0.1, nats=0.0, tokens=2, superseded="the Bob"),
        answered("Ann", "Ann", "b", superseded="Bob", nats=3.0, tokens=2),
    ]
    assert summarized(answers) == {
        "questions": 4,
        "em": 0.5,
        "prefix_em": 0.75,
        "f1": 0.5,
        "nats": 12 / 8,
        "recall": None,
        "recall_at_1": None,
        "em_interval": None,  # of two documents
        "f1_interval": None,
        "weight": pytest.approx(0.3),
        "changed": 2,
        "changed_em": 0.5,
        "stale": 0.5,
        "cut": 0,
        "seconds": 0.5,
        "prompt": 0.0,
        "kinds": {
            "place": {"questions": 2, "em": 0.5, "f1": 0.5, "nats": 9 / 4, "weight": 0.5},
            "name": {"questions": 1, "em": 0.0, "f1": 0.0, "nats": 0.0, "weight": 0.1},
        },
    }


def test_a_summary_has_intervals_over_documents() -> None:
    answers = [answered("Paris" if n % 3 else "Rome", document=str(n // 4)) for n in range(40)]
    summary = summarized(answers)
    exact = [float(n % 3 > 0) for n in range(40)]
    clusters = [str(n // 4) for n in range(40)]
    assert summary["em_interval"] == list(bootstrap_interval(exact, clusters=clusters)) == summary["f1_interval"]
    assert summary["em_interval"][0] < summary["em"] < summary["em_interval"][1]


def test_a_summary_follows_the_golds() -> None:
    asked = Question("Where?", ("Paris, France", "Paris"), "a", superseded="Rome")
    both = Answered(asked, "Paris, France", 1.0, 1, None, 0.1)
    for golds, wanted in (("all", 1), ("shortest", 0)):
        found = summarized([both], golds)  # type: ignore[arg-type]
        assert (found["em"], found["changed_em"]) == (wanted, wanted)


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [answered("Paris", tokens=0, nats=0.0, kind="k")],
        [answered("Paris", nats=math.nan, weight=math.nan, seconds=math.inf, kind="k")],
    ],
)
def test_a_summary_is_json_without_nan(answers: list[Answered]) -> None:
    summary = summarized(answers)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["questions"] == len(answers) and summary["nats"] is None and summary["weight"] is None


def test_retention() -> None:
    before = [answered("Paris"), answered("Paris", "Paris France"), answered("Paris"), answered("Rome")]
    after = [answered("Paris"), answered("x", "Paris France"), answered("Parisian"), answered("Rome")]
    exact, words = retention(before, after)
    assert exact == pytest.approx(1 / 2) and words == pytest.approx(1 / (2 + 2 / 3))
    assert retention(before, before) == (1, 1)


def test_retention_is_undefined_where_nothing_was_known() -> None:
    partly = [answered("in Paris")]
    assert retention(partly, [answered("Paris")]) == (None, pytest.approx(1.5))
    assert retention([], []) == (None, None)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: exact_match("a", []),
            "no gold answer was given where at least one is expected; give a list of answers",
        ),
        (lambda: f1("a", ["b"], "longest"), "golds='longest': expected all or shortest; give one of them"),
        (
            lambda: bootstrap_interval([]),
            "0 values for an interval: expected at least one, all finite; leave out the others",
        ),
        (
            lambda: bootstrap_interval([1.0, math.nan]),
            "2 values for an interval: expected at least one, all finite; leave out the others",
        ),
        (
            lambda: bootstrap_interval([1.0], resamples=0),
            "resamples=0, level=0.95: expected at least 1, and a share between 0 and 1; correct them",
        ),
        (
            lambda: bootstrap_interval([1.0], level=95),
            "resamples=2000, level=95: expected at least 1, and a share between 0 and 1; correct them",
        ),
        (lambda: bootstrap_interval([1.0], clusters=[]), "0 clusters for 1 values; give one label a value"),
        (
            lambda: retention([answered("Paris")], []),
            "retention: 1 answers before and 0 after are not to the same questions in the same order; answer the same "
            "questions again",
        ),
    ],
)
def test_refusals(call: Any, sentence: str) -> None:
    with pytest.raises(DriftError) as refused:
        call()
    assert str(refused.value) == sentence
