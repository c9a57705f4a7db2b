"""Text that is on every machine, for the demo."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def library_documentation() -> Iterator[Path]:
    """The language reference that `help()` shows, all topics in one file for as long as the block lasts."""
    from pydoc_data.topics import topics

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "python-topics.txt"
        text.write_text("\n\n".join(topics[name] for name in sorted(topics)), encoding="utf-8", newline="")
        yield text
