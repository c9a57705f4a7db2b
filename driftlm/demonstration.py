"""Text that is on every machine, for the demo."""

import json
from pathlib import Path


def library_documentation(folder: Path) -> Path:
    """Write the language reference that `help()` shows into a folder, one JSON line a topic, and name the file.

    It stays there, so that a demo that was stopped can be resumed.
    """
    from pydoc_data.topics import topics

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python-topics.jsonl"
    lines = [json.dumps({"id": name, "text": topics[name]}) for name in sorted(topics)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return path
