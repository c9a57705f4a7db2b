"""Files that grow while they are followed."""

import json
from pathlib import Path
from typing import Any

from driftlm import Document
from driftlm.streams.tail.sources import Growing


def line(**fields: Any) -> str:
    """Of a JSONL file."""
    return json.dumps(fields, ensure_ascii=False) + "\n"


def append(path: Path, text: str | bytes) -> None:
    """Write at the end of a file, as a program that logs does."""
    with path.open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def looked(source: Growing) -> list[Document]:
    """What has come since the last look."""
    return [document for document, _ in source.look()]
