"""The verb `train salience`: meta-train a network that weighs tokens, watched against weights that are all alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from driftlm.memories.weights.camels import SalienceNetwork
from driftlm.models.machine import Machine
from driftlm.streams.facts import facts
from driftlm.training.bank import merged
from driftlm.training.batches import Batches, fact_batches, stream_batches
from driftlm.training.loop import Loop, divided, say
from driftlm.training.settings import SalienceRun, SalienceTraining
from driftlm.training.unrolling import Episode, Inner, Losses, SalienceTrainer, Values, Weigh

WATCHED = 8  # held-out episodes
ENOUGH = 1600  # documents of the world of facts to draw these from


def train(machine: Machine, training: SalienceTraining, run: SalienceRun) -> dict[str, Any]:
    """Train, or go on with the training that the folder of the run holds; returns the last line of its log.

    Raises:
        DriftError: for a stream that cannot be read, other settings than the checkpoint's, a graph over the limit, or
            a lost loss.
    """
    out = Path(run.out)
    language_model = machine.load()
    # What weighs is the model as others will load it, without an adapter that taught it to answer.
    frozen = machine.load() if run.reader else language_model
    merged(language_model, run.reader)
    torch.manual_seed(training.seed)
    width = int(language_model.model.config.get_text_config().hidden_size)
    network = SalienceNetwork(width, training.hidden).to(language_model.device)
    second_order, longest = training.order == "second", training.longest
    inner = Inner(language_model, training.learn, training.inner_rate, second_order=second_order, longest=longest)
    learned, held_out = sources(run.stream, training)
    trainer = SalienceTrainer(network, frozen, inner, training, learned)
    watched = [held_out(number) for number in range(WATCHED)]
    loop = Loop(
        trainer,
        out,
        run.log,
        run.check,
        means=lambda losses: {name: round(value, 4) for name, value in Losses.mean(losses).items()},
        checked=lambda: {"held_out": checked(trainer, watched)},
        shown=shown,
        threads=machine.threads,
    )
    resumed = loop.resume(language_model.device)
    size = trainer.graph_size() / 2**20
    say(f"the graph of a step holds {size:,.0f} MiB ({training.documents} documents, {training.order} order)")
    out.mkdir(parents=True, exist_ok=True)
    if resumed:
        loop.trim()
    line = loop.run()
    network.save(out, frozen)
    return line


def sources(stream: str, training: SalienceTraining) -> tuple[Callable[[int], Episode], Callable[[int], Episode]]:
    """Return what is trained on, and what is watched: names or documents never trained on."""
    count, seed = training.documents, training.seed
    if stream == "facts":
        learned = fact_batches(count, seed, changed=0.0, distracting=1 / count)
        unseen = facts(ENOUGH, seed=seed, split="validation", changed=0.0, distractors=0.0)
        return episodes(learned), episodes(stream_batches(unseen, count + 1, seed))
    some, others = divided(stream, seed)
    return episodes(stream_batches(some, count + 1, seed)), episodes(stream_batches(others, count + 1, seed))


def episodes(batches: Batches) -> Callable[[int], Episode]:
    """Yield batches, in each of which the last document is the unrelated text, about which nothing is asked."""

    def episode(step: int) -> Episode:
        batch = batches(step)
        last = len(batch.documents) - 1
        asked = batch.asking([place for place, own in enumerate(batch.own) if last not in own])
        return Episode(batch.documents[:-1], asked.questions, asked.answers, batch.documents[-1])

    return episode


def checked(trainer: SalienceTrainer, watched: list[Episode]) -> dict[str, float]:
    """Return the nats of an answer token on held-out episodes, each from the start.

    `before` anything is read; after reading with the weights that were `learned`, with the `even` weight that is their
    mean over the episode, and with weights of 1 (`uniform`).
    """
    rows = []
    for episode in watched:
        with torch.no_grad():
            weights = [trainer.weigh(trainer.inner.ids(document)) for document in episode.documents]
        mean = torch.cat(weights).mean().item()
        left = iter(weights)

        def learned(ids: Tensor, left: Any = left) -> Tensor:
            weights: Tensor = next(left)
            return weights

        ways: dict[str, Weigh] = {"learned": learned, "even": constant(mean), "uniform": constant(1.0)}
        row = {"before": answered(trainer.inner, trainer.inner.start, episode)}
        for name, weigh in ways.items():
            adapted = trainer.inner.adapted(trainer.inner.start, episode.documents, weigh)
            row[name] = answered(trainer.inner, adapted, episode)
        rows.append(row)
    return {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]}


def constant(weight: float) -> Weigh:
    """Weigh every token the same."""
    return lambda ids: torch.full((len(ids) - 1,), weight, device=ids.device)


@torch.no_grad()
def answered(inner: Inner, values: Values, episode: Episode) -> float:
    """Return the nats of an answer token of an episode."""
    return inner.answers(values, episode).item()


def shown(line: dict[str, Any]) -> str:
    """Return a log line as a person reads it."""
    text = f"step {line['step']:>5} {line['seconds']:7.0f} s  answer {line['before']:.3f} -> {line['nats']:.3f} nats  "
    text += f"locality {line['locality']:.4f}  weights {line['weight']:.3f} ± {line['spread']:.3f}"
    if found := line.get("held_out"):
        text += f"\n    unseen: before {found['before']:.3f} nats, learned weights {found['learned']:.3f}, as much "
        text += f"evenly {found['even']:.3f}, uniform {found['uniform']:.3f}"
    return text
