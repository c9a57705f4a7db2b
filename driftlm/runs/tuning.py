"""The verb `tune`: settings chosen on a development text, of those that a budget can pay.

The unit of cost is static reading with the default windows: what the unchanged model spends on a new token in the
middle of a long document, overlapping, C = 512 and S = 256 (for a model of fewer positions C is halved until it fits,
and S is half of C). A candidate that spends x times as much costs x; the static model that `driftlm read` runs beside
it for comparison is not counted. With windows of S new tokens, learning every k-th of them:

    cost = score + learn / k + step / k      (skip)
    cost = score + learn + step / k          (accumulate)

Source of the race: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", sec. 3 (asynchronous
successive halving). We depart from it: candidates read one after the other in the order of their cost, and a fixed
number of those so far goes on at every mark. Whether a candidate goes on then depends on cheaper ones alone, so that a
larger budget keeps every reading of a smaller one and never ends worse on the text; and it is deterministic (with
`seconds`, for the costs measured).
"""

import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import cycle, islice
from typing import Any

import torch

from driftlm.core.errors import DriftError
from driftlm.cost.flops import Formula, formula_of, full_shape
from driftlm.memories.base import Memory
from driftlm.memories.build import memory_for
from driftlm.memories.loop import read_stream
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.dynamic import WeightMemory, learner
from driftlm.memories.weights.learning import FROZEN, Cadence, Learning
from driftlm.models.loading import LanguageModel, refuse_long_context
from driftlm.models.machine import Machine
from driftlm.streams.documents import Document, read_documents
from driftlm.streams.windows import Windows, split

WAYS = [  # what learns, by which rule, at which rate
    *(("all", "adam", rate) for rate in (1e-4, 3e-4, 1e-3)),
    *(("lora", "adam", rate) for rate in (1e-3, 3e-3)),
    ("all", "sgd", 0.05),
]
CADENCES: list[tuple[int, Cadence]] = [(1, "skip"), (2, "skip"), (4, "skip"), (2, "accumulate")]
MARKS = {8: 12, 4: 6, 2: 3}  # after 1/8 of the text the best 12 so far go on, ...
LEAST = 1024  # tokens of a text: below, an eighth is less than half a window
MARGIN = 64  # tokens behind the last one read that may change how it is spelled
TIMED = 3  # windows, of which the fastest counts


@dataclass(frozen=True)
class Trial:
    """A way to read."""

    windows: Windows
    learning: Learning
    memory: str = "weights"

    @property
    def learns(self) -> bool:
        """Tell whether it is not the static model."""
        return self.learning.learn != "none" or self.memory != "weights"

    def settings(self) -> dict[str, Any]:
        """Return the settings by name of the flag; None where the static model has none."""
        names = ("learn", "rule", "learning_rate", "every", "cadence")
        if self.memory != "weights":
            return asdict(self.windows) | {"memory": self.memory}
        of_learning = {name: getattr(self.learning, name) for name in names}
        if not self.learns:
            of_learning |= dict.fromkeys(names[1:])
        return asdict(self.windows) | of_learning


@dataclass(frozen=True)
class Price:
    """What a new token costs: to score, to learn from, and of an update a window; all in one unit."""

    score: float
    learn: float
    step: float

    def of(self, learning: Learning) -> float:
        """Return the cost of a token with a cadence.

        Example:
            >>> [Price(10, 20, 4).of(Learning(every=2, cadence=cadence)) for cadence in ("skip", "accumulate")]
            [22.0, 32.0]
        """
        learned = self.learn / learning.every if learning.cadence == "skip" else self.learn
        return self.score + learned + self.step / learning.every


def tuned(
    text: Sequence[str], machine: Machine, *, budget: float, unit: str, limit: int, memory: str = "weights"
) -> dict[str, Any]:
    """Return the best settings within a budget, on the first `limit` tokens of a text.

    What costs too much is never run: costs are known before anything is read.

    Args:
        text: sources, as `read_documents` takes them.
        machine: which model.
        budget: most that a token may cost, in the unit of the module.
        unit: `flops` by formula or `seconds` measured.
        limit: tokens.
        memory: that reads beside the static model, where it is not weights that learn.

    Returns:
        `flags` and `command` of the best, its `cost` and bits per byte, those of the static model in the same windows,
        and a row for each that was `tried`, also those given up after fewer tokens.

    Raises:
        DriftError: for no text, one too short, or a budget that pays for nothing.
    """
    if not text:
        raise DriftError("no text was given; name files or folders like the ones to be read, or - for standard input.")
    if not (budget > 0 and math.isfinite(budget)):
        raise DriftError(
            f"`tuned.budget` was {budget:g}; give how many times static reading a token may cost, such as 2.0."
        )
    if limit < LEAST:
        raise DriftError(
            f"`tuned.limit` was {limit}; give at least {LEAST:,} tokens, or there is nothing to choose by."
        )
    documents = read_documents(text)
    language_model = machine.load()
    found, tokens = beginning(language_model, documents, limit)
    if tokens < LEAST:
        raise DriftError(f"the text has {tokens:,} tokens; give at least {LEAST:,}, or there is nothing to choose by.")
    grids = grids_of(language_model)
    every = candidates(grids, quantized=machine.bits > 0, memory=memory)
    price = prices(language_model, found) if unit == "seconds" else formulas(language_model)
    static = price(Trial(grids[0], FROZEN)).score
    costs = {one: price(one).of(one.learning) / static for one in every}
    affordable = sorted((one for one in every if costs[one] <= budget), key=costs.__getitem__)
    if not affordable:
        least = math.ceil(1000 * min(costs.values())) / 1000
        raise DriftError(
            f"`tuned.budget` {budget:g} pays for no way to read this with this model; give at least {least:g}."
        )
    print(
        f"driftlm: {len(affordable)} of {len(every)} ways to read cost at most {budget:g} x static reading; "
        f"trying them on {tokens:,} tokens",
        file=sys.stderr,
    )
    tried = []
    for one, row in raced(affordable, language_model, found, tokens):
        tried.append(row | {"cost": costs[one]})
        if row["tokens"] == tokens:
            windows = f"{one.windows.window} {one.windows.context}/{one.windows.stride}"
            way = f"{one.learning.learn} {one.learning.name()}" if one.learns else "static"
            way = way if one.memory == "weights" else one.memory
            way += f" every {one.learning.every} ({one.learning.cadence})" if one.learning.every > 1 else ""
            print(f"driftlm: {windows}, {way}: {row['bits_per_byte']:.4f} bits per byte", file=sys.stderr)
    whole = [place for place, row in enumerate(tried) if row["tokens"] == tokens]
    best = min(whole, key=lambda place: tried[place]["bits_per_byte"])  # of equal ones the cheapest
    chosen = affordable[best]
    flags = {name: value for name, value in chosen.settings().items() if value is not None}
    beside = affordable.index(Trial(chosen.windows, FROZEN))
    return {
        "flags": flags,
        "command": command(text, flags, machine),
        "budget": budget,
        "unit": unit,
        "cost": costs[chosen],
        "bits_per_byte": tried[best]["bits_per_byte"],
        "static_bits_per_byte": tried[beside]["bits_per_byte"],
        "tried": tried,
    }


def command(text: Sequence[str], flags: dict[str, Any], machine: Machine) -> str:
    """Return the command that reads so.

    Example:
        >>> command(["a b.txt"], {"learn": "all", "learning_rate": 3e-4}, Machine(threads=1, online=True))
        "driftlm read 'a b.txt' --learn all --learning-rate 0.0003 --threads 1 --online"
    """
    others = {field.name: getattr(machine, field.name) for field in fields(machine)}
    others = {field.name: others[field.name] for field in fields(machine) if others[field.name] != field.default}
    words = ["driftlm", "read", *text]
    for name, value in (flags | others).items():
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return shlex.join(words)


# ---- candidates, and what they cost ---------------------------------------------------------------------------------


def grids_of(language_model: LanguageModel) -> list[Windows]:
    """Return the windows that fit a model; the first are those that cost 1 when nothing is learned."""
    context = Windows().context
    while context > 2 and not fits(language_model, Windows("overlapping", context, context // 2)):
        context //= 2
    cached = [Windows("cached", context, context // share) for share in (2, 4)]
    return [Windows("overlapping", context, context // 2), *(one for one in cached if fits(language_model, one))]


def fits(language_model: LanguageModel, windows: Windows) -> bool:
    """Tell whether a model has the positions, and keys that can be kept where they are."""
    try:
        refuse_long_context(language_model, windows)
        WeightMemory(language_model, windows, FROZEN)
    except DriftError:
        return False
    return True


def candidates(grids: Sequence[Windows], quantized: bool = False, memory: str = "weights") -> list[Trial]:
    """Return the static model in all windows, and every way to learn; of quantized weights only a LoRA learns."""
    static = [Trial(windows, FROZEN) for windows in grids]
    if memory != "weights":
        return static + [Trial(windows, Learning(), memory) for windows in grids]
    return static + [
        Trial(windows, Learning(learn, rule=rule, learning_rate=rate, every=every, cadence=cadence))
        for windows in grids
        for learn, rule, rate in WAYS
        for every, cadence in CADENCES
        if not (quantized and learn == "all")
    ]


def formulas(language_model: LanguageModel) -> Callable[[Trial], Price]:
    """Return the prices in operations, by formula; nothing is read for them."""
    known: dict[Learning, Formula] = {}

    def price(one: Trial) -> Price:
        if one.memory != "weights":
            raise DriftError(
                f"what the memory {one.memory} costs is not counted by formula; give `tuned.unit` seconds."
            )
        kind = replace(one.learning, learning_rate=None)
        if kind not in known:
            try:
                known[kind] = formula_of(learner(language_model, one.windows, kind, None))
            except DriftError as error:
                raise DriftError(f"{str(error).partition(';')[0]}; give `tuned.unit` seconds.") from error
        formula, shape = known[kind], full_shape(one.windows)
        learned = formula.learn(shape) / shape.new if one.learns else 0.0
        return Price(formula.score(shape) / shape.new, learned, formula.step / shape.new)

    return price


def prices(language_model: LanguageModel, documents: Sequence[Document]) -> Callable[[Trial], Price]:
    """Return the prices in seconds, each measured once on windows of full context; an update's counts as learning."""
    ids = [token for document in documents for token in language_model.encode(document.text)[0][1:]]
    known: dict[Trial, float] = {}

    def seconds(one: Trial) -> float:
        kind = replace(one, learning=replace(one.learning, learning_rate=None, every=1, cadence="skip"))
        if kind not in known:
            known[kind] = timed(read_with(kind, language_model), ids) / one.windows.stride
        return known[kind]

    def price(one: Trial) -> Price:
        score = seconds(Trial(one.windows, FROZEN))
        return Price(score, max(0.0, seconds(one) - score) if one.learns else 0.0, 0.0)

    return price


def read_with(one: Trial, language_model: LanguageModel) -> Memory:
    """Return the memory of a way to read, on a model that stays as it is."""
    return memory_for(MemorySettings(one.windows, one.learning, memory=one.memory), language_model)


def timed(memory: Memory, ids: Sequence[int]) -> float:
    """Return the seconds of a window of full context, the fastest of three; tokens are repeated where they do not
    suffice.
    """
    windows, length = memory.windows, memory.windows.context + (TIMED + 1) * memory.windows.stride
    enough = [memory.language_model.bos, *islice(cycle(ids), length)]
    taken = []
    for window in split("timed", enough, range(1, len(enough)), windows):
        began = time.perf_counter()
        memory.score(window)
        memory.learn(window)
        if memory.language_model.device.type == "cuda":
            torch.cuda.synchronize(memory.language_model.device)
        taken.append(time.perf_counter() - began)
    return min(taken[-TIMED:])


# ---- the race -------------------------------------------------------------------------------------------------------


def raced(
    affordable: Sequence[Trial], language_model: LanguageModel, documents: Sequence[Document], tokens: int
) -> Iterator[tuple[Trial, dict[str, Any]]]:
    """Let candidates read in the order given, each as far as it is among the best so far; the static model to the end.

    Yields:
        The candidate, and its settings with the tokens it read and their bits per byte.
    """
    seen: dict[int, list[float]] = {tokens // share: [] for share in MARKS}  # nats of the first tokens
    for one in affordable:
        marks = dict(zip(seen, MARKS.values(), strict=True))
        for step in read_stream(read_with(one, language_model), documents, limit=tokens):
            before, totals = step.before, step.totals
            passed = [mark for mark in marks if mark <= totals.tokens]
            best = True
            for mark in passed:
                nats = before.nats + step.nats[: mark - before.tokens].double().sum().item()
                best &= sum(other < nats for other in seen[mark]) < marks.pop(mark)
                seen[mark].append(nats)
            if one.learns and not best:
                break
        yield one, one.settings() | {"tokens": totals.tokens, "bits_per_byte": totals.bits_per_byte}


def beginning(language_model: LanguageModel, documents: Iterator[Document], limit: int) -> tuple[list[Document], int]:
    """Return the documents that hold the first `limit` tokens, and how many tokens those are; the last one is
    shortened.
    """
    found, tokens = [], 0
    for document in documents:
        ids, byte_ends = language_model.encode(document.text)
        room = limit - tokens
        if len(ids) - 1 > room + MARGIN:
            text = document.text.encode()[: byte_ends[room + MARGIN]].decode(errors="ignore")
            if language_model.encode(text)[0][: room + 1] == ids[: room + 1]:
                document = replace(document, text=text)
        found.append(document)
        tokens += min(room, len(ids) - 1)
        if tokens == limit:
            break
    return found, tokens
