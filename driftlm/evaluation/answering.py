"""Predicted answers against gold ones: exact match, prefix match, F1, nats, and intervals from resampled documents."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from driftlm.core.errors import DriftError
from driftlm.evaluation.settings import Golds
from driftlm.report.tally import ENOUGH, FloatArray
from driftlm.streams.questions import Question

RESAMPLES = 2000
LEVEL = 0.95
_DRAWS = 1_000_000  # indices drawn at once, 8 bytes each
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class Answered:
    """A question with the model's answer to it.

    `nats` is -ln p of the gold answer given the question, summed over its `tokens`; `weight` the share of the memory's
    attention that the right document got, where there is one; `seconds` the time that the answer took; `cut` whether
    the document in the context had to be cut; `prompt` the tokens before the answer; `recalled` whether the right
    document was found, where documents were looked for; `recalled_first` whether as the first of several.

    >>> Answered(Question("Where?", ("Paris",), "a"), "Paris", 1.5, 2, None, 0.1).prediction
    'Paris'
    """

    question: Question
    prediction: str
    nats: float
    tokens: int
    weight: float | None
    seconds: float
    cut: bool = False
    prompt: int = 0
    recalled: bool | None = None
    recalled_first: bool | None = None


def normalized(text: str) -> str:
    """Return text as SQuAD compares it: lower case, no ASCII punctuation, no articles (a, an, the), single spaces.

    >>> normalized("  The U.S.  and an Élan ")
    'us and élan'

    Source: the evaluation script of SQuAD v1.1, Rajpurkar et al. 2016.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str], golds: Golds = "all") -> bool:
    """Tell whether the normalised prediction is one of the normalised `answers`; `DriftError` where there are none.

    >>> exact_match("the Paris.", ["Paris", "Paris, France"]), exact_match("Parisian", ["Paris"])
    (True, False)

    Source: the evaluation script of SQuAD v1.1, Rajpurkar et al. 2016.
    """
    predicted = normalized(prediction)
    return any(predicted == normalized(answer) for answer in counted(answers, golds))


def prefix_match(prediction: str, answers: Sequence[str], golds: Golds = "all") -> bool:
    """Tell whether the normalised prediction begins with a normalised answer: the EM of CaMeLS and MAC.

    It is never below `exact_match` and counts "Parisian" as "Paris". An answer of which nothing is left ("The") is
    matched here only by a prediction of which nothing is left; in their code every prediction matches it. Their
    numbers use `golds="shortest"`.

    >>> prefix_match("Parisian", ["Paris"]), prefix_match("Rome", ["The"])
    (True, False)

    Sources: `exact_match(..., match_length=False)` of github.com/nathanhu0/CaMeLS and github.com/jihoontack/MAC.
    """
    predicted = normalized(prediction)
    wanted = [normalized(answer) for answer in counted(answers, golds)]
    return any(predicted.startswith(answer) if answer else not predicted for answer in wanted)


def f1(prediction: str, answers: Sequence[str], golds: Golds = "all") -> float:
    """Return the best F1 over the answers: 2·P·R / (P + R), where P and R are the shares of words in common, with
    repeats.

    Where nothing is left of the prediction or the answer it is 1 if nothing is left of both, else 0 (as in SQuAD v2):
    F1 is never below `exact_match`.

    >>> f1("in Paris, France", ["Paris", "Lyon France"])
    0.5

    Source: the evaluation scripts of SQuAD v1.1 and v2.0, Rajpurkar et al. 2016, 2018.
    """
    predicted = normalized(prediction).split()
    return max(_overlap(predicted, normalized(answer).split()) for answer in counted(answers, golds))


def _overlap(predicted: list[str], wanted: list[str]) -> float:
    if not predicted or not wanted:
        return float(predicted == wanted)
    return 2 * (Counter(predicted) & Counter(wanted)).total() / (len(predicted) + len(wanted))


def counted(answers: Sequence[str], golds: Golds) -> Sequence[str]:
    """Return the gold answers that count; `DriftError` where there are none.

    >>> counted(("Paris, France", "Paris"), "shortest")
    ['Paris']
    """
    answers = [answers] if isinstance(answers, str) else answers  # a lone answer would be read letter by letter
    if not answers:
        raise DriftError("no gold answer was given where at least one is expected; give a list of answers")
    if golds not in ("all", "shortest"):
        raise DriftError(f"golds={golds!r}: expected all or shortest; give one of them")
    return [min(answers, key=len)] if golds == "shortest" else answers


def bootstrap_interval(
    values: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    clusters: Sequence[str] | None = None,
) -> tuple[float, float]:
    """Return the percentile bootstrap of the mean: its (1 ± level)/2 quantiles over resamplings with replacement, in
    their units.

    With `clusters`, one label a value, whole clusters are resampled, and the mean is over the values they hold:
    questions on one document go wrong together, and as many independent ones would give too narrow an interval.
    `DriftError` where there is no value, one is not finite, or the labels are not one a value.

    >>> bootstrap_interval([1.0, 1.0, 1.0])
    (1.0, 1.0)
    >>> low, high = bootstrap_interval([0.0, 1.0] * 50)
    >>> 0.38 < low < 0.44 and 0.56 < high < 0.62
    True

    Source: Efron 1979; of clusters, Davison and Hinkley 1997, section 3.8.
    """
    held = np.asarray(values, dtype=np.float64)
    if held.ndim != 1 or not held.size or not np.isfinite(held).all():
        raise DriftError(f"{held.size} values for an interval: expected at least one, all finite; leave out the others")
    if resamples < 1 or not 0 < level < 1:
        raise DriftError(
            f"resamples={resamples}, level={level}: expected at least 1, and a share between 0 and 1; correct them"
        )
    sums: FloatArray = held
    counts: FloatArray = np.ones(held.size)
    if clusters is not None:
        if len(clusters) != held.size:
            raise DriftError(f"{len(clusters)} clusters for {held.size} values; give one label a value")
        places = {label: place for place, label in enumerate(dict.fromkeys(clusters))}
        index = [places[label] for label in clusters]
        sums, counts = np.bincount(index, held).astype(np.float64), np.bincount(index).astype(np.float64)
    random = np.random.default_rng(seed)
    chunk = max(1, _DRAWS // sums.size)
    means = []
    for start in range(0, resamples, chunk):
        drawn = random.integers(0, sums.size, (min(chunk, resamples - start), sums.size))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarized(answered: Sequence[Answered], golds: Golds = "all") -> dict[str, Any]:
    """Return the means over questions, ready for JSON: a number that is undefined or not finite is None, never NaN.

    - `questions`: how many; `em`, `prefix_em`, `f1`: shares from 0 to 1.
    - `recall`: share of the right documents among those found, over the questions that any were looked for;
      `recall_at_1`: as the first of them, None where no more than one was looked for.
    - `em_interval`, `f1_interval`: [low, high], 95 % of resamplings of the documents; None under 5 documents.
    - `nats`: per token of the answers, all nats over all tokens.
    - `weight`: mean attention on the right document over the questions that have one.
    - `changed`, `changed_em`, `stale`: how many questions have a superseded answer, `em` over these, and the share
      of their predictions that are it.
    - `cut`: how many documents in the context had to be cut; `seconds` and `prompt`: means per answer.
    - `kinds`: for every kind that is not empty, in order of appearance, its `questions`, `em`, `f1`, `nats`, `weight`.

    >>> one = Answered(Question("Where?", ("Paris",), "a", kind="place"), "Paris, France", 3.0, 2, None, 0.1)
    >>> summary = summarized([one])
    >>> summary["em"], summary["prefix_em"], summary["nats"], summary["kinds"]["place"]["questions"]
    (0.0, 1.0, 1.5, 1)
    """
    kinds = dict.fromkeys(one.question.kind for one in answered if one.question.kind)
    exact = [float(exact_match(one.prediction, one.question.answers, golds)) for one in answered]
    words = [f1(one.prediction, one.question.answers, golds) for one in answered]
    documents = [one.question.document for one in answered]
    enough = len(set(documents)) >= ENOUGH
    changed = [one for one in answered if one.question.superseded]
    whole = _means(answered, golds)
    return {
        "questions": whole["questions"],
        "em": whole["em"],
        "prefix_em": _mean([prefix_match(one.prediction, one.question.answers, golds) for one in answered]),
        "f1": whole["f1"],
        "nats": whole["nats"],
        "recall": _mean([one.recalled for one in answered if one.recalled is not None]),
        "recall_at_1": _mean([one.recalled_first for one in answered if one.recalled_first is not None]),
        "em_interval": list(bootstrap_interval(exact, clusters=documents)) if enough else None,
        "f1_interval": list(bootstrap_interval(words, clusters=documents)) if enough else None,
        "weight": whole["weight"],
        "changed": len(changed),
        "changed_em": _score(exact_match, changed, golds),
        "stale": _mean([exact_match(one.prediction, [one.question.superseded]) for one in changed]),
        "cut": len({one.question.document for one in answered if one.cut}),
        "seconds": _mean([one.seconds for one in answered]),
        "prompt": _mean([one.prompt for one in answered]),
        "kinds": {kind: _means([one for one in answered if one.question.kind == kind], golds) for kind in kinds},
    }


def _means(answered: Sequence[Answered], golds: Golds) -> dict[str, Any]:
    tokens = sum(one.tokens for one in answered)
    return {
        "questions": len(answered),
        "em": _score(exact_match, answered, golds),
        "f1": _score(f1, answered, golds),
        "nats": _finite(sum(one.nats for one in answered) / tokens) if tokens else None,
        "weight": _mean([one.weight for one in answered if one.weight is not None]),
    }


def _score(
    measure: Callable[[str, Sequence[str], Golds], float], answered: Sequence[Answered], golds: Golds
) -> float | None:
    return _mean([measure(one.prediction, one.question.answers, golds) for one in answered])


def _mean(values: Sequence[float]) -> float | None:
    return _finite(math.fsum(values) / len(values)) if values else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def retention(
    before: Sequence[Answered], after: Sequence[Answered], golds: Golds = "all"
) -> tuple[float | None, float | None]:
    """Return what is left of strict EM and of F1 after further documents: mean after over mean before, 1 if nothing is
    lost.

    Both are answers to the same questions in the same order, else `DriftError`. A ratio to a start of zero, or of no
    questions, is undefined and None: a model that knew nothing has nothing to keep. It can be over 1.

    >>> known = [Answered(Question(f"{n}?", ("Paris",), "a"), "Paris", 1.0, 1, None, 0.1) for n in range(2)]
    >>> forgotten = [known[0], Answered(known[1].question, "Rome", 4.0, 1, None, 0.1)]
    >>> retention(known, forgotten)
    (0.5, 0.5)

    Source: the retention figure of MAC, Tack et al. 2024, which shows F1 on the questions of the first 200 documents.
    """
    if [one.question for one in before] != [one.question for one in after]:
        raise DriftError(
            f"retention: {len(before)} answers before and {len(after)} after are not to the same questions in the same "
            "order; answer the same questions again"
        )
    exact, words = ((_score(kind, before, golds), _score(kind, after, golds)) for kind in (exact_match, f1))
    return _ratio(*exact), _ratio(*words)


def _ratio(before: float | None, after: float | None) -> float | None:
    return after / before if before and after is not None else None
