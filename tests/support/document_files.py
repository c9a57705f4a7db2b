"""Files of documents, what is read of them, and how they are refused."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from driftlm.core.errors import DriftError
from driftlm.streams.documents import Document, read_documents


def line(**fields: object) -> str:
    """Of a JSONL file."""
    return json.dumps(fields) + "\n"


def give_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Let standard input hold some bytes."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))


def refusal(act: Callable[[], object]) -> str:
    """The one sentence with which bad input is refused."""
    with pytest.raises(DriftError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def read(path: Path | str, **options: object) -> list[Document]:
    """Every document of a path."""
    return list(read_documents([str(path)], **options))  # type: ignore[arg-type]
