"""Rows of the table of totals about memory in a bank and in the context, about states, and about training."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from driftlm import (
    BankMemory,
    BankNetworks,
    BankSource,
    ComposedMemory,
    Learning,
    MixtureMemory,
    WeightMemory,
    Windows,
    load_networks,
    read_stream,
)
from driftlm.evaluation.answering import Answered, summarized
from driftlm.evaluation.asking import answered, from_bank, from_context, nothing
from driftlm.evaluation.settings import GREEDY, Asking
from driftlm.memories.bank.settings import Aggregation, BankTraining, NetworksSettings
from driftlm.memories.bank.source import bank_of
from driftlm.memories.base import Memory, State
from driftlm.memories.context.bm25 import BM25Index
from driftlm.memories.context.dense import DenseIndex
from driftlm.memories.context.encoders import StatesOfModel
from driftlm.memories.context.source import RetrievalSource
from driftlm.memories.loop import Point
from driftlm.memories.retrieval import BM25Memory, DenseMemory
from driftlm.memories.weights.camels import SalienceNetwork
from driftlm.memories.weights.learning import FROZEN
from driftlm.models.loading import no_progress_bar
from driftlm.models.machine import Machine
from driftlm.runs.tuning import tuned
from driftlm.streams.facts import facts
from driftlm.training.batches import fact_batches
from driftlm.training.meta_training import Trainer
from driftlm.training.salience import sources as salience_sources
from driftlm.training.settings import SalienceTraining
from driftlm.training.unrolling import Inner, SalienceTrainer
from tests.pins.readings import (
    BUNDLED_GRID,
    CADENCES,
    KINDS,
    RULES,
    TEXTS,
    TINY_GRID,
    TINY_TOKENIZER,
    WORLD,
    Row,
    Rows,
    bundled_memory,
    learned,
    reading,
    row,
    through,
    tiny,
    tiny_memory,
)
from tests.support.families import FAMILIES

TINY_SHAPES = NetworksSettings(
    vectors=2, encoder_width=16, encoder_layers=1, encoder_heads=2, blocks=1, heads=2, head_width=8, key_width=8
)


# ------------------------------------------------------------------------------------- memory in a bank, in the context


def random_networks(settings: NetworksSettings, family: str = "llama") -> BankNetworks:
    """A bank's networks of random weights around a tiny model, none of them at its start."""
    torch.manual_seed(0)
    model = tiny(family)
    model.model.requires_grad_(False)
    made = BankNetworks(model, settings).eval().requires_grad_(False)
    for weight in made.parameters():
        weight.add_(0.1 * torch.randn(weight.shape))
    return made


@cache
def trained_networks() -> BankNetworks:
    """The bundled networks around the bundled model that has learned to read."""
    return load_networks()


def said(answers: Sequence[Answered]) -> Row:
    """The row of answers: nats and weights, every text, and what their summary says."""
    numbers = [number for one in answers for number in (one.nats, one.tokens, one.weight or 0.0, one.prompt)]
    summary = summarized(answers)
    numbers += [value for name in ("em", "prefix_em", "f1", "nats", "weight") if (value := summary[name]) is not None]
    numbers += [value for name in ("recall", "changed_em", "stale") if (value := summary[name]) is not None]
    return row(numbers, texts=[one.prediction for one in answers])


def banks() -> Rows:
    """Banks: every way of aggregating, alone and for several questions; readings behind them; forgetting."""
    networks, asked = trained_networks(), WORLD.questions[:6]
    bank = bank_of(networks, TEXTS)
    yield "amortized", row([bank.vectors.double().norm(), bank.keys.double().norm()], [bank.vectors, bank.keys])
    ways = [Aggregation(), *(Aggregation(way, 4) for way in ("nearest", "hierarchical", "pruned", "averaged"))]  # type: ignore[arg-type]
    for way in [*ways, Aggregation("nearest-averaged", 4)]:
        for several in (True, False):
            found = from_bank(networks, bank, asked if several else asked[:1], GREEDY, way)
            yield f"{way.way}, {'several questions' if several else 'one question'}", said(found)
    yield "exact, beams", said(from_bank(networks, bank, asked[:3], Asking(beams=3)))
    aggregator, question = networks.aggregator, networks.question_vectors([one.text for one in asked])
    scores = aggregator.document_scores(aggregator.query_key(question), bank.keys, bank.timestamps)
    with torch.no_grad():
        ways_of = {
            "trained": aggregator(question, bank.vectors, scores),
            "chunks": aggregator.aggregate_chunked(question, bank.vectors, scores, 5),
            "projected": aggregator.aggregate_cached(question, aggregator.project(bank.vectors), scores),
        }
    for name, (modulation, shares) in ways_of.items():
        numbers = [modulation.double().norm(), *shares.max(dim=1).values.double()]
        yield f"aggregated, {name}", row(numbers, [scores, modulation, shares])
    for kind in KINDS:
        memory = BankMemory(networks, Windows(kind, *BUNDLED_GRID))  # type: ignore[arg-type]
        found = reading(memory, TEXTS[:4], compares=True)
        memory.forget(TEXTS[1].id)
        answer = memory.answer(WORLD.questions[0].text)
        yield f"bundled, {kind}, reading", found
        yield f"bundled, {kind}, answer", row([share for _, share in answer.documents], learned(memory), [answer.text])
        for modulation in ("prefix", "lora"):
            for scored in (True, False):
                settings = replace(TINY_SHAPES, modulation=modulation, rank=2, document_score=scored, longest=64)
                memory = BankMemory(random_networks(settings), Windows(kind, *TINY_GRID))  # type: ignore[arg-type]
                name = f"llama, {kind}, {modulation}{'' if scored else ', no document scores'}"
                yield name, reading(memory, TEXTS[:3], compares=True)


def retrieval() -> Rows:
    """Retrieval by words and by states, alone and composed with weights and a bank."""
    networks, asked = trained_networks(), WORLD.questions[:6]
    model = networks.language_model
    for kind in KINDS:
        windows = Windows(kind, *TINY_GRID)  # type: ignore[arg-type]
        for name, memory in (
            ("bm25", BM25Memory(tiny("llama"), windows, k=2, budget=12)),
            ("dense", DenseMemory(tiny("llama"), windows, k=2, budget=12)),
            ("bm25, qwen", BM25Memory(tiny("qwen"), windows, k=2, budget=12)),
        ):
            yield f"{name}, {kind}", reading(memory, TEXTS[:3], compares=True)
        for learning in (FROZEN, Learning("norms", rule="sgd", learning_rate=0.05)):
            networks_here = load_networks() if learning.learn != "none" else networks
            base = networks_here.language_model
            sources = [BankSource(networks_here), RetrievalSource(BM25Index(), base, 1, 24)]
            weights = WeightMemory(base, Windows(kind, *BUNDLED_GRID), learning)  # type: ignore[arg-type]
            composed = ComposedMemory(weights, sources)
            found = reading(composed, TEXTS[:3])
            answer = composed.answer(WORLD.questions[0].text)
            yield f"composed, {kind}, {learning.learn}", found
            yield (
                f"composed, {kind}, {learning.learn}, answer",
                row([s for _, s in answer.documents], (), [answer.text]),
            )
    for name, index in (("bm25", BM25Index()), ("dense", DenseIndex(StatesOfModel(model)))):
        source = RetrievalSource(index, model, 2, 128)
        source.add_all(TEXTS)
        supply = source.supply([one.text for one in asked])
        yield f"{name}, found", row([s for named in supply.documents for _, s in named], (), supply.texts)
        helped = answered(model, asked, lambda some, source=source: source.supply([one.text for one in some]))
        yield f"{name}, answers", said(helped)
    yield "nothing, answers", said(answered(model, asked, nothing))
    yield "own text, answers", said(from_context(model, WORLD, asked))


# ------------------------------------------------------------------------------------------------ trained beforehand


def training() -> Rows:
    """A few steps of every training, and what tuning finds within a small budget."""
    plans: dict[str, dict[str, Any]] = {
        "plain": {},
        "grouped": {"hierarchical": 1.0, "group": 2, "remembered": 4, "bank": 4},
        "dropout, distilled": {"kept": 0.5, "distill": 0.5, "accumulate": 2},
    }
    for name, plan in plans.items():
        torch.manual_seed(0)
        model = tiny("llama")
        model.model.requires_grad_(False)
        settings = BankTraining(steps=3, batch=4, warm_up=1, **plan)
        trainer = Trainer(BankNetworks(model, TINY_SHAPES), settings, fact_batches(4, 0))
        losses = [trainer.step() for _ in range(3)]
        numbers = [getattr(one, part) for one in losses for part in ("nats", "contrast", "readout", "distill", "share")]
        yield f"bank, {name}", row(numbers, trainer.networks.state_dict().values())
    for order in ("first", "second"):
        torch.manual_seed(0)
        plan_of = SalienceTraining(steps=3, documents=2, hidden=8, longest=48, order=order, inner_rate=0.2)  # type: ignore[arg-type]
        network, model = SalienceNetwork(32, 8), tiny("llama")
        inner = Inner(model, "all", plan_of.inner_rate, second_order=order == "second", longest=plan_of.longest)
        salience = SalienceTrainer(network, model, inner, plan_of, salience_sources("facts", plan_of)[0])
        numbers = [number for _ in range(3) for number in asdict(salience.step()).values()]
        yield f"salience, {order} order", row(numbers, network.state_dict().values())
    with TemporaryDirectory() as folder:
        path, place = Path(folder) / "text.txt", Path(folder) / "model"
        path.write_text("\n\n".join(document.text for document in facts(24, seed=2).documents), encoding="utf-8")
        with no_progress_bar():
            FAMILIES["llama"]().save_pretrained(place)
        TINY_TOKENIZER.save_pretrained(place)
        found = tuned([str(path)], Machine(str(place), threads=1), budget=1.0, unit="flops", limit=1024)
        numbers = [found[name] for name in ("cost", "bits_per_byte", "static_bits_per_byte")]
        # Where candidates are alike, rounding decides how far each reads, so that only the digest has the race.
        race = [[one[name] for name in ("cost", "tokens", "bits_per_byte")] for one in found["tried"]]
        yield "tuned", row(numbers, [torch.tensor(race, dtype=torch.float64)], [json.dumps(found["flags"])])


# ------------------------------------------------------------------------------------------- readings that go on


def states() -> Rows:
    """Readings stopped in mid-document, their state through files, and gone on with by a new memory."""
    adam, accumulate = RULES["adam"], CADENCES["every 3, accumulate"]
    settings: dict[str, Callable[[str], Memory]] = {
        "all": lambda kind: tiny_memory("llama", kind, **adam, **accumulate),
        "momentum": lambda kind: tiny_memory("llama", kind, **RULES["momentum"]),
        "tfidf": lambda kind: tiny_memory("llama", kind, salience="tfidf", **RULES["sgd"]),
        "mixture": lambda kind: MixtureMemory(
            tiny("llama"),
            Windows(kind, *TINY_GRID),
            Learning("lora", rule="mixture", experts="0,1e-3").strategies(),  # type: ignore[arg-type]
        ),
        "bundled": lambda kind: bundled_memory(kind, learn="lora", rule="adam"),
        "defaults": bundled_memory,
        "defaults, lora": lambda kind: bundled_memory(kind, learn="lora"),
        "bank": lambda kind: BankMemory(random_networks(TINY_SHAPES), Windows(kind, *TINY_GRID)),  # type: ignore[arg-type]
        "bm25": lambda kind: BM25Memory(tiny("llama"), Windows(kind, *TINY_GRID), k=2, budget=12),  # type: ignore[arg-type]
    }
    for name, make in settings.items():
        for kind in KINDS:
            memory, scores, number = make(kind), list[Tensor](), 0
            for step in read_stream(memory, TEXTS[:2]):
                number = [document.id for document in TEXTS].index(step.window.document)
                if number == 1 and step.window.index == 1:
                    break
                scores.append(step.nats)
            state = memory.state()
            tensors = safetensors.torch.load(safetensors.torch.save(state.tensors))
            other = make(kind)
            other.restore(State(tensors, json.loads(json.dumps(state.values))))
            rest = read_stream(other, TEXTS[number:3], totals=step.before, start=Point(0, step.window.index))
            yield f"{name}, {kind}", through(other, rest, scores)
