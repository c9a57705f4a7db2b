"""Rows of the table of totals about memory in weights: what readings score and learn."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from driftlm import (
    ComposedMemory,
    Document,
    LanguageModel,
    Learning,
    MixtureMemory,
    WeightMemory,
    Windows,
    load,
    read_stream,
)
from driftlm.memories.base import Memory
from driftlm.memories.weights.side_by_side import read_side_by_side
from driftlm.memories.weights.statistics import gather
from driftlm.streams.facts import facts
from tests.support.families import BOS, FAMILIES, tiny_tokenizer

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]

WORLD = facts(12, seed=1, changed=0.2)
TEXTS = WORLD.documents
TINY_TOKENIZER = tiny_tokenizer()
KINDS = ("overlapping", "cached")
# Without a sink, which the pinned code had not.
BUNDLED_GRID, TINY_GRID = (64, 32, 0), (32, 16, 0)
PARAMETRISATIONS: dict[str, dict[str, Any]] = {
    "all": {"learn": "all"},
    "lora": {"learn": "lora", "rank": 4},
    "dora": {"learn": "dora", "rank": 4, "target_modules": "attention"},
    "norms": {"learn": "norms"},
    "last layer": {"layers": "1-1"},
    "embeddings frozen": {"freeze_embeddings": True},
}
RULES: dict[str, dict[str, Any]] = {
    "sgd": {"rule": "sgd", "learning_rate": 0.05},
    "momentum": {"rule": "sgd", "learning_rate": 0.02, "momentum": 0.8},
    "adam": {"rule": "adam", "learning_rate": 1e-3},
    "rms": {"rule": "rms", "learning_rate": 1e-4, "epsilon": 1e-3, "decay": 0.01},
}
CADENCES: dict[str, dict[str, Any]] = {
    "every 2, skip": {"every": 2, "cadence": "skip"},
    "every 3, accumulate": {"every": 3, "cadence": "accumulate"},
}


# ------------------------------------------------------------------------------------------------------------- rows


def row(numbers: Iterable[float], tensors: Iterable[Tensor] = (), texts: Iterable[str] = ()) -> Row:
    """Numbers as they are, and the SHA-256 of them, of texts and of tensors, every bit; shapes do not count."""
    numbers, texts = [float(number) for number in numbers], list(texts)
    digest = hashlib.sha256("\n".join([*map(float.hex, numbers), *texts]).encode())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {"numbers": numbers, "digest": digest.hexdigest()} | ({"texts": texts} if texts else {})


def learned(memory: Any) -> list[Tensor]:
    """The parameters that a memory learned, by their names, of all experts of a mixture."""
    if isinstance(memory, ComposedMemory):
        return learned(memory.weights)
    if isinstance(memory, MixtureMemory):
        return [tensor for expert in memory.active for tensor in learned(expert)]
    return [parameter for _, parameter in sorted(memory.trainable.parameters.items())]


def through(memory: Any, steps: Iterable[Any], earlier: Sequence[Tensor] = (), chaotic: bool = False) -> Row:
    """The row of a reading: nats, static nats, tokens and counts; the digest has every score and what was learned.

    Args:
        memory: that reads.
        steps: its reading.
        earlier: tensors that the digest has besides.
        chaotic: whether rounding grows without limit, so that scores differ between machines; then only the digest
            has what follows from them.
    """
    scores, nats, tokens = list(earlier), list[float](), 0
    for step in steps:
        scores += [step.nats] if step.static_nats is None else [step.nats, step.static_nats]
        nats = [step.totals.nats] + ([] if step.static_nats is None else [step.totals.static_nats])
        tokens = step.totals.tokens
    counts = [getattr(memory.counts, name) for name in ("updates", "rollbacks", "prior_used", "skipped_updates")]
    numbers = [tokens, *counts[:2]] if chaotic else [*nats, tokens, *counts]
    return row(numbers, [*scores, *learned(memory)])


def reading(memory: Any, documents: Sequence[Document], compares: bool = False) -> Row:
    """The row of documents read one after the other."""
    return through(memory, read_stream(memory, documents, baseline=memory.static() if compares else None))


def tiny(family: str) -> LanguageModel:
    """A family's tiny model, the same weights at every call."""
    return LanguageModel(FAMILIES[family](), TINY_TOKENIZER, f"tiny-{family}", BOS, f"tiny-{family}")


def tiny_memory(family: str, kind: str, **learning: Any) -> WeightMemory:
    """A memory in a tiny model's weights."""
    return WeightMemory(tiny(family), Windows(kind, *TINY_GRID), Learning(**learning))  # type: ignore[arg-type]


def bundled_memory(kind: str, **learning: Any) -> WeightMemory:
    """A memory in the bundled model's weights."""
    return WeightMemory(load(), Windows(kind, *BUNDLED_GRID), Learning(**learning))  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------- memory in weights


def families() -> Rows:
    """Every tiny family with both windows, where it has them, and the two rules that rows have too."""
    for family in FAMILIES:
        for kind in KINDS[: 1 if family == "gpt2" else 2]:
            for rule in ("sgd", "adam"):
                for name in ("all", "lora"):
                    memory = tiny_memory(family, kind, **RULES[rule], **PARAMETRISATIONS[name])
                    yield f"{family}, {kind}, {rule}, {name}", reading(memory, TEXTS[:2], compares=name == "all")


def sinks() -> Rows:
    """Windows with a sink, in full attention and with sliding layers."""
    for family in ("llama", "gemma"):
        for kind in KINDS:
            grid = Windows(kind, *TINY_GRID[:2], sink=2)  # type: ignore[arg-type]
            memory = WeightMemory(tiny(family), grid, Learning(**RULES["adam"]))
            yield f"{family}, {kind}", reading(memory, TEXTS, compares=True)


def rules() -> Rows:
    """Every rule with every parametrisation and both windows."""
    with TemporaryDirectory() as folder:
        statistics = str(Path(folder) / "statistics.safetensors")
        gathered = gather(tiny("llama"), TEXTS[:2], Windows("overlapping", *TINY_GRID))
        gathered.save(statistics)
        yield "statistics", row([gathered.normalizer], [gathered.rms[name] for name in sorted(gathered.rms)])
        for rule, name in ruled():
            settings = RULES[rule] | PARAMETRISATIONS[name] | ({"statistics": statistics} if rule == "rms" else {})
            for kind in KINDS:
                yield f"{kind}, {rule}, {name}", reading(tiny_memory("llama", kind, **settings), TEXTS[:2])


def ruled() -> Iterator[tuple[str, str]]:
    """Rules with parametrisations; a LoRA has no gradient statistics at the prior."""
    return (
        (rule, name) for rule in RULES for name in PARAMETRISATIONS if rule != "rms" or name not in ("lora", "dora")
    )


def cadences() -> Rows:
    """Cadences, restarts, and learning that diverges, with a guard and without."""
    for kind in KINDS:
        for name, cadence in CADENCES.items():
            for rule in ("momentum", "adam"):
                memory = tiny_memory("llama", kind, **RULES[rule], **cadence)
                yield f"{kind}, {rule}, {name}", reading(memory, TEXTS[:3])
            settings = RULES["adam"] | cadence | {"reset": "document"}
            yield f"{kind}, {name}, reset", reading(tiny_memory("llama", kind, **settings), TEXTS[:3])
        for name, rate in (("prior used", 1e10), ("chaotic", 1e3)):
            memory = tiny_memory("llama", kind, rule="sgd", learning_rate=rate)
            found = through(memory, read_stream(memory, TEXTS[:4]), chaotic=name == "chaotic")
            assert memory.counts.rollbacks, "the guard was to go back here"
            yield f"{kind}, guard on, {name}", found
        yield f"{kind}, guard off", reading(tiny_memory("llama", kind, guard="off", **RULES["sgd"]), TEXTS[:3])


def bundled() -> Rows:
    """The bundled model: rules with every parametrisation, restarts, the guard, token weights, longer windows."""
    for number, (rule, name) in enumerate(pair for pair in ruled() if pair[0] != "momentum"):
        kind = KINDS[number % 2]
        settings = RULES[rule] | PARAMETRISATIONS[name]
        yield f"{kind}, {rule}, {name}", reading(bundled_memory(kind, **settings), TEXTS[:2])
    for kind in KINDS:
        yield f"{kind}, accumulate", reading(bundled_memory(kind, **CADENCES["every 3, accumulate"]), TEXTS[:3])
        yield f"{kind}, reset", reading(bundled_memory(kind, learn="lora", reset="document"), TEXTS[:3])
        memory = bundled_memory(kind, rule="sgd", learning_rate=1e3)
        yield f"{kind}, guard on, chaotic", through(memory, read_stream(memory, TEXTS[:4]), chaotic=True)
        assert memory.counts.rollbacks, "the guard was to go back here"
        yield f"{kind}, static", reading(bundled_memory(kind, learn="none"), TEXTS[:3])
        for salience in ("tfidf", "spans", "camels"):
            memory = bundled_memory(kind, rule="sgd", learning_rate=0.05, salience=salience)
            yield f"{kind}, {salience}", reading(memory, TEXTS[:3])
    yield "long windows", reading(WeightMemory(load(), Windows("cached", 128, 64, 0)), [long_document()])


def long_document() -> Document:
    """All texts in one, so that caches are cut and windows slide."""
    return Document("long", "\n".join(document.text for document in TEXTS[:6]))


def mixtures() -> Rows:
    """Mixtures: with and without share, of whole models and of LoRAs in one pass, of different rules."""
    experts = "0,1e-3,sgd:0.05"
    for kind in KINDS:
        for share in (False, True):
            for learn, cadence in (("all", {}), ("lora", CADENCES["every 3, accumulate"] | {"reset": "document"})):
                settings = Learning(learn, rank=4, rule="mixture", experts=experts, share=share, **cadence)  # type: ignore[arg-type]
                memory = MixtureMemory(tiny("llama"), Windows(kind, *TINY_GRID), settings.strategies(), share)  # type: ignore[arg-type]
                assert (memory.together is not None) == (learn == "lora")
                found = reading(memory, TEXTS[:2])
                found["numbers"] += memory.weights()
                yield f"llama, {kind}, mixture of {learn}{', shared' if share else ''}", found
        settings = Learning("lora", rule="mixture", experts="0,1e-3,3e-3")
        memory = MixtureMemory(load(), Windows(kind, *BUNDLED_GRID), settings.strategies())  # type: ignore[arg-type]
        yield f"bundled, {kind}, mixture of lora", reading(memory, TEXTS[:2])


def rows_side_by_side() -> Rows:
    """Documents read side by side by every rule that rows have, with both cadences."""

    def beside(memory: Memory, count: int, compares: bool = False) -> Row:
        return through(memory, read_side_by_side(memory, TEXTS[:5], count, compares))

    for kind in KINDS:
        for rule in ("sgd", "momentum", "adam"):
            for name, cadence in {"every": {}, **CADENCES}.items():
                memory = tiny_memory("llama", kind, learn="lora", rank=4, reset="document", **RULES[rule], **cadence)
                yield f"llama, {kind}, {rule}, {name}", beside(memory, 3, compares=True)
        memory = tiny_memory("llama", kind, learn="lora", reset="document", rule="sgd", learning_rate=1e10)
        found = beside(memory, 3)
        assert memory.counts.rollbacks, "the guard was to go back here"
        yield f"llama, {kind}, guard on, prior used", found
        for rule in ("adam", "relative"):
            bundled = bundled_memory(kind, learn="lora", reset="document", rule=rule)
            yield f"bundled, {kind}, {rule}", beside(bundled, 4)
    yield "qwen, cached, adam", beside(tiny_memory("qwen", "cached", learn="lora", reset="document", rule="adam"), 4)
    yield (
        "gemma, overlapping, sgd",
        beside(tiny_memory("gemma", "overlapping", learn="lora", reset="document", **RULES["sgd"]), 2),
    )
