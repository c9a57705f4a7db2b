"""Books of a corpus file, one at a time."""

import gzip
import json
import lzma
from collections.abc import Iterator
from pathlib import Path


def books(corpus: Path) -> Iterator[str]:
    """Yield the `text` of every line of a JSONL file (plain, .gz or .xz)."""
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(corpus.suffix, open)
    with opener(corpus, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]
