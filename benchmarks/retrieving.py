"""What retrieval costs among many short documents: adding them, and a question.

    python -m benchmarks.retrieving [--threads 2] [--retrieved 100000] [--questions 200] [--width 384]

BM25 over documents of the world of facts, in memory and in a file, beside SQLite's own full-text index with the same
questions and scores; exact dense retrieval over random vectors. Medians and, of questions, the slowest of 20.
"""

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles

import torch

from driftlm.memories.context.bm25 import BM25Index, terms_of
from driftlm.memories.context.dense import DenseIndex
from driftlm.streams.facts import facts

ADDED, BM25_MS, DENSE_MS = 5000, 5.0, 20.0  # goals: documents a second, ms a question
AT_A_TIME = 1000
ONE_BY_ONE = 1000  # documents


def added(index: BM25Index, texts: Sequence[str], size: int) -> float:
    """Documents a second, `size` at a time; they come behind those that are there."""
    first = len(index.documents)
    ids = [str(first + number) for number in range(len(texts))]
    began = time.perf_counter()
    for start in range(0, len(texts), size):
        index.add(ids[start : start + size], texts[start : start + size])
    return len(texts) / (time.perf_counter() - began)


def asked(search: Callable[[str], object], questions: Sequence[str]) -> tuple[float, float]:
    """Milliseconds of a question: median, and what one of 20 takes at least; the first ten only warm up."""
    taken = []
    for question in [*questions[:10], *questions]:
        began = time.perf_counter()
        search(question)
        taken.append(1e3 * (time.perf_counter() - began))
    return median(taken[10:]), quantiles(taken[10:], n=20)[-1]


def by_fts5(texts: Sequence[str]) -> Callable[[str], object]:
    """SQLite's own index over the same terms: it ranks all that share one with the question."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE held USING fts5 (terms)")
    database.executemany("INSERT INTO held VALUES (?)", ((" ".join(terms_of(text)),) for text in texts))

    def search(question: str) -> object:
        match = " OR ".join(f'"{term}"' for term in terms_of(question))
        query = "SELECT rowid, rank FROM held WHERE held MATCH ? ORDER BY rank, rowid LIMIT 10"
        return database.execute(query, (match,)).fetchall()

    return search


def verdict(met: bool, goal: str) -> str:
    return f"  goal {goal}: {'met' if met else 'missed'}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--retrieved", type=int, default=100_000)
    arguments.add_argument("--questions", type=int, default=200)
    arguments.add_argument("--width", type=int, default=384)
    # Known ones alone: `python -m benchmarks` gives every benchmark the same arguments.
    options, _ = arguments.parse_known_args()
    torch.set_num_threads(options.threads)
    stream = facts(options.retrieved + ONE_BY_ONE)
    texts = [document.text for document in stream.documents]
    questions = [question.text for question in stream.questions[: options.questions]]
    many, few = texts[: options.retrieved], texts[options.retrieved :]

    print(f"\nBM25 over {options.retrieved:,} facts, {options.threads} threads")
    print(f"{'':28}{'documents/s':>14}")
    with tempfile.TemporaryDirectory() as folder:
        for name, place in (("in memory", ":memory:"), ("in a file", str(Path(folder) / "index.sqlite"))):
            index = BM25Index(place)
            for label, rate in (
                (f"{name}, {AT_A_TIME} at a time", added(index, many, AT_A_TIME)),
                (f"{name}, one by one", added(index, few, 1)),
            ):
                durable = label == "in a file, one by one"  # which waits for the disk
                print(f"{label:28}{rate:14,.0f}", "" if durable else verdict(rate >= ADDED, f">= {ADDED:,}"), sep="")
            print(f"{name}: {'':17}{'ms':>11}{'1 of 20':>10}")
            for k in (1, 10):
                middle, slow = asked(lambda question, k=k, index=index: index.search(question, k), questions)  # type: ignore[misc]
                print(f"{f'  the best {k}':28}{middle:11.1f}{slow:10.1f}{verdict(middle < BM25_MS, f'< {BM25_MS}')}")
            index.database.close()
    middle, slow = asked(by_fts5(many), questions[:40])
    print(f"{'FTS5, the best 10':28}{middle:11.1f}{slow:10.1f}")

    index, rows = DenseIndex(), torch.randn(options.retrieved, options.width)
    began = time.perf_counter()
    for start in range(0, len(rows), AT_A_TIME):
        index.add_rows([str(number) for number in range(start, start + AT_A_TIME)], rows[start : start + AT_A_TIME])
    rate = len(rows) / (time.perf_counter() - began)
    asking = dict(zip(questions, torch.randn(len(questions), options.width)))
    middle, slow = asked(lambda question: index.nearest(asking[question], 10), questions)
    print(f"\nexact search in {options.retrieved:,} vectors of {options.width}: {rate:,.0f} vectors/s added")
    print(f"{'the best 10':28}{middle:11.1f}{slow:10.1f}{verdict(middle < DENSE_MS, f'< {DENSE_MS}')}")


if __name__ == "__main__":
    main()
