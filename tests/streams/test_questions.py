"""Files of questions become streams: counts, columns, order and limits; every refusal says its sentence."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from driftlm.core.errors import DriftError
from driftlm.streams import questions
from driftlm.streams.documents import Document
from driftlm.streams.questions import Question, QuestionStream, read_questions


def squad(folder: Path, data: Any, name: str = "made.json") -> str:
    path = folder / name
    path.write_text(json.dumps({"version": "1.1", "data": data}), encoding="utf-8")
    return str(path)


def asked(text: str, *answers: str, **more: Any) -> dict[str, Any]:
    return {"id": text, "question": text, "answers": [{"text": a, "answer_start": 0} for a in answers], **more}


def table(folder: Path, rows: list[dict[str, Any]], name: str = "made.csv") -> str:
    path = folder / name
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def lines(folder: Path, *records: Any) -> str:
    path = folder / "made.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return str(path)


def refusal(source: str, **settings: Any) -> str:
    with pytest.raises(DriftError) as refused:
        read_questions(source, **settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


PARAGRAPHS = [
    {
        "title": "Rain",
        "paragraphs": [
            {"context": "It rained in Paris.", "qas": [asked("Where?", "Paris", "in Paris", " Paris ")]},
            {"context": "It snowed in Köln.", "qas": [asked("Where else?", "Köln"), asked("When?", "")]},
        ],
    },
    {"title": "Sun", "paragraphs": [{"context": "It rained in Paris.", "qas": [asked("What?", "rain")]}]},
]


def test_the_part_of_squad(shared: Path) -> None:
    path = shared / "data/squad/squad_dev_part.json"
    stream = read_questions(str(path))
    assert (len(stream.documents), len(stream.questions), stream.name) == (402, 2008, "squad_dev_part")
    paragraphs = [part for article in json.loads(path.read_text())["data"] for part in article["paragraphs"]]
    assert [document.text for document in stream.documents] == [part["context"] for part in paragraphs]
    texts = {document.id: document.text for document in stream.documents}
    wanted = [(one["id"], part["context"]) for part in paragraphs for one in part["qas"]]
    assert [(one.id, texts[one.document]) for one in stream.questions] == wanted
    assert all(any(answer in texts[one.document] for answer in one.answers) for one in stream.questions)


def test_squad_contexts_are_documents_once(tmp_path: Path) -> None:
    data = json.loads(json.dumps(PARAGRAPHS))
    data[0]["paragraphs"][1]["qas"].pop()
    stream = read_questions(squad(tmp_path, data))
    assert stream.documents == (Document("Rain:1", "It rained in Paris."), Document("Rain:2", "It snowed in Köln."))
    assert stream.questions == (
        Question("Where?", ("Paris", "in Paris"), "Rain:1", "Where?"),
        Question("Where else?", ("Köln",), "Rain:2", "Where else?"),
        Question("What?", ("rain",), "Rain:1", "What?"),
    )


def test_impossible_questions_of_squad_2_are_skipped_and_their_documents_kept(tmp_path: Path) -> None:
    qas = [asked("Why?", is_impossible=True), asked("Where?", "Paris", is_impossible=False)]
    data = [
        {"title": "A", "paragraphs": [{"context": "In Paris.", "qas": qas}, {"context": "None.", "qas": qas[:1]}]},
    ]
    stream = read_questions(squad(tmp_path, data))
    assert [question.text for question in stream.questions] == ["Where?"]
    assert len(stream.documents) == 2


def test_ids_of_questions_that_come_again_are_numbered(tmp_path: Path) -> None:
    again = [asked("Where?", "Paris"), asked("Where?", "Paris"), asked("Where?", "Paris")]
    stream = read_questions(squad(tmp_path, [{"title": "A", "paragraphs": [{"context": "In Paris.", "qas": again}]}]))
    assert [question.id for question in stream.questions] == ["Where?", "Where?#2", "Where?#3"]


def test_streamingqa(tmp_path: Path) -> None:
    row = {
        "Unnamed: 0": 0,
        "qa_id": "eval-0",
        "question": " How many countries? ",
        "answers": "77\\seventy-seven \\77\\",
        "evidence_id": "20200101_ab",
        "evidence_ts": 1577836800,
        "recent_or_past": "recent",
        "written_or_generated": "written",
        "text": 'Net zero:\n"77" countries, \r\nso far.',
    }
    same = row | {"qa_id": "eval-1", "question": "Which target?", "answers": "net zero", "evidence_id": "other"}
    passage = row | {"qa_id": "eval-2", "text": "Another passage of the same article has 77."}
    stream = read_questions(table(tmp_path, [row, same, passage]))
    path = str(tmp_path / "made.csv")
    assert stream.documents == (
        Document("20200101_ab", row["text"], "1577836800"),
        Document(f"{path}:3", passage["text"], "1577836800"),
    )
    first, second, third = stream.questions
    assert first == Question("How many countries?", ("77", "seventy-seven"), "20200101_ab", "eval-0", "recent written")
    assert (second.document, third.document) == ("20200101_ab", f"{path}:3")


def test_archivalqa(tmp_path: Path) -> None:
    row = {
        "question": "Who won?",
        "answer": "A\\B",  # one answer: the backslash parts none
        "para_id": "17_3",
        "date": "2004-01-02",
        "text": "['a', 'list']",
        "ans_paragraph": "A\\B won.",
    }
    stream = read_questions(table(tmp_path, [row, row | {"question": "Who lost?", "answer": "C"}]))
    assert stream.documents == (Document("17_3", "A\\B won.", "2004-01-02"),)
    assert [(one.text, one.answers) for one in stream.questions] == [("Who won?", ("A\\B",)), ("Who lost?", ("C",))]


def test_a_cell_may_be_long_and_the_limit_of_the_process_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "word " * 100_000
    stream = read_questions(table(tmp_path, [{"question": "What?", "answers": "word", "text": long}]))
    assert stream.documents[0].text == long
    assert csv.field_size_limit() == before


def test_lines(tmp_path: Path) -> None:
    path = lines(
        tmp_path,
        {"question": "Who?", "answers": ["Ann", "Ann"], "document": 7, "kind": "changed", "superseded": "Bob"},
        {"id": 7, "text": "Ann leads.", "date": 1854},
        {"text": "Ann leads.", "time": "later"},
        {"qa_id": "eval-1", "question": "Who?", "answers": ["Ann"], "evidence_id": "7", "recent_or_past": "past"},
        {"question": "Who?", "answer": "Ann", "document": f"{tmp_path}/made.jsonl:3"},
    )
    stream = read_questions(path)
    assert stream.documents == (
        Document("7", "Ann leads.", "1854"),
        Document(f"{path}:3", "Ann leads.", "later"),
    )
    assert stream.questions == (
        Question("Who?", ("Ann",), "7", "", "changed", "Bob"),
        Question("Who?", ("Ann",), "7", "eval-1", "past"),
        Question("Who?", ("Ann",), f"{path}:3"),
    )


def test_a_limit_keeps_the_first_documents_or_a_seeded_sample_in_order(tmp_path: Path) -> None:
    records = [{"id": f"d{n}", "text": f"Text {n}."} for n in range(20)]
    records += [{"question": f"{n}?", "answer": "yes", "document": f"d{n % 20}"} for n in range(40)]
    path = lines(tmp_path, *records)
    first = read_questions(path, limit_documents=3)
    assert [document.id for document in first.documents] == ["d0", "d1", "d2"]
    assert [question.text for question in first.questions] == ["0?", "1?", "2?", "20?", "21?", "22?"]
    samples = [read_questions(path, limit_documents=5, seed=seed) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    places = [int(document.id[1:]) for document in samples[0].documents]
    assert places == sorted(places) != list(range(5)) and len(samples[0].questions) == 10
    whole = read_questions(path)
    assert read_questions(path, limit_documents=20, seed=3) == whole == read_questions(path, seed=3)


def test_a_stream_checks_its_ids() -> None:
    document, question = Document("a", "It rained."), Question("What?", ("rain",), "a", "q")

    def refused(documents: tuple[Document, ...], asked: tuple[Question, ...]) -> str:
        with pytest.raises(DriftError) as refused:
            QuestionStream(documents, asked)
        return str(refused.value)

    assert refused((document, document), ()) == (
        "document id 'a' stands twice in the stream; give every document its own id"
    )
    assert refused((document,), (question, question)) == (
        "question id 'q' stands twice in the stream; give every question its own id"
    )
    assert refused((document,), (Question("What?", ("rain",), "b"),)) == (
        "question 'What?' names document 'b', which is none of the stream's 1; add that document, or leave the "
        "question out"
    )
    assert refused((document,), (Question("What?", (), "a"),)) == (
        "question 'What?' has no gold answer where at least one is expected; add one, or leave the question out"
    )
    QuestionStream((document,), (Question("What?", ("rain",), "a"), Question("Why?", ("rain",), "a")))


def test_a_missing_file_says_where_the_data_is(tmp_path: Path) -> None:
    assert refusal(f"{tmp_path}/a.json") == (
        f"{tmp_path}/a.json: no such file; get the file or check the path: SQuAD v1.1 is at "
        "rajpurkar.github.io/SQuAD-explorer under CC BY-SA 4.0"
    )
    csv_message = refusal(f"{tmp_path}/a.csv")
    for part in ("github.com/google-deepmind/streamingqa under CC BY 4.0", "WMT news text", "LDC2008T19"):
        assert part in csv_message
    assert refusal(f"{tmp_path}/a.jsonl").endswith("documents with `text`, questions with `question`")
    assert refusal(f"{tmp_path}/a.txt") == (
        f"{tmp_path}/a.txt: a file of questions ends in .json (SQuAD), .csv (StreamingQA, ArchivalQA) or .jsonl; give "
        "one of these, unpacked"
    )
    assert refusal("a.json", limit_documents=0) == (
        "limit_documents=0: expected at least 1 document; give a larger number"
    )


def test_a_missing_column_is_named_with_those_found_and_the_layout(tmp_path: Path) -> None:
    path = table(tmp_path, [{"question": "Who?", "answers": "Ann", "evidence_id": "x"}])
    assert refusal(path) == (
        f"{path}: no column `text` among question, answers, evidence_id; the layout of StreamingQA has question, "
        "answers, text (ArchivalQA has `answer` and `ans_paragraph`): add the column "
        f"({questions.WHERE_STREAMINGQA})"
    )
    path = table(tmp_path, [{"question": "Who?", "answer": "Ann", "text": "['Ann']"}])
    assert refusal(path) == (
        f"{path}: no column `ans_paragraph` among question, answer, text; the layout of ArchivalQA has question, "
        f"answer, ans_paragraph: add the column ({questions.WHERE_ARCHIVALQA})"
    )
    assert "no column `question` among prompt, answers, text;" in refusal(
        table(tmp_path, [{"prompt": "Who?", "answers": "Ann", "text": "Ann."}])
    )
    assert "no column `answers` among question;" in refusal(table(tmp_path, [{"question": "Who?"}]))
    (tmp_path / "none.csv").write_bytes(b"")
    assert "no column `question` among none;" in refusal(str(tmp_path / "none.csv"))


GOOD = {"question": "Who?", "answers": "Ann", "text": "Ann leads."}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"question": " "}, "row 2: `question` is empty; fill it in, or delete the row"),
        ({"answers": ""}, "row 2: `answers` is empty; fill it in, or delete the row"),
        ({"text": ""}, "row 2: `text` is empty; fill it in, or delete the row"),
        ({"answers": "\\"}, "row 2: no gold answer where at least one is expected; add one, or leave it out"),
    ],
)
def test_a_broken_row_is_refused(tmp_path: Path, change: dict[str, str], sentence: str) -> None:
    path = table(tmp_path, [GOOD, GOOD | change])
    assert refusal(path) == f"{path}, {sentence}"


D, Q = {"id": "a", "text": "Ann leads."}, {"question": "Who?", "answers": ["Ann"], "document": "a"}


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([D, D], "line 2: document id 'a' is already taken; give every document its own id"),
        ([D, D | {"text": "", "id": "b"}], "line 2: the document's text is empty; give it some text, or leave it out"),
        ([D, D | {"text": 7}], "line 2: `text` is int and must be a string; correct or delete it"),
        ([D, D | {"id": [1]}], "line 2: `id` is list and must be a string or a number; correct it or leave it out"),
        (
            [D, D | {"text": "\ud800"}],
            "line 2: `text` has half a surrogate pair (\\ud800) at character 1, which is no character in UTF-8; delete "
            "it or write the pair whole",
        ),
        (
            [D, Q | {"document": "b"}],
            "line 2: no document 'b' among the file's 1; add its line, or leave the question out",
        ),
        ([Q, D | {"id": "b"}], "line 1: no document 'a' among the file's 1; add its line, or leave the question out"),
        (
            [D, {"question": "Who?", "answer": "Ann"}],
            "line 2: the question names no `document`; give the id of the document that answers it",
        ),
        ([D, Q | {"question": " "}], "line 2: the question is empty; give its text, or leave it out"),
        ([D, Q | {"answers": []}], "line 2: no gold answer where at least one is expected; add one, or leave it out"),
        ([D, Q | {"answers": [1]}], "line 2: `answers` is int and must be a string; correct or delete it"),
        (
            [D, Q | {"answers": None}],
            "line 2: `answers` must be a list of strings, or `answer` a string; correct the line",
        ),
        ([D, ["a"]], 'line 2: JSON but not an object; write the line as one, such as {"text": "…"}'),
        (
            [D, {"body": "x"}],
            'line 2: neither `text` nor `question` among ["body"]; a document has the one and a question the other: '
            "correct or delete the line",
        ),
    ],
)
def test_a_broken_line_is_refused(tmp_path: Path, records: list[Any], sentence: str) -> None:
    path = lines(tmp_path, *records)
    assert refusal(path) == f"{path}, {sentence}"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([{"title": "A"}], ": no field `paragraphs`; SQuAD v1.1 has"),
        ([{"title": "A", "paragraphs": [{"qas": []}]}], ", paragraph A:1: no field `context`; SQuAD v1.1 has"),
        (
            [{"title": "A", "paragraphs": [{"context": "x", "qas": [{"question": "?"}]}]}],
            ", paragraph A:1, question 1: no field `answers`; SQuAD v1.1 has",
        ),
        (["A"], ": not in the layout of SQuAD; SQuAD v1.1 has"),
        ([], ": no question in it; give a file that has some"),
        (PARAGRAPHS, ", paragraph Rain:2, question 2: no gold answer where at least one is expected;"),
    ],
)
def test_what_is_not_squad_is_refused(tmp_path: Path, data: Any, sentence: str) -> None:
    path = squad(tmp_path, data)
    assert refusal(path).startswith(f"{path}{sentence}")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.json",
            b'{"data": [}',
            ", line 1, column 11: not valid JSON (Expecting value); get the file again, or name",
        ),
        ("a.json", b"[]", ": not in the layout of SQuAD;"),
        ("a.json", b'{"data": ' + b"9" * 5000 + b"}", ": JSON that cannot be read ("),
        ("a.json", b"[" * 200_000, ": JSON that cannot be read ("),
        ("a.jsonl", b'{"text": "a"}\n{"text"\n', ", line 2, column 8: not valid JSON ("),
        ("a.jsonl", b'{"text": "\xff"}\n', ", line 1: not UTF-8 at byte offset 10 of the line; convert"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n', ", line 2: the line is blank; every line must hold one JSON"),
        ("a.jsonl", b'{"text": "\0"}\n', ", line 1: a binary file (NUL at byte offset 10)"),
        ("a.csv", b"question,answers,text\nWho?,Ann\n", ", row 1: `text` is empty; fill it in, or delete the row"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert refusal(str(path)).startswith(f"{path}{sentence}")


def test_a_document_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "LARGEST_DOCUMENT", 8)
    path = lines(tmp_path, {"text": "123456789"})
    assert refusal(path) == f"{path}, line 1: the document is over 0 MB; divide it into several"
    path = table(tmp_path, [GOOD])
    assert refusal(path) == (
        f"{path}: not a CSV file that can be read (field larger than field limit (8)); save it as UTF-8 CSV again"
    )
