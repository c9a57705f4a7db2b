"""What every memory answered to the same questions: kept as JSON lines, and made a table with paired differences."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.evaluation.answering import (
    Answered,
    bootstrap_interval,
    counted,
    exact_match,
    f1,
    prefix_match,
    summarized,
)
from driftlm.evaluation.settings import Asking, Golds
from driftlm.report.tables import INTERVAL
from driftlm.report.tally import ENOUGH
from driftlm.storage.files import write_atomically
from driftlm.streams.questions import Question

ANSWERS, MEMORIES = "answers.jsonl", "memories.jsonl"
# Of a summary and a row.
SHARED = ("em", "prefix_em", "f1", "nats", "recall", "recall_at_1", "em_interval", "f1_interval")
LAST = ("weight", "changed", "changed_em", "stale", "cut", "kinds")
MEASURED = ("tokens", "weight", "seconds", "cut", "prompt", "recalled", "recalled_first")  # of an answer and its line


@dataclass(frozen=True)
class Examined:
    """A memory after its questions.

    Attributes:
        facts: what its row says besides its answers: `memory`, `documents`, `golds`, `beams`, costs and settings.
        answered: one for every question.
    """

    facts: dict[str, Any]
    answered: list[Answered]


def row_of(found: Sequence[Answered], documents: int, asking: Asking, seconds: float, size: float) -> dict[str, Any]:
    """Return what every row of answers holds."""
    summary = summarized(found, asking.golds)
    return {
        "documents": documents,
        "questions": summary["questions"],
        **{name: summary[name] for name in SHARED},
        "seconds_adapt": seconds,
        "seconds_answer": summary["seconds"],
        "tokens_answer": summary["prompt"],
        "bytes_per_document": size,
        **{name: summary[name] for name in LAST},
        "golds": asking.golds,
        "beams": asking.beams,
    }


def table_of(examined: Sequence[Examined]) -> list[dict[str, Any]]:
    """Return one row a memory: its facts, what its answers come to, and how they differ from those of the first one.

    `em_difference` and `f1_difference` are means over the questions, the row's less the first one's, None there; the
    intervals are 95 % of resamplings of the documents, None under 5 of them.

    Raises:
        DriftError: where the memories did not answer the same questions in the same order.
    """
    rows, first = [], examined[0]
    for one in examined:
        facts = dict(one.facts)
        row = {"memory": facts.pop("memory")}
        asking = Asking(facts.pop("beams"), facts.pop("golds"))
        costs = facts.pop("seconds_adapt"), facts.pop("bytes_per_document")
        row |= row_of(one.answered, facts.pop("documents"), asking, *costs)
        rows.append(row | facts | differences(None if one is first else first.answered, one.answered, asking.golds))
    return rows


def differences(first: Sequence[Answered] | None, other: Sequence[Answered], golds: Golds) -> dict[str, Any]:
    """Return what `other` is better by than `first`, as `table_of` says; of nothing where there is no first.

    Source: paired bootstrap, Efron and Tibshirani 1993, section 16.4; whole documents are drawn.
    """
    names: dict[str, Callable[..., float]] = {"em": exact_match, "f1": f1}
    if first is None:
        return {f"{name}_difference{end}": None for name in names for end in ("", INTERVAL)}
    if [one.question for one in first] != [one.question for one in other]:
        raise DriftError(
            f"the memories gave {len(first)} and {len(other)} answers, not to the same questions in the same order; "
            f"ask them all the same."
        )
    documents = [one.question.document for one in other]
    found: dict[str, Any] = {}
    for name, measure in names.items():
        better = [
            float(measure(after.prediction, after.question.answers, golds))
            - float(measure(before.prediction, before.question.answers, golds))
            for before, after in zip(first, other, strict=True)
        ]
        found[f"{name}_difference"] = math.fsum(better) / len(better)
        enough = len(set(documents)) >= ENOUGH
        interval = list(bootstrap_interval(better, clusters=documents)) if enough else None
        found[f"{name}_difference{INTERVAL}"] = interval
    return found


# ------------------------------------------------------------------------------------------------------------ on disk


def write(folder: Path, examined: Sequence[Examined]) -> None:
    """Write every answer, and the facts of every memory, as JSON lines into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    answers = [line_of(one.facts, found) for one in examined for found in one.answered]
    for name, lines in ((ANSWERS, answers), (MEMORIES, [one.facts for one in examined])):
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        write_atomically(folder / name, partial(Path.write_text, data=text, encoding="utf-8"))


def read(folder: Path) -> list[Examined]:
    """Return what `write` wrote: `table_of(read(folder))` is the table again.

    Raises:
        DriftError: where the folder holds no answers, or damaged ones.
    """
    try:
        facts, lines = (
            [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
            for name in (MEMORIES, ANSWERS)
        )
        found: dict[str, list[Answered]] = {one["memory"]: [] for one in facts}
        for line in lines:
            found[line["memory"]].append(answered_of(line))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DriftError(
            f"{folder} holds no whole {MEMORIES} and {ANSWERS} ({error}); give a folder that driftlm study qa wrote."
        ) from error
    return [Examined(one, found[one["memory"]]) for one in facts]


def line_of(facts: dict[str, Any], one: Answered) -> dict[str, Any]:
    """Return an answer as a JSON object, with its marks."""
    answers, golds = one.question.answers, facts["golds"]
    line = {"memory": facts["memory"], **asdict(one.question), "answers": list(answers), "answer": one.prediction}
    line |= {"gold": counted(answers, golds)[0]}
    line |= {"em": exact_match(one.prediction, answers, golds), "f1": f1(one.prediction, answers, golds)}
    line |= {"prefix_em": prefix_match(one.prediction, answers, golds)}
    line |= {"nats": one.nats if math.isfinite(one.nats) else None}  # JSON has no other
    return line | {name: getattr(one, name) for name in MEASURED}


def answered_of(line: dict[str, Any]) -> Answered:
    """Return the answer of a line."""
    question = {field.name: line[field.name] for field in fields(Question)} | {"answers": tuple(line["answers"])}
    nats = math.nan if line["nats"] is None else line["nats"]
    measured = {name: line[name] for name in MEASURED}
    return Answered(Question(**question), line["answer"], nats, **measured)
