"""What adapting costs, in batches and by a gradient step a document, and answering, in batches and one at a time.

    python -m benchmarks.answering [--threads 1] [--documents 128] [--questions 64] [--rounds 3]

The bundled model and networks, on the world of facts. Adapting is measured on as many documents as are named and told
for 1,665, which is what streams of the literature have; a document costs the same in a longer stream. Every round does
everything, so that a ratio compares neighbours in time; the table shows medians.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from driftlm.evaluation import asking
from driftlm.evaluation.candidates import Terms, taking_part
from driftlm.memories.bank.networks import load_networks
from driftlm.streams.facts import facts
from driftlm.streams.questions import QuestionStream

ANSWERING, ADAPTING = 3.0, 10.0  # goals: times faster than one at a time, than a step a document
STREAM = 1665  # documents
RATE = 1e-4


def answering(terms: Terms, stream: QuestionStream, questions: int) -> dict[str, Callable[[], object]]:
    """The same questions of the same bank, one at a time and in batches."""
    some = stream.questions[:questions]
    bank = asking.bank_of(terms.bank, stream.documents)

    def in_batches_of(size: int) -> Callable[[], object]:
        def run() -> None:
            before, asking.QUESTIONS_AT_A_TIME = asking.QUESTIONS_AT_A_TIME, size
            try:
                asking.from_bank(terms.bank, bank, some)
            finally:
                asking.QUESTIONS_AT_A_TIME = before

        return run

    size = asking.QUESTIONS_AT_A_TIME
    return {"one at a time": in_batches_of(1), f"in batches of {size}": in_batches_of(size)}


def adapting(terms: Terms, stream: QuestionStream) -> dict[str, Callable[[], object]]:
    """The same documents, into weights and into a bank."""

    def into(name: str) -> Callable[[], object]:
        def run() -> None:
            with taking_part(name, terms, stream.documents, RATE) as candidate:
                candidate.adapt(stream.documents)

        return run

    return {"uniform": into("uniform"), "bank": into("bank")}


def timed(rows: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, by row; the first round only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds + 1):
        for name, run in rows.items():
            began = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def show(seconds: dict[str, list[float]], count: int, goal: float) -> None:
    """A line a row, the last with its goal."""
    first, last = list(seconds)
    for name, taken in seconds.items():
        faster = median(a / b for a, b in zip(seconds[first], taken, strict=True))
        line = f"{name:24}{1e3 * median(taken) / count:14.2f}{faster:12.1f}"
        print(line + (f"  goal >= {goal}: {'met' if faster >= goal else 'missed'}" if name == last else ""))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--documents", type=int, default=128)
    arguments.add_argument("--questions", type=int, default=64)
    arguments.add_argument("--rounds", type=int, default=3)
    # Known ones alone: `python -m benchmarks` gives every benchmark the same arguments.
    options, _ = arguments.parse_known_args()
    torch.set_num_threads(options.threads)
    networks = load_networks()
    terms, stream = Terms(networks.language_model, networks), facts(options.documents, distractors=0.0)
    count = min(options.questions, len(stream.questions))
    print(f"\nanswering {count} questions of a bank of {options.documents} documents, {options.threads} threads")
    print(f"{'':24}{'ms a question':>14}{'x faster':>12}")
    show(timed(answering(terms, stream, count), options.rounds), count, ANSWERING)
    print(f"\nadapting to {options.documents} documents, {options.threads} threads")
    print(f"{'':24}{'ms a document':>14}{'x faster':>12}")
    seconds = timed(adapting(terms, stream), options.rounds)
    show(seconds, options.documents, ADAPTING)
    told = {name: median(taken) * STREAM / options.documents for name, taken in seconds.items()}
    print(f"of {STREAM:,}: " + ", ".join(f"{name} {whole:.0f} s" for name, whole in told.items()))


if __name__ == "__main__":
    main()
