"""What `driftlm read TEXT --model smollm2` brings with nothing else said, on texts of five kinds.

    python -m recipes.read_defaults DATA RUNS [--limit 16000] [--model smollm2]

DATA is a folder with `books/` and `drift/`. Each text is one run below RUNS; one that is there is not read again, and
one that was stopped goes on. The rows, with 95 % intervals over windows, are `recipes/read_defaults.json`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from driftlm.evaluation.answering import bootstrap_interval

RESULT = Path(__file__).parent / "read_defaults.json"
TEXTS = {
    "proposals for Python, 2025 and 2026": "drift/peps_2025_even.jsonl",
    "minutes of the Federal Reserve, 1993": "drift/fomc_1993_2006.jsonl",
    "speeches to Congress, 1790": "drift/sotu_1790_1945.jsonl",
    "a novel (PG-19 10146)": "books/pg19test_10146.txt",
    "a novel (PG-19 349)": "books/pg19_349.txt",
}


def run(text: Path, folder: Path, model: str, limit: int) -> None:
    """Read a text by the defaults, or go on where that was stopped."""
    if (folder / "summary.json").exists():
        return
    going_on = ["--resume", str(folder)]
    command = [str(text), "--model", model, "--limit", str(limit), "--threads", "1", "--run", str(folder)]
    command = going_on if any(folder.glob("checkpoint-*")) else command
    subprocess.run([sys.executable, "-m", "driftlm", "read", *command, "--no-report", "--no-live"], check=True)


def row(name: str, text: str, folder: Path) -> dict[str, Any]:
    """Totals of a run, and the change of bits per byte in percent with its interval over windows."""
    summary = json.loads((folder / "summary.json").read_bytes())
    config = json.loads((folder / "config.json").read_bytes())
    windows = [json.loads(line) for line in (folder / "windows.jsonl").read_text(encoding="utf-8").splitlines()]
    each = [(one["nats"] - one["static_nats"]) / summary["static_nats"] * len(windows) for one in windows]
    return {
        "name": name,
        "text": text,
        "learning": {key: config["learning"][key] for key in ("learn", "rule", "learning_rate")},
        "windows": config["windows"],
        **{key: summary[key] for key in ("tokens", "bytes", "static_bits_per_byte", "bits_per_byte", "seconds")},
        "change": sum(each) / len(each),
        "change_interval": bootstrap_interval(each),
    }


def main() -> None:
    """Read what is not read yet, and write the rows of all that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--limit", type=int, default=16_000)
    parser.add_argument("--model", default="smollm2")
    arguments = parser.parse_args()
    rows = []
    for name, text in TEXTS.items():
        folder = arguments.runs / f"run-{Path(text).stem}"
        run(arguments.data / text, folder, arguments.model, arguments.limit)
        rows.append(row(name, text, folder))
        RESULT.write_text(json.dumps({"model": arguments.model, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
