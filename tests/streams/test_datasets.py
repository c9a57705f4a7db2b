"""The adapter of the `datasets` extra."""

import sys
from pathlib import Path

import pytest

from driftlm.streams.documents import Document, read_documents
from tests.support.document_files import line, read, refusal

# Datasets -------------------------------------------------------------------------------------------------------------


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert 'pip install "driftlm[data]"' in refusal(lambda: read_documents(["dataset:squad"]))


@pytest.mark.parametrize(
    ("source", "part"),
    [("dataset:", "no dataset is named"), ("dataset:a?splt=b", "unknown option `splt`"), ("dataset:a?id", "no value")],
)
def test_a_dataset_that_is_written_wrongly_is_refused(source: str, part: str) -> None:
    message = refusal(lambda: read_documents([source]))
    assert message.startswith(f"{source}:")
    assert part in message


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("datasets", reason="the extra `data` is not installed", exc_type=ImportError)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    rows = [line(key=n, body=f"text {n}\r\n", date=f"1993-02-0{n}") for n in range(1, 4)]
    (tmp_path / "set" / "train.jsonl").write_text("".join(rows))
    (tmp_path / "set" / "test.jsonl").write_text(line(key=9, body="held out", date="1994-01-01"))
    return tmp_path / "set"


@pytest.mark.filterwarnings("ignore")
def test_a_local_dataset_is_streamed(folder: Path) -> None:
    name = f"{folder}/train.jsonl"
    expected = [Document(str(n), f"text {n}\r\n", f"1993-02-0{n}") for n in range(1, 4)]
    assert read(f"dataset:{folder}?text=body&id=key") == expected
    assert read(f"dataset:{name}?text=body&id=key") == expected
    assert [d.id for d in read(f"dataset:{name}?text=body")] == [f"{name}:{n}" for n in range(1, 4)]
    assert [d.text for d in read(f"dataset:{folder}?split=test&text=body")] == ["held out"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("", ["no column `text`", "key, body, date", "text=COLUMN"]),
        ("?text=body&id=name", ["no column `name`", "id=COLUMN"]),
        ("?split=dev&text=body", ["split=dev", "'train'"]),
        ("?text=key", ["row 1", "`text` is int"]),
    ],
)
def test_a_dataset_without_the_split_or_column_is_refused(folder: Path, query: str, parts: list[str]) -> None:
    message = refusal(lambda: read(f"dataset:{folder}{query}"))
    for part in (f"dataset:{folder}{query}", *parts):
        assert part in message
