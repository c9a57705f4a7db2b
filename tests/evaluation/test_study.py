"""Studies on tiny networks: every answer against another way to it, nothing computed twice, rows that are JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from driftlm.evaluation import answering, study
from driftlm.evaluation.answering import Answered
from driftlm.evaluation.asking import answered, bank_of, from_bank, from_context, nothing, own_bank
from driftlm.evaluation.question_studies import questions_of, sample
from driftlm.evaluation.settings import Asking
from driftlm.evaluation.study import question_answering, retention_curve
from driftlm.memories.bank.networks import BankNetworks
from driftlm.models.answers import generate
from driftlm.models.prompting import LONGEST_ANSWER, prompt_ids
from driftlm.report.tables import show_rows
from driftlm.streams.documents import Document
from driftlm.streams.questions import Question, QuestionStream
from tests.support.made_banks import networks, stream

pytestmark = pytest.mark.long

POSITIONS = 512  # of the tiny models


@pytest.fixture(scope="module")
def made() -> BankNetworks:
    return networks()


@pytest.fixture
def amortized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts that were amortized, in order."""
    texts: list[str] = []
    real = BankNetworks.amortize

    def counting(self: BankNetworks, some: Sequence[str]) -> Any:
        texts.extend(some)
        return real(self, some)

    monkeypatch.setattr(BankNetworks, "amortize", counting)
    return texts


def test_banks_of_one_are_asked_together_as_if_alone(made: BankNetworks, amortized: list[str]) -> None:
    whole = stream()
    questions = [whole.questions[place] for place in (1, 2, 5, 2, -1)]
    wanted = [document for document in whole.documents if document.id in {one.document for one in questions}]
    found = answered(made.language_model, questions, own_bank(made, wanted), positions=made.settings.vectors)
    assert sorted(amortized) == sorted({next(d.text for d in whole.documents if d.id == q.document) for q in questions})
    for question, one in zip(questions, found, strict=True):
        own = [document for document in whole.documents if document.id == question.document]
        (alone,) = from_bank(made, bank_of(made, own), [question])
        assert (one.question, one.prediction, one.tokens) == (question, alone.prediction, alone.tokens)
        assert one.nats == pytest.approx(alone.nats, abs=1e-5)
        assert one.weight == pytest.approx(1, abs=1e-5) and one.recalled


def test_retention_reads_every_document_once(
    made: BankNetworks, amortized: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "FIRST", 4)
    monkeypatch.setattr(study, "LATER", (0, 3, 100))
    whole = stream()
    rows = retention_curve(made, whole)
    assert amortized == [document.text for document in whole.documents]
    assert [row["documents"] for row in rows] == [0, 3, 8] and {row["questions"] for row in rows} == {4}
    for row in rows:
        bank = bank_of(made, whole.documents[: 4 + row["documents"]])
        again = answering.summarized(from_bank(made, bank, whole.questions[:4]))
        assert row["weight"] == pytest.approx(again["weight"], abs=1e-5)
    assert rows[0]["weight"] > rows[-1]["weight"]


def test_no_interval_is_drawn_that_nobody_reads(made: BankNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    real = answering.bootstrap_interval
    monkeypatch.setattr(answering, "bootstrap_interval", lambda *a, **k: drawn.append(a) or real(*a, **k))
    whole = stream()
    (row,) = question_answering(made, whole, ["none"], whole.questions)
    assert len(drawn) == 2 and (row["changed"], row["changed_em"]) == (1, 0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_document_too_long_for_the_context_is_cut_at_its_end(family: str) -> None:
    model = networks(family).language_model
    long = "".join(f"é{number} and " for number in range(400))
    whole = QuestionStream((Document("long", long), Document("short", "It rained.")), ())
    answer = "x" * 100  # more tokens than an answer given would have
    questions = [Question("What was it?", (answer,), name) for name in ("long", "short")]
    prompts: list[list[int]] = []
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(
            "driftlm.memories.answering.generate", lambda m, rows, *a: prompts.extend(rows) or ["x"] * len(rows)
        )
        found = from_context(model, whole, questions)
    prompts.sort(key=len, reverse=True)  # so far apart that each is a batch
    assert [one.cut for one in found] == [True, False]
    assert prompts[1] == prompt_ids(model, "What was it?", "It rained.")
    assert POSITIONS - 4 <= len(prompts[0]) + 101 <= POSITIONS
    told = model.tokenizer.decode(prompts[0][1:])
    context, asked = told.split("\nQuestion", 1)
    assert long.startswith(context[1:]) and asked == ": What was it?\nAnswer:"
    assert all(one.nats > 0 for one in found)
    assert sum(one.cut for one in from_context(model, whole, questions[:1])) == 1  # really generated


def test_beams_and_golds_reach_the_model(made: BankNetworks) -> None:
    model, whole = made.language_model, stream()
    questions = whole.questions[:4]
    found = answered(model, questions, nothing, Asking(beams=3, golds="shortest"))
    prompts = [prompt_ids(model, question.text) for question in questions]
    assert [one.prediction for one in found] == generate(model, prompts, None, LONGEST_ANSWER, 3)
    shortest = [Question(one.text, one.answers[1:], one.document) for one in questions]
    others, longs = (answered(model, some, nothing) for some in (shortest, questions))
    for one, other, long in zip(found, others, longs, strict=True):
        assert one.nats == pytest.approx(other.nats, abs=1e-4) and one.tokens == other.tokens < long.tokens


def test_every_memory_has_a_row_that_is_json(made: BankNetworks) -> None:
    whole = stream()
    rows = question_answering(made, whole, ["none", "context", "one", "bm25", "bank"], whole.questions)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert len({tuple(row) for row in rows}) == 1
    needed = "memory documents questions em prefix_em f1 nats em_interval f1_interval seconds_adapt seconds_answer"
    needed += " recall peak_adapt_bytes tokens_answer changed_em stale learning_rate em_difference f1_difference"
    assert set(f"{needed} bytes_per_document".split()) <= set(rows[0])
    bank = bank_of(made, whole.documents)
    assert rows[-1]["bytes_per_document"] == 4 * (bank.vectors.numel() + bank.keys.numel()) / len(whole.documents)
    assert [row["aggregation"] for row in rows] == [None, None, None, None, "exact"]


def test_a_seed_draws_documents_and_questions(tmp_path: Path) -> None:
    lines: list[dict[str, str]] = []
    for document in stream().documents:
        lines.append({"id": document.id, "text": document.text})
        lines.append({"question": f"Where is {document.id}?", "answer": "here", "document": document.id})
    file = tmp_path / "rain.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = [[document.id for document in questions_of(str(file), 4, seed).documents] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 4
    whole = questions_of(str(file), 1000, 5)
    assert [document.id for document in whole.documents] == [document.id for document in stream().documents]
    some = sample(whole.questions, 5, 0)
    assert len(some) == 5 and list(some) == [one for one in whole.questions if one in some] != whole.questions[:5]
    assert sample(whole.questions, 0, 0) == sample(whole.questions, 99, 0) == whole.questions


def test_a_row_says_how_many_documents_were_cut() -> None:
    asked = [Question("Where?", ("Rome",), name) for name in ("a", "a", "b", "c")]
    found = [Answered(one, "Rome", 1.0, 1, None, 0.1, cut=one.document != "c") for one in asked]
    assert study.row_of(found, 3, Asking(), 0.0, 0.0)["cut"] == 2


def test_tables_show_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"memory": name, "questions": 40, "em": em, "em_interval": [0.25, em], "weight": None, "kinds": {"a": {}}}
        for name, em in (("none", 0.5), ("bank", 1.0))
    ]
    show_rows([*rows, {"text": "[bold]unseen", "nats": 2.0}])
    out = capsys.readouterr().out
    first, *lines = out.splitlines()
    assert first.split() == ["memory", "em"] and "weight" not in out and "kinds" not in out
    assert lines[0].split() == ["none", "0.500", "(0.250–0.500)"] and lines[2].strip() == "questions 40"
    assert lines[-1].split() == ["[bold]unseen", "2.000"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_narrow_terminal_cuts_no_number(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if it were a terminal
    monkeypatch.setenv("COLUMNS", str(width))
    names = [f"measure_{number}_of_something" for number in range(9)]
    values = [[123.0 + number + 100 * row for number in range(9)] for row in range(2)]
    show_rows([{"memory": f"m{row}", **dict(zip(names, values[row], strict=True))} for row in range(2)])
    out = capsys.readouterr().out
    assert all(f"{value:.3f}" in out for row in values for value in row) and "…" not in out
