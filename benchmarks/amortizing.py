"""What teaching a bank a document costs, against one gradient step on it with all weights of the same language model.

    python -m benchmarks.amortizing [--threads 1] [--rounds 200] [--networks DIR] [--model DIR]

The bundled networks read documents of the world of facts one by one, and in batches as `driftlm bank add` does; the
step is score, backward and SGD, as `driftlm read` takes it. Every round does everything to documents of its own, so
that a ratio compares neighbours in time; the table shows medians, a document.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from driftlm import Learning, WeightMemory, Windows, load
from driftlm.homes.bank_folder import AT_A_TIME
from driftlm.memories.bank.networks import BUNDLED, load_networks
from driftlm.streams.documents import Document
from driftlm.streams.facts import facts
from driftlm.streams.windows import split

ONE_BY_ONE, IN_BATCHES = 3.0, 10.0  # goals: times faster than the step
GRID = Windows("overlapping", 256, 256)  # a short fact is one window
WARM_UP = 3  # rounds that do not count

Row = Callable[[Sequence[Document]], int]


def ways(model: str | None, networks: str) -> dict[str, Row]:
    """Every row of the table: what it does to some documents, and how many it did."""
    made = load_networks(networks or BUNDLED, load(model))
    memory = WeightMemory(load(model), GRID, Learning(rule="sgd", learning_rate=1e-3))

    def step(documents: Sequence[Document]) -> int:
        document = documents[0]
        for window in split(document.id, *memory.encode(document.text), GRID):
            memory.score(window)
            memory.learn(window)
        return 1

    return {
        "a gradient step": step,
        "one by one": lambda documents: len(list(made.amortize([documents[0].text]))),
        f"in batches of {AT_A_TIME}": lambda documents: len(list(made.amortize([one.text for one in documents]))),
    }


def timed(rows: dict[str, Row], rounds: int) -> dict[str, list[float]]:
    """Seconds a document of every round, by row."""
    documents = facts(AT_A_TIME * (rounds + WARM_UP), distractors=0.0).documents
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds + WARM_UP):
        some = documents[AT_A_TIME * number :][:AT_A_TIME]
        for name, run in rows.items():
            began = time.perf_counter()
            count = run(some)
            if number >= WARM_UP:
                seconds[name].append((time.perf_counter() - began) / count)
    return seconds


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=200)
    arguments.add_argument("--networks", default="")
    arguments.add_argument("--model")
    # Known ones alone: `python -m benchmarks` gives every benchmark the same arguments.
    options, _ = arguments.parse_known_args()
    torch.set_num_threads(options.threads)
    print(f"\namortizing facts, {options.threads} threads")
    print(f"{'':24}{'ms a document':>16}{'a step / it':>14}")
    seconds = timed(ways(options.model, options.networks), options.rounds)
    goals = dict(zip(list(seconds)[1:], (ONE_BY_ONE, IN_BATCHES)))
    for name, taken in seconds.items():
        faster = median(a / b for a, b in zip(seconds["a gradient step"], taken, strict=True))
        line = f"{name:24}{1e3 * median(taken):16.2f}{faster:14.1f}"
        if name in goals:
            line += f"  goal >= {goals[name]}: {'met' if faster >= goals[name] else 'missed'}"
        print(line)


if __name__ == "__main__":
    main()
