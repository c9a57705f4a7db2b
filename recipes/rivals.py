"""The tables of docs/comparing.md in which memories are compared: on the world of facts, and on SQuAD as a stream.

    python -m recipes.rivals facts
    python -m recipes.rivals squad --stream squad_dev_part.json
    python -m recipes.rivals plain --networks build/plain     # around a model that was not tuned to answer
    python -m recipes.rivals table facts                      # Markdown, from what was measured

Each runs `driftlm study qa` and keeps its rows, with the command, in `recipes/rivals_NAME.json`; every answer lies
under `build/rivals/NAME`. Seed 2 of the facts was looked at for nothing else but the bank's own results.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MEMORIES = "none bank bm25 dense uniform spans tfidf camels bm25+bank uniform+bm25"
FACTS = "--documents 1665 --seed 2 --sweep-documents 128"
SQUAD = "--documents 300 --questions 300 --seed 0 --sweep-documents 96"  # other documents are left to choose rates on
RUNS = {
    "facts": f"{FACTS} --memories {MEMORIES}",
    "squad": f"{SQUAD} --memories {MEMORIES} context",
    "plain": f"{FACTS} --learning-rate 2.5e-5 --memories none context bank uniform bm25 bm25+bank",
}
COLUMNS = {
    "memory": "{memory}{rate}",
    "exact match": "{em:.3f}",
    "F1": "{f1:.3f}",
    "nats a token": "{nats:.3f}",
    "right document found": "{recall:.2f}",
    "changed facts right": "{changed_em:.2f}",
    "seconds to adapt": "{seconds_adapt:.1f}",
    "tokens of a prompt": "{tokens_answer:.0f}",
    "bytes a document": "{bytes_per_document:,.0f}",
}


def kept(name: str) -> Path:
    """Where the rows of a comparison are."""
    return Path(__file__).parent / f"rivals_{name}.json"


def measure(name: str, options: list[str]) -> None:
    """Run a comparison and keep its rows."""
    arguments = ["study", "qa", *RUNS[name].split(), *options, "--threads", "1", "--json"]
    out = ["--out", f"build/rivals/{name}"]
    done = subprocess.run([sys.executable, "-m", "driftlm", *arguments, *out], stdout=subprocess.PIPE, check=True)
    rows = json.loads(done.stdout)["rows"]
    command = " ".join(["driftlm", *(Path(one).name if "/" in one else one for one in arguments)])
    kept(name).write_text(json.dumps({"command": command, "rows": rows}, indent=1) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Rows in Markdown; columns that say nothing are left out."""
    lines = [[said(form, row) for form in COLUMNS.values()] for row in rows]
    chosen = [place for place in range(len(COLUMNS)) if any(line[place] for line in lines)]
    head = [list(COLUMNS)[place] for place in chosen]
    ruled = ["---" if place == 0 else "---:" for place in chosen]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ruled, *([one[n] for n in chosen] for one in lines)))


def said(form: str, row: dict[str, Any]) -> str:
    """A cell; empty for what a memory does not have."""
    rate = row["learning_rate"]
    try:
        return form.format(**row | {"rate": f" (Adam, {rate:g})" if rate else ""})
    except TypeError:  # None has no format
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*RUNS, "table"])
    parser.add_argument("name", nargs="?", choices=[*RUNS], default="facts")
    chosen, options = parser.parse_known_args()
    if chosen.what == "table":
        print(table(json.loads(kept(chosen.name).read_text())["rows"]))
    else:
        measure(chosen.what, options)


if __name__ == "__main__":
    main()
