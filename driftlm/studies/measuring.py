"""The row of a reading: what a text cost the static model and the one that learns as it reads."""

import copy
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from driftlm.cost.summary import summarized
from driftlm.memories.base import Memory
from driftlm.memories.build import memory_for
from driftlm.memories.loop import Totals, read_stream
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.memories.weights.learning import FROZEN, Learning
from driftlm.models.catalogue import BUNDLED
from driftlm.models.loading import LanguageModel, load
from driftlm.runs.folder import line
from driftlm.streams.windows import split
from driftlm.studies.cells import Cell
from driftlm.studies.parts import Part, Tokenized, parts_of

# Values that a rule holds for each parameter: moments, or scales and pulls.
MOMENTS = {"adam": 2, "relative": 2, "rms": 2}


@dataclass(frozen=True)
class Passed:
    """A memory behind all it read.

    Attributes:
        totals: sums.
        nats: (n,) float64, of each token.
        positions: (n,) its place in its document, from 1.
    """

    totals: Totals
    nats: Tensor
    positions: Tensor


def measure(reading: Cell, data: Path) -> dict[str, Any]:
    """Read what a reading names and return its row, plain JSON.

    The static model reads first, then come the passes where there are any, then the memory. The rate of the passes
    falls linearly to 0, and windows come in random order, overlapping whatever the reading's are.

    Args:
        reading: what is read, and by what.
        data: the folder its texts are in.

    Returns:
        `setting`, `text`, `seed`; `tokens`, `bytes`; `nats` and `bits_per_byte` of the memory,
        `static_bits_per_byte` of the untouched model, `prior_bits_per_byte` of the tuned one that does not learn as it
        reads (None without passes), `gain` (the fraction of the static model's bits that are saved); `parameters` of
        the model, and its `fingerprint`; `updates`, `rollbacks`; `flops_per_token`, `bytes_moved_per_token` and
        `static_flops_per_token` by formula (None where that is unknown; without the passes); `seconds` of the memory
        alone; `memory_bytes` of what learns: values, prior, gradient, the guard's copy, the rule's moments;
        `positions`, sums by powers of two of a token's place in its document; `experts` of a mixture; `reading` itself.

    Raises:
        DriftError: where the text or the model cannot be read.

    Source: Rannen-Triki et al. 2024, section 3, for what is compared; Krause et al. 2018 for the reading.
    """
    before = before_learning(frozen(reading), data)
    loaded = loaded_model(reading.model, reading.dtype)
    language_model = Tokenized.of(replace(loaded, model=copy.deepcopy(loaded.model)), before.parts)
    learning = completed(reading, language_model)
    static = prior = adapted = before.static
    cost = before.cost
    with TemporaryDirectory() as folder:
        log = Path(folder) / "windows.jsonl"
        if reading.tuned or reading.hindsight:
            tune(language_model, before.skipped if reading.tuned else before.parts, reading)
            prior = adapted = passed(WeightMemory(language_model, reading.windows, FROZEN), log)
        memory = memory_for(MemorySettings(reading.windows, learning), language_model, in_place=True)
        if not memory.is_static:
            adapted = passed(memory, log)
            cost = summarized(memory, log, adapted.totals.tokens)
    totals = adapted.totals
    return {
        "setting": reading.setting,
        "text": reading.text,
        "seed": reading.seed,
        "tokens": totals.tokens,
        "bytes": totals.bytes,
        "nats": totals.nats,
        "bits_per_byte": totals.bits_per_byte,
        "static_bits_per_byte": static.totals.bits_per_byte,
        "prior_bits_per_byte": prior.totals.bits_per_byte if reading.tuned or reading.hindsight else None,
        "gain": 1 - totals.nats / static.totals.nats,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "fingerprint": loaded.fingerprint,
        "updates": memory.counts.updates,
        "rollbacks": memory.counts.rollbacks,
        "flops_per_token": cost["flops_per_token"],
        "bytes_moved_per_token": cost["bytes_moved_per_token"],
        "static_flops_per_token": before.cost["flops_per_token"],
        "seconds": totals.seconds,
        "memory_bytes": memory_bytes(memory),
        "positions": by_position(adapted, static),
        "experts": memory.summary().get("experts"),
        "reading": asdict(reading),
    }


@dataclass(frozen=True)
class Before:
    """What readings share that differ in their learning alone.

    Attributes:
        skipped: parts that are left out.
        parts: parts that are read, in their order.
        static: the untouched model behind them.
        cost: of that, as `summarized` says it.
    """

    skipped: list[Part]
    parts: list[Part]
    static: Passed
    cost: dict[str, Any]


@lru_cache(maxsize=1)
def loaded_model(name: str, dtype: str) -> LanguageModel:
    """Return the model of a reading, as it was loaded: learn in a copy."""
    return load(name or None, dtype=dtype)


def frozen(reading: Cell) -> Cell:
    """Return the same text in the same order and windows, and nothing learned."""
    seed = reading.seed if reading.order == "shuffled" else 0
    return replace(reading, setting="", learning=FROZEN, tuned=0, hindsight=0, rate=0.0, seed=seed)


@lru_cache(maxsize=32)
def before_learning(reading: Cell, data: Path) -> Before:
    """Let the static model read what a reading that learns nothing names."""
    loaded = loaded_model(reading.model, reading.dtype)
    skipped, parts = parts_of(loaded, reading, data)
    untouched = WeightMemory(Tokenized.of(loaded, parts), reading.windows, FROZEN)
    with TemporaryDirectory() as folder:
        log = Path(folder) / "windows.jsonl"
        static = passed(untouched, log)
        cost = summarized(untouched, log, static.totals.tokens)
    return Before(skipped, parts, static, cost)


def completed(reading: Cell, language_model: LanguageModel) -> Learning:
    """Return the learning of a reading with its seed, and the bundled model's statistics where RMS has no others."""
    learning = replace(reading.learning, seed=reading.seed)
    if learning.rule == "rms" and not learning.statistics and language_model.name == str(BUNDLED):
        learning = replace(learning, statistics=str(BUNDLED / "statistics.safetensors"))
    return learning


def passed(memory: Memory, log: Path) -> Passed:
    """Let a memory read the parts of its model, and keep a line a window in `log`."""
    language_model = memory.language_model
    assert isinstance(language_model, Tokenized)
    nats, positions, totals = [], [], Totals()
    with log.open("w", encoding="utf-8") as file:
        for step in read_stream(memory, language_model.documents()):
            nats.append(step.nats.double())
            positions.append(torch.arange(step.window.position, step.window.position + step.window.new))
            totals = step.totals
            file.write(json.dumps(line(step, None)) + "\n")
    return Passed(totals, torch.cat(nats), torch.cat(positions))


def tune(language_model: LanguageModel, parts: Sequence[Part], reading: Cell) -> None:
    """Pass over all windows of the parts, in all weights, which the model keeps."""
    grid = replace(reading.windows, window="overlapping")
    memory = WeightMemory(language_model, grid, Learning(rule="relative", learning_rate=reading.rate))
    windows = [window for part in parts for window in split(part.id, part.ids, part.byte_ends, grid)]
    order = random.Random(reading.seed)
    assert memory.rule is not None
    steps = (reading.tuned or reading.hindsight) * len(windows)
    for step in range(steps):
        if step % len(windows) == 0:
            order.shuffle(windows)
        memory.learn(windows[step % len(windows)])
        memory.rate *= (steps - step - 1) / (steps - step)  # a rate that the guard halved stays halved


def memory_bytes(memory: Memory) -> int:
    """Return the bytes of what learns: values, prior, gradient, the guard's copy, and the rule's moments."""
    learners = list(memory.learners().values())
    held = 0
    for one in learners:
        learning = one.learning
        copies = 3 + (learning.guard == "on") + MOMENTS.get(learning.rule, int(learning.momentum > 0))
        held += copies * sum(p.numel() * p.element_size() for p in one.parameters)
    return held


def by_position(adapted: Passed, static: Passed) -> list[dict[str, Any]]:
    """Return the sums of nats over tokens at places 1, 2-3, 4-7, 8-15, ... of their documents."""
    places = np.frexp(adapted.positions.double().numpy())[1] - 1  # ⌊log₂⌋, exactly
    tokens = np.bincount(places)
    sums = [np.bincount(places, one.nats.numpy()).tolist() for one in (adapted, static)]
    return [
        {"from": 2**place, "tokens": int(count), "nats": nats, "static_nats": before}
        for place, (count, nats, before) in enumerate(zip(tokens, *sums, strict=True))
        if count
    ]
