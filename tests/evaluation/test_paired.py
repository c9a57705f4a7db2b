"""Answers of several memories: the table is what the lines on disk say, differences are those of single questions."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from driftlm import DriftError
from driftlm.evaluation import study
from driftlm.evaluation.answering import Answered, bootstrap_interval
from driftlm.evaluation.candidates import Terms
from driftlm.evaluation.paired import ANSWERS, MEMORIES, Examined, differences, read, table_of, write
from driftlm.evaluation.settings import Asking
from driftlm.evaluation.study import compare, retained
from tests.support.made_banks import networks, stream

pytestmark = pytest.mark.long


def examined(name: str, predictions: list[str], **more: Any) -> Examined:
    asked = [one for one in stream().questions if one.id != "changed"][: len(predictions)]
    found = [Answered(one, said, 1.5, 2, 0.5, 0.1, **more) for one, said in zip(asked, predictions, strict=True)]
    facts = {"memory": name, "documents": 12, "golds": "all", "beams": 1, "seconds_adapt": 0.0}
    return Examined(facts | {"bytes_per_document": 0.0}, found)


def test_the_table_is_made_again_from_the_lines_on_disk(tmp_path: Path) -> None:
    whole, made = stream(), networks()
    terms = Terms(made.language_model, made, learning_rate=1e-2)
    names = ["none", "uniform+bm25", "bank", "context"]
    rows = compare(terms, whole, names, whole.questions, Asking(golds="shortest"), out=tmp_path / "study")
    assert table_of(read(tmp_path / "study")) == rows
    assert [row["memory"] for row in rows] == names and len({tuple(row) for row in rows}) == 1
    lines = [json.loads(line) for line in (tmp_path / "study" / ANSWERS).read_text().splitlines()]
    assert len(lines) == len(names) * len(whole.questions)
    for row in rows:
        mine = [line for line in lines if line["memory"] == row["memory"]]
        assert [line["id"] for line in mine] == [question.id for question in whole.questions]
        assert {line["gold"] for line in mine} == {min(question.answers, key=len) for question in whole.questions}
        for name in ("em", "f1", "prefix_em"):
            assert row[name] == pytest.approx(sum(line[name] for line in mine) / len(mine))
        assert row["nats"] == pytest.approx(sum(line["nats"] for line in mine) / sum(line["tokens"] for line in mine))
        assert row["tokens_answer"] == sum(line["prompt"] for line in mine) / len(mine)
    none, weights, _, context = rows
    assert weights["tokens_answer"] > none["tokens_answer"] and context["recall"] == 1 and none["recall"] is None
    assert (weights["learning_rate"], weights["learning_rates"], none["learning_rate"]) == (1e-2, {}, None)
    assert weights["peak_adapt_bytes"] is None or weights["peak_adapt_bytes"] > 0
    assert weights["bytes_per_document"] > 0 == none["bytes_per_document"]


def test_what_is_no_number_stays_unknown(tmp_path: Path) -> None:
    one = examined("none", ["Paris", "x"])
    lost = Examined(one.facts, [Answered(one.answered[0].question, "Paris", math.inf, 2, None, 0.1), one.answered[1]])
    write(tmp_path, [lost])
    assert table_of(read(tmp_path)) == table_of([lost]) and table_of([lost])[0]["nats"] is None


def test_differences_are_of_the_same_questions() -> None:
    first = examined("none", ["Paris", "x", "Oslo", "x", "x", "in Cairo"])
    other = examined("bank", ["x", "Rome", "Oslo", "Bern", "x", "Cairo now"])
    before, after = table_of([first, other])
    assert before["em_difference"] is before["em_difference_interval"] is before["f1_difference"] is None
    better = [-1.0, 1.0, 0.0, 1.0, 0.0, -1.0]
    assert after["em_difference"] == pytest.approx(0.0)
    assert after["em_difference_interval"] == list(bootstrap_interval(better, clusters=list("abcdef")))
    words = [-1.0, 1.0, 0.0, 1.0, 0.0, 2 / 3 - 1]
    assert after["f1_difference"] == pytest.approx(sum(words) / 6)
    few = differences(first.answered[:4], other.answered[:4], "all")
    assert few["em_difference_interval"] is None and few["em_difference"] == 0.25
    with pytest.raises(DriftError, match="2 and 6 answers, not to the same questions"):
        table_of([examined("none", ["x", "y"]), other])


def test_damage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DriftError, match="holds no whole memories"):
        read(tmp_path)
    write(tmp_path, [examined("none", ["Paris", "x"])])
    whole = (tmp_path / ANSWERS).read_text()
    for damaged in (whole[:-9], whole.replace('"nats"', '"cost"'), whole.replace('"none"', '"bank"')):
        (tmp_path / ANSWERS).write_text(damaged)
        with pytest.raises(DriftError, match="give a folder that driftlm study qa wrote") as refused:
            read(tmp_path)
        assert "\n" not in str(refused.value)
    (tmp_path / ANSWERS).write_text(whole)
    (tmp_path / MEMORIES).write_text("{}\n")
    with pytest.raises(DriftError, match="holds no whole"):
        read(tmp_path)


def test_what_is_kept_is_measured_for_every_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    from driftlm.report.retention_chart import retention_chart, write_chart

    monkeypatch.setattr(study, "FIRST", 4)
    monkeypatch.setattr(study, "LATER", (0, 100))
    names = ["bank", "uniform", "bm25", "one"]
    made = networks()
    rows = retained(Terms(made.language_model, made, learning_rate=1e-2), stream(), names)
    assert [(row["memory"], row["documents"]) for row in rows] == [(name, more) for name in names for more in (0, 8)]
    assert len({tuple(row) for row in rows}) == 1 and rows[2]["learning_rate"] == 1e-2
    shown = [row | {"f1": 0.5, "f1_retention": None if row["memory"] == "one" else 0.75} for row in rows]
    spec = retention_chart(shown)
    f1, kept = (spec["datasets"][panel["data"]["name"]] for panel in spec["vconcat"])
    assert len(f1) == 8 and {row["memory"] for row in kept} == {"bank", "uniform", "bm25"}
    page, image = write_chart(shown, tmp_path / "made")
    assert page.stat().st_size > 1000 and image.read_bytes().startswith(b"\x89PNG")
