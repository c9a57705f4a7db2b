"""Documents in stream order with the questions that they answer, from the files that the literature uses."""

import csv
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.streams.documents import LARGEST_DOCUMENT, LONGEST_LINE, Document
from driftlm.streams.records import label, read_records, readable, string

WHERE_SQUAD = "SQuAD v1.1 is at rajpurkar.github.io/SQuAD-explorer under CC BY-SA 4.0"
WHERE_STREAMINGQA = (
    "StreamingQA's questions are at github.com/google-deepmind/streamingqa under CC BY 4.0 and the WMT news text they "
    "need must be fetched as it says there"
)
WHERE_ARCHIVALQA = (
    "ArchivalQA needs the licensed New York Times Annotated Corpus (LDC2008T19), which the notebook of "
    "github.com/nathanhu0/CaMeLS pairs with its questions"
)
WHERE = {
    ".json": f"get the file or check the path: {WHERE_SQUAD}",
    ".csv": f"get the file or check the path: {WHERE_STREAMINGQA}; {WHERE_ARCHIVALQA}",
    ".jsonl": "check the path, or write one JSON object per line: documents with `text`, questions with `question`",
}

# Which columns stand for what, the first of the names that is there. The first three are needed.
STREAMINGQA = {
    "question": ("question",),
    "answers": ("answers",),
    "text": ("text", "evidence", "document"),
    "document": ("evidence_id", "sorting_key"),
    "time": ("evidence_ts", "publication_ts", "date"),
    "id": ("qa_id", "id"),
}
ARCHIVALQA = {
    "question": ("question",),
    "answers": ("answer",),
    "text": ("ans_paragraph", "paragraph"),  # not `text`: there CaMeLS' notebook leaves a printed list of paragraphs
    "document": ("para_id",),
    "time": ("date", "year"),
    "id": ("id",),
}
KINDS = ("recent_or_past", "written_or_generated")  # StreamingQA's subsets
KIND_SEPARATOR = " "


@dataclass(frozen=True)
class Question:
    """A question, its gold answers (at least one) and the id of the document that answers it.

    `kind` groups questions in a report; `superseded` is the answer that held before the document changed it, if any.

    >>> Question("Where did it rain?", ("Paris",), "a.txt").superseded
    ''
    """

    text: str
    answers: tuple[str, ...]
    document: str
    id: str = ""
    kind: str = ""
    superseded: str = ""


@dataclass(frozen=True)
class QuestionStream:
    """Documents in stream order and their questions; `DriftError` where ids repeat or a question has no document.

    Ids of questions may be empty; the others are unique, like all ids of documents.

    >>> stream = QuestionStream((Document("a", "It rained in Paris."),), (Question("Where?", ("Paris",), "a"),))
    >>> len(stream.questions)
    1
    """

    documents: tuple[Document, ...]
    questions: tuple[Question, ...]
    name: str = ""

    def __post_init__(self) -> None:
        known = {document.id for document in self.documents}
        if repeated := _repeated(document.id for document in self.documents):
            raise DriftError(f"document id {repeated!r} stands twice in the stream; give every document its own id")
        if repeated := _repeated(question.id for question in self.questions if question.id):
            raise DriftError(f"question id {repeated!r} stands twice in the stream; give every question its own id")
        for question in self.questions:
            if question.document not in known:
                raise DriftError(
                    f"question {question.text[:60]!r} names document {question.document!r}, which is none of the "
                    f"stream's {len(known)}; add that document, or leave the question out"
                )
            if not question.answers:
                raise DriftError(
                    f"question {question.text[:60]!r} has no gold answer where at least one is expected; add one, or "
                    "leave the question out"
                )


def read_questions(source: str, *, limit_documents: int | None = None, seed: int | None = None) -> QuestionStream:
    r"""Read a file of documents and questions; its suffix tells the layout, `DriftError` names the file and the place.

    - `.json`: SQuAD v1.1. Every context that is new is a document, `title:number`, in order of appearance; all gold
      answers are kept, each once. Of SQuAD v2 the questions marked `is_impossible` are skipped and their contexts kept.
    - `.csv`: the columns of CaMeLS' files. StreamingQA: `question`, `answers` (parted by backslashes), `text`, and
      where they are there `evidence_id`, `evidence_ts`, `qa_id`, `recent_or_past`, `written_or_generated` (the last
      two are the kind). ArchivalQA: `question`, `answer`, `ans_paragraph`, and where there `para_id`, `date`.
    - `.jsonl`: a line with `question`, `answers` (or `answer`) and `document` is a question, optionally with `id`,
      `kind`, `superseded`; any other is a document with `text` and optionally `id`, `date` or `time`, as
      `read_documents` has them. A question may stand before its document. StreamingQA's own lines are questions too
      (`qa_id`, `evidence_id`); their documents have to be added.

    Documents of the same text are one, except in `.jsonl`, whose ids are yours. CaMeLS does so for SQuAD and ArchivalQA
    only, so a StreamingQA stream may be a little shorter here. Order is that of the file: CaMeLS shuffles articles.

    A question's id that comes again gets `#2`, `#3`, …, so that results can be told apart by it.

    `limit_documents` keeps the first so many documents and their questions; with `seed` a random sample of as many
    documents instead, in the order of the file. Without a limit `seed` changes nothing.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "rain.jsonl")
    >>> _ = path.write_text('{"id": "a", "text": "It rained in Paris."}\n'
    ...     '{"question": "Where did it rain?", "answer": "Paris", "document": "a"}\n')
    >>> read_questions(str(path)).questions[0].answers
    ('Paris',)

    Sources: SQuAD, Rajpurkar et al. 2016; StreamingQA, Liška et al. 2022; ArchivalQA, Wang et al. 2022; the CSV columns
    are those of github.com/nathanhu0/CaMeLS (`exp_datasets.py`, `ArchivalQA_processing.ipynb`) and of StreamingQA's
    README.
    """
    if limit_documents is not None and limit_documents < 1:
        raise DriftError(f"limit_documents={limit_documents}: expected at least 1 document; give a larger number")
    stem, suffix = os.path.splitext(os.path.basename(source))
    reader = READERS.get(suffix.lower())
    if reader is None:
        raise DriftError(
            f"{source}: a file of questions ends in .json (SQuAD), .csv (StreamingQA, ArchivalQA) or .jsonl; give one "
            "of these, unpacked"
        )
    if not os.path.isfile(source):
        raise DriftError(f"{source}: no such file; {WHERE[suffix.lower()]}")
    found = _Found(source)
    with _readable_whole(source):
        reader(source, found)
    return _limited(found.stream(stem), limit_documents, seed)


@dataclass
class _Found:
    """What a reader has found so far; every refusal names the place in the file."""

    source: str
    documents: dict[str, Document] = field(default_factory=dict)  # by id
    by_text: dict[str, str] = field(default_factory=dict)  # text -> id
    questions: dict[str, Question] = field(default_factory=dict)  # by place
    ids: Counter[str] = field(default_factory=Counter)  # of questions

    def add_text(self, text: str, wanted_id: str, other_id: str, time: str | None, where: str) -> str:
        """Return the id of the document of this text, which is added if it is new."""
        if text not in self.by_text:
            # One article may have several passages under its id: the first has it, the others their place.
            document_id = wanted_id if wanted_id and wanted_id not in self.documents else other_id
            self.by_text[text] = document_id
            self.add_document(Document(document_id, text, time), where)
        return self.by_text[text]

    def add_document(self, document: Document, where: str) -> None:
        if not document.text:
            raise DriftError(f"{where}: the document's text is empty; give it some text, or leave it out")
        if len(document.text.encode()) > LARGEST_DOCUMENT:
            raise DriftError(
                f"{where}: the document is over {LARGEST_DOCUMENT // 1_000_000} MB; divide it into several"
            )
        if document.id in self.documents:
            raise DriftError(f"{where}: document id {document.id!r} is already taken; give every document its own id")
        self.documents[document.id] = document

    def add_question(self, question: Question, where: str) -> None:
        if not question.text:
            raise DriftError(f"{where}: the question is empty; give its text, or leave it out")
        if not question.answers:
            raise DriftError(f"{where}: no gold answer where at least one is expected; add one, or leave it out")
        self.ids[question.id] += 1
        if question.id and (times := self.ids[question.id]) > 1:
            question = replace(question, id=f"{question.id}#{times}")
        self.questions[where] = question

    def stream(self, name: str) -> QuestionStream:
        for where, question in self.questions.items():
            if question.document not in self.documents:
                raise DriftError(
                    f"{where}: no document {question.document!r} among the file's {len(self.documents)}; add its line, "
                    "or leave the question out"
                )
        if not self.questions:
            raise DriftError(f"{self.source}: no question in it; give a file that has some")
        return QuestionStream(tuple(self.documents.values()), tuple(self.questions.values()), name)


def _read_squad(path: str, found: _Found) -> None:
    expected = "SQuAD v1.1 has `data`, its `paragraphs` with `context` and `qas`, their `question` and `answers`"
    with open(path, encoding="utf-8-sig") as stream:
        content = json.load(stream)
    numbers: Counter[str] = Counter()
    where = path
    try:
        for article in content["data"]:
            title = str(article.get("title") or "untitled")
            for paragraph in article["paragraphs"]:
                numbers[title] += 1
                name = f"{title}:{numbers[title]}"
                where = f"{path}, paragraph {name}"
                document = found.add_text(string(paragraph["context"], "context", where), name, name, None, where)
                for number, asked in enumerate(paragraph["qas"], 1):
                    where = f"{path}, paragraph {name}, question {number}"
                    if asked.get("is_impossible"):
                        continue
                    answers = [string(answer["text"], "text", where) for answer in asked["answers"]]
                    text = string(asked["question"], "question", where)
                    question = Question(text.strip(), _golds(answers), document, str(asked.get("id", "")))
                    found.add_question(question, where)
    except KeyError as error:
        raise DriftError(f"{where}: no field `{error.args[0]}`; {expected}: give such a file") from error
    except (TypeError, AttributeError) as error:
        raise DriftError(f"{where}: not in the layout of SQuAD; {expected}: give such a file") from error


def _read_csv(path: str, found: _Found) -> None:
    longest = csv.field_size_limit(LARGEST_DOCUMENT)
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            header = list(rows.fieldnames or ())
            archival = "answer" in header and "answers" not in header
            columns = _columns(path, header, archival)
            for number, row in enumerate(rows, 1):
                _add_row(row, columns, f"{path}:{number}", f"{path}, row {number}", found)
    except csv.Error as error:
        raise DriftError(f"{path}: not a CSV file that can be read ({error}); save it as UTF-8 CSV again") from error
    finally:
        csv.field_size_limit(longest)  # the limit is the whole process's


def _columns(path: str, header: list[str], archival: bool) -> dict[str, str]:
    """Return which column of the file stands for which part of a question."""
    layout, accepted = ("ArchivalQA", ARCHIVALQA) if archival else ("StreamingQA", STREAMINGQA)
    columns = {part: next((name for name in names if name in header), "") for part, names in accepted.items()}
    for part in ("question", "answers", "text"):
        if not columns[part]:
            other = "" if archival else " (ArchivalQA has `answer` and `ans_paragraph`)"
            where = WHERE_ARCHIVALQA if archival else WHERE_STREAMINGQA
            raise DriftError(
                f"{path}: no column `{accepted[part][0]}` among {', '.join(header)[:200] or 'none'}; the layout of "
                f"{layout} has {', '.join(accepted[need][0] for need in ('question', 'answers', 'text'))}{other}: "
                f"add the column ({where})"
            )
    return columns


def _add_row(row: Mapping[str, Any], columns: dict[str, str], default_id: str, where: str, found: _Found) -> None:
    def cell(part: str) -> str:
        return row.get(columns[part]) or ""  # a row cut short has None

    for part in ("question", "answers", "text"):
        if not cell(part).strip():
            raise DriftError(f"{where}: `{columns[part]}` is empty; fill it in, or delete the row")
    document = found.add_text(cell("text"), cell("document"), default_id, cell("time") or None, where)
    # StreamingQA parts alternatives by backslashes; ArchivalQA has one answer, whose backslashes are its own.
    answers = cell("answers").split("\\") if columns["answers"] == "answers" else [cell("answers")]
    question = Question(cell("question").strip(), _golds(answers), document, cell("id"), _kind(row))
    found.add_question(question, where)


def _read_lines(path: str, found: _Found) -> None:
    with open(path, "rb") as stream:
        for number, record in read_records(stream, path, LONGEST_LINE):
            where = f"{path}, line {number}"
            if "question" in record:
                found.add_question(_question(record, where), where)
            elif "text" in record:
                time = label(record, ("date", "time"), where) or None
                document_id = label(record, ("id",), where) or f"{path}:{number}"
                found.add_document(Document(document_id, string(record["text"], "text", where), time), where)
            else:
                raise DriftError(
                    f"{where}: neither `text` nor `question` among {json.dumps(list(record))[:80]}; a document has "
                    "the one and a question the other: correct or delete the line"
                )


def _question(record: Mapping[str, Any], where: str) -> Question:
    answers = record["answers"] if "answers" in record else record.get("answer")
    if not isinstance(answers, str | list):
        raise DriftError(f"{where}: `answers` must be a list of strings, or `answer` a string; correct the line")
    answers = [string(answer, "answers", where) for answer in ([answers] if isinstance(answers, str) else answers)]
    document = label(record, ("document", "evidence_id"), where)
    if not document:
        raise DriftError(f"{where}: the question names no `document`; give the id of the document that answers it")
    return Question(
        string(record["question"], "question", where).strip(),
        _golds(answers),
        document,
        label(record, ("id", "qa_id"), where),
        label(record, ("kind",), where) or _kind(record),
        label(record, ("superseded",), where),
    )


READERS: dict[str, Callable[[str, _Found], None]] = {".json": _read_squad, ".csv": _read_csv, ".jsonl": _read_lines}


def _limited(stream: QuestionStream, limit: int | None, seed: int | None) -> QuestionStream:
    if limit is None or limit >= len(stream.documents):
        return stream
    places = range(limit) if seed is None else sorted(random.Random(seed).sample(range(len(stream.documents)), limit))
    documents = tuple(stream.documents[place] for place in places)
    kept = {document.id for document in documents}
    questions = tuple(question for question in stream.questions if question.document in kept)
    return QuestionStream(documents, questions, stream.name)


def _golds(answers: Iterable[str]) -> tuple[str, ...]:
    """Return the answers without the white space around them, each once, in order."""
    return tuple(dict.fromkeys(stripped for answer in answers if (stripped := answer.strip())))


def _kind(row: Mapping[str, Any]) -> str:
    return KIND_SEPARATOR.join(str(row[column]) for column in KINDS if row.get(column))


def _repeated(ids: Iterable[str]) -> str | None:
    """Return the first id that is there more than once."""
    return next((one for one, times in Counter(ids).items() if times > 1), None)


@contextmanager
def _readable_whole(path: str) -> Iterator[None]:
    """Say what goes wrong with a file that is parsed at once as `DriftError`."""
    try:
        with readable(path):
            yield
    except UnicodeDecodeError as error:
        raise DriftError(
            f"{path}: not UTF-8 ({error.reason} at byte offset {error.start} of a block); convert the file with "
            "`iconv -f latin1 -t utf-8` or from the encoding it has"
        ) from error
    except json.JSONDecodeError as error:
        raise DriftError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}); get the file again, or "
            "name it .jsonl if it has one object per line"
        ) from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, thousands of brackets
        raise DriftError(f"{path}: JSON that cannot be read ({error}); get the file again") from error
