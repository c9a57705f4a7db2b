"""The table of docs/results.md: what learning while reading buys, on books and on text that drifts.

    python -m recipes.results choose DATA     # rates, on the two development books only
    python -m recipes.results measure DATA    # every setting on every other book and drift set
    python -m recipes.results table           # the table, from what was measured

DATA is a folder with `books/*.txt` and `drift/*.jsonl`. Every cell is one line of `recipes/results.jsonl`; cells that
are there are not measured again, so a stopped run goes on. `--jobs N` runs N cells at a time, one thread each.
"""

import argparse
import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from driftlm import Learning, WeightMemory, Windows, load, read_stream
from driftlm.cost.summary import counted_flops
from driftlm.streams.windows import split

CELLS = Path(__file__).parent / "results.jsonl"
DEVELOPMENT_BOOKS = ("pg19_349", "pg19_2021")
CONTEXT, STRIDE = 512, 256
RATES = {
    "sgd": (0.03, 0.05, 0.1),
    "adam": (1e-4, 3e-4),
    "rms": (1e-4, 3e-4),
    "lora sgd": (0.2, 0.5, 1.0),
    "lora adam": (1e-3, 3e-3),
}
STATIC = Learning(learn="none", rule="sgd", learning_rate=0.0)
DECAYS = (0.0, 1e-3)  # of the RMS rule
LIMIT = {"choose": 10_000, "measure": 10_000}  # tokens of each text


def settings() -> Iterator[tuple[str, Learning]]:
    """Every row but the rates: its name in `RATES`, and what learns."""
    for rule in ("sgd", "adam", "rms"):
        yield rule, Learning(rule=rule)
    for rule in ("sgd", "adam"):  # a new LoRA has no gradient statistics at the prior, so no RMS
        yield f"lora {rule}", Learning(learn="lora", rule=rule)


def cell(task: str, text: Path, windows: Windows, learning: Learning, limit: int) -> dict[str, Any]:
    """Read one text with one setting."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    memory = WeightMemory(None, windows, learning)
    *_, last = read_stream(memory, text, limit=limit)
    totals = replace(last.totals, updates=memory.counts.updates, rollbacks=memory.counts.rollbacks)
    learned = {key: getattr(learning, key) for key in ("learn", "rule", "learning_rate", "decay")}
    measured = {key: getattr(totals, key) for key in ("tokens", "bytes", "nats", "updates", "rollbacks")}
    return {"task": task, "text": text.stem, **asdict(windows), **learned, "limit": limit, **measured}


def key(row: dict[str, Any]) -> str:
    """What makes a cell that cell."""
    names = ("task", "text", "window", "context", "stride", "learn", "rule", "learning_rate", "decay", "limit")
    return json.dumps([row[name] for name in names])


def stored() -> list[dict[str, Any]]:
    """Cells measured so far."""
    return [json.loads(line) for line in CELLS.read_text().splitlines()] if CELLS.exists() else []


def fill(cells: list[tuple[str, Path, Windows, Learning, int]], jobs: int) -> None:
    """Measure the cells that are not stored yet; each is stored as soon as it is there."""
    there = {key(row) for row in stored()}
    wanted = [one for one in cells if key(as_row(*one)) not in there]
    print(f"{len(cells)} cells, {len(wanted)} to measure")
    with ProcessPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(cell, *one) for one in wanted]):
            row = done.result()
            with CELLS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            bits = row["nats"] / 0.6931471805599453 / row["bytes"]
            print(f"{row['text']:18} {row['window']:12} {row['learn']:5} {row['rule']:5} ", end="")
            print(f"{row['learning_rate']} {row['decay']}: {bits:.4f} bits per byte", flush=True)


def as_row(task: str, text: Path, windows: Windows, learning: Learning, limit: int) -> dict[str, Any]:
    """The part of a cell's row that `key` reads."""
    return {"task": task, "text": text.stem, **asdict(windows), **asdict(learning), "limit": limit}


def grids() -> list[Windows]:
    """Both window schemes at the same context and stride, without a sink, which changes this model by 0.001 nats."""
    return [Windows("overlapping", CONTEXT, STRIDE, sink=0), Windows("cached", CONTEXT, STRIDE, sink=0)]


def to_choose(data: Path) -> list[tuple[str, Path, Windows, Learning, int]]:
    """Every rate on the development books."""
    cells = []
    for book in DEVELOPMENT_BOOKS:
        for grid in grids():
            for name, learning in settings():
                for rate in RATES[name]:
                    for decay in DECAYS if learning.rule == "rms" else (0.0,):
                        tried = replace(learning, learning_rate=rate, decay=decay)
                        cells.append(("choose", data / "books" / f"{book}.txt", grid, tried, LIMIT["choose"]))
    return cells


def chosen(window: str, learning: Learning) -> Learning:
    """The setting with the fewest nats on the development books."""
    tried: dict[tuple[float, float], dict[str, float]] = {}
    for row in stored():
        if (row["task"], row["window"], row["learn"], row["rule"]) == ("choose", window, learning.learn, learning.rule):
            tried.setdefault((row["learning_rate"], row["decay"]), {})[row["text"]] = row["nats"]
    complete = {pair: sum(nats.values()) for pair, nats in tried.items() if len(nats) == len(DEVELOPMENT_BOOKS)}
    if not complete:
        raise SystemExit("no rates were chosen yet; run `python -m recipes.results choose DATA` first")
    rate, decay = min(complete, key=lambda pair: complete[pair])
    return replace(learning, learning_rate=rate, decay=decay)


def to_measure(data: Path) -> list[tuple[str, Path, Windows, Learning, int]]:
    """Static and every chosen setting on the texts that nothing was chosen on."""
    books = [text for text in sorted((data / "books").glob("*.txt")) if text.stem not in DEVELOPMENT_BOOKS]
    texts = books + sorted((data / "drift").glob("*.jsonl"))
    return [
        ("measure", text, grid, learning, LIMIT["measure"])
        for grid in grids()
        for learning in (STATIC, *(chosen(grid.window, one) for _, one in settings()))
        for text in texts
    ]


def flops_per_token(windows: Windows, learning: Learning, text: str) -> float:
    """Counted operations of a full window, per new token."""
    language_model = load()
    language_model.model.set_attn_implementation("eager")
    ids, byte_ends = language_model.encode(text)
    grid = islice(split("text", ids, byte_ends, windows), 2 * CONTEXT // STRIDE)
    return counted_flops(WeightMemory(language_model, windows, learning), grid)[-1] / windows.stride


def table() -> str:
    """The measured cells in Markdown: bits per byte, token-weighted within a column."""
    rows = [row for row in stored() if row["task"] == "measure"]
    groups = {"10 books": lambda text: text.startswith("pg19")}
    names = {"sotu_1790_1945": "speeches 1790-", "fomc_1993_2006": "minutes 1993-", "peps_1996_2015": "PEPs 1996-"}
    groups |= {title: (lambda text, stem=stem: text == stem) for stem, title in names.items()}
    sample = " ".join(["It was a dark and stormy night; the rain fell in torrents."] * 200)
    lines = [
        f"| windows | learns | rule, rate | MFLOPs a token | {' | '.join(groups)} |",
        f"|---|---|---|---:|{'---:|' * len(groups)}",
    ]
    for grid in grids():
        for learning in (STATIC, *(chosen(grid.window, one) for _, one in settings())):
            mine = [row for row in rows if same(row, grid, learning)]
            cells = []
            for belongs in groups.values():
                column = [row for row in mine if belongs(row["text"])]
                nats, size = sum(row["nats"] for row in column), sum(row["bytes"] for row in column)
                cells.append(f"{nats / 0.6931471805599453 / size:.3f}" if size else "")
            what = (
                "nothing (static)"
                if learning.learn == "none"
                else {"all": "all weights", "lora": "LoRA r=8"}[learning.learn]
            )
            rule = "" if learning.learn == "none" else f"{learning.rule} {learning.learning_rate:g}"
            rule += f", decay {learning.decay:g}" if learning.decay else ""
            cost = flops_per_token(grid, learning, sample) / 1e6
            lines.append(f"| {grid.window} | {what} | {rule} | {cost:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def same(row: dict[str, Any], grid: Windows, learning: Learning) -> bool:
    """Whether a stored cell is of this setting."""
    return all(row.get(name, 0) == value for name, value in asdict(grid).items()) and all(
        row[name] == getattr(learning, name) for name in ("learn", "rule", "learning_rate", "decay")
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("task", choices=["choose", "measure", "table"])
    arguments.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    arguments.add_argument("--jobs", type=int, default=2)
    options = arguments.parse_args()
    if options.task == "choose":
        fill(to_choose(options.data), options.jobs)
    if options.task == "measure":
        fill(to_measure(options.data), options.jobs)
    warnings.simplefilter("ignore")
    if options.task == "table":
        print(table())


if __name__ == "__main__":
    main()
