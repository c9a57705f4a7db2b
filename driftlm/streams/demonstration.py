"""Texts for the demos: what is on every machine, and what nobody has ever read."""

import json
from pathlib import Path

from driftlm.streams.facts import facts
from driftlm.streams.questions import Question

PEPS = Path(__file__).parent / "peps"  # three of 2025 and 2026; its NOTICE has their terms


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


def invented(folder: Path, seed: int) -> tuple[Path, tuple[Question, ...]]:
    """Return ten documents of the world of facts in a file of JSON lines, and their questions."""
    stream = facts(10, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "invented.jsonl"
    lines = [json.dumps({"id": one.id, "text": one.text, "date": one.time}) for one in stream.documents]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return path, stream.questions
