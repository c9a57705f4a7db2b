"""Run folders made up for the tests of reports: the lines a reading would have written."""

import json
import random
from pathlib import Path
from typing import Any

from driftlm.report.tally import Tally

Line = dict[str, Any]

CONFIG = {
    "driftlm": "0.1.0",
    "created": "2026-11-21T10:00:00+00:00",
    "command": "driftlm read a.txt --rate '<i>'",
    "options": {"files": ["books/a.txt"], "rate": 0.01, "loss": float("inf"), "layers": None},
    "model": {"name": "models/tiny", "fingerprint": "f00d", "parameters": 260_000},
    "versions": {"torch": "2.13.0"},
    "threads": 2,
    "seed": 0,
}


def stream(
    documents: list[int], stride: int = 128, gain: float = 0.1, static: bool = True, events: bool = False
) -> list[Line]:
    """Lines of a run over documents of so many tokens, with a mean gain in nats per token."""
    chance, lines = random.Random(7), []
    for d, length in enumerate(documents):
        for index, start in enumerate(range(0, length, stride)):
            tokens = min(stride, length - start)
            nats = tokens * chance.uniform(2, 4)
            event = {"kind": "rollback", "message": "two windows above 9.31 nats per token"}
            lines.append(
                {
                    "window": len(lines),
                    "document": f"d{d}.txt",
                    "index": index,
                    "position": 1 + start,
                    "tokens": tokens,
                    "bytes": round(3.3 * tokens * chance.uniform(0.8, 1.2)),
                    "nats": nats,
                    "static_nats": nats + tokens * gain * chance.uniform(0.2, 1.8) if static else None,
                    "updated": True,
                    "events": [event] if events and len(lines) % 50 == 3 else [],
                }
            )
    return lines


def weighed(lines: list[Line], leaders: list[int], experts: int = 3) -> list[Line]:
    """The lines of a mixture: all experts alike in the first window, then each leader in turn as long as the others."""
    found = [line | {"weights": [1 / experts] * experts} for line in lines[:1]]
    for i, line in enumerate(lines[1:]):
        leader = leaders[i * len(leaders) // (len(lines) - 1)]
        rest = (0.4 - 0.1 * i / len(lines)) / (experts - 1)
        weights = [1 - (experts - 1) * rest if place == leader else rest for place in range(experts)]
        found.append(line | {"weights": weights})
    return found


def run_folder(folder: Path, lines: list[Line], finished: bool = True, config: dict[str, Any] = CONFIG) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "windows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        summary = {"updates": len(lines), "rollbacks": 0, "seconds": 12.5, "finished": True}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def tally_of(lines: list[Line]) -> Tally:
    tally = Tally()
    for line in lines:
        tally.add(line)
    return tally


def long_stream(path: Path, windows: int) -> None:
    head = '{"window": %d, "document": "d%d", "index": %d, "position": %d, "tokens": 128, "bytes": 400, '
    tail = '"nats": 350.5, "static_nats": 360.25, "updated": true, "events": %s}\n'
    event = '[{"kind": "rollback", "message": "m"}]'
    with path.open("w") as file:
        for w in range(windows):
            index = w % 20
            file.write(head % (w, w // 20, index, 1 + 128 * index) + tail % (event if w % 100 == 0 else "[]"))
