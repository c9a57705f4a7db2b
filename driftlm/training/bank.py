"""The verb `train bank`: meta-train a bank's networks, watch them on unseen entities, stop and go on at any time."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from driftlm.core.errors import DriftError
from driftlm.evaluation.answering import summarized
from driftlm.evaluation.asking import bank_of, from_bank, from_context
from driftlm.memories.bank.networks import ADAPTER, BankNetworks, saved, with_adapter
from driftlm.memories.bank.settings import BankTraining, NetworksSettings
from driftlm.models.loading import LanguageModel
from driftlm.models.machine import Machine
from driftlm.streams.facts import facts
from driftlm.streams.questions import QuestionStream
from driftlm.training.batches import Batches, fact_batches, stream_batches
from driftlm.training.loop import LOG, Loop, divided, lines_of, say
from driftlm.training.meta_training import Losses, Trainer
from driftlm.training.ranks import joined
from driftlm.training.settings import BankRun

BANKS = (8, 64, 1024)  # sizes watched during the training
WATCHED = 64  # questions


def train(
    machine: Machine,
    networks: NetworksSettings,
    training: BankTraining,
    run: BankRun,
) -> dict[str, Any] | None:
    """Train, or go on with the training that the folder of the run holds; returns the last line of its log.

    Of several processes that were started together each does a share, the first one logs, checks and writes, and the
    others return None.

    Raises:
        DriftError: for a stream that cannot be read, other settings than the checkpoint's, or a lost loss.
    """
    out = Path(run.out)
    ranks, device = joined(machine.device)
    machine = replace(machine, device=device)
    language_model = machine.load()
    torch.manual_seed(training.seed)
    adapter = merged(language_model, run.reader)
    batches, held_out = sources(run.stream, training)
    made = BankNetworks(language_model, networks)
    if run.start:
        facts_of_start, weights = saved(Path(run.start))
        if NetworksSettings(**facts_of_start["settings"]) != networks:
            raise DriftError(
                f"the networks in {run.start} have other shapes than were asked for; give the same settings of "
                f"networks."
            )
        made.load_state_dict(weights)
    trainer = Trainer(made, training, batches, run.autocast, ranks)
    loop = Loop(
        trainer,
        out,
        run.log,
        run.check,
        means=lambda losses: means(losses, trainer),
        checked=lambda: {"banks": checked(made, held_out)},
        shown=shown,
        written=lambda: draw(out),
        threads=machine.threads,
    )
    resumed = loop.resume(language_model.device)
    if not ranks.first:
        while trainer.progress.step < training.steps:
            trainer.step()
        return None
    out.mkdir(parents=True, exist_ok=True)
    if resumed:
        loop.trim()
    elif held_out:
        ceiling = summarized(from_context(language_model, held_out[0], held_out[0].questions[:WATCHED]))
        say(f"with the document in its context the frozen model answers {ceiling['em']:.2f} of held-out questions")
        if ceiling["em"] < 0.9:
            say("it must read before a bank can teach it: tune it to answer from a document first, or expect little")
    line = loop.run()
    trainer.networks.eval().save(out)
    if run.reader and adapter.resolve() != (out / ADAPTER).resolve():
        shutil.copytree(adapter, out / ADAPTER, dirs_exist_ok=True)
    return line


def merged(language_model: LanguageModel, reader: str) -> Path:
    """Merge the adapter of a folder, or of networks in it, into the model, where one is named; returns its place."""
    adapter = Path(reader) / ADAPTER if (Path(reader) / ADAPTER).exists() else Path(reader)
    if reader and not (adapter / "adapter_config.json").exists():
        raise DriftError(f"`BankRun.reader` {reader} holds no PEFT adapter; give a folder with an adapter_config.json.")
    if reader:
        with_adapter(language_model, adapter)
    return adapter


def sources(stream: str, training: BankTraining) -> tuple[Batches, list[QuestionStream]]:
    """Return what is trained on, and streams of growing size to watch: names or documents never trained on."""
    if stream == "facts":
        held_out = [facts(size, seed=training.seed, split="validation", distractors=0.0) for size in BANKS]
        return fact_batches(training.batch, training.seed), held_out
    learned, watched = divided(stream, training.seed)
    return stream_batches(learned, training.batch, training.seed), [watched] if watched.questions else []


def means(losses: Sequence[Losses], trainer: Trainer) -> dict[str, Any]:
    """Return a line's part about some steps."""
    mean = Losses.mean(losses)
    line: dict[str, Any] = {name: round(value, 4) for name, value in mean.means.items()}
    line |= {"kinds": {kind: round(share, 3) for kind, share in mean.kinds.items()}}
    return line | {"bank": trainer.progress.bank, "accuracy": round(trainer.progress.accuracy, 3)}


def draw(out: Path) -> None:
    """Draw a chart of the log beside it, where the `report` extra is installed."""
    if find_spec("altair") and find_spec("vl_convert"):
        from driftlm.report.training_chart import write_chart

        write_chart(lines_of(out / LOG), out)


def checked(networks: BankNetworks, held_out: list[QuestionStream]) -> list[dict[str, Any]]:
    """Return the strict exact match on held-out streams, each answered from its whole bank, by kind of question."""
    networks.eval()
    rows = []
    for stream in held_out:
        bank = bank_of(networks, stream.documents)
        found = summarized(from_bank(networks, bank, stream.questions[:WATCHED]))
        kinds = {kind: round(one["em"], 2) for kind, one in found["kinds"].items()}
        row = {"documents": len(stream.documents), "kinds": kinds}
        rows.append(row | {name: round(found[name], 3) for name in ("em", "f1", "nats", "weight")})
    return rows


def shown(line: dict[str, Any]) -> str:
    """Return a log line as a person reads it."""
    text = f"step {line['step']:>5} {line['seconds']:7.0f} s  answer {line['nats']:.3f} nats  "
    text += f"contrast {line['contrast']:.3f}  readout {line['readout']:.3f}  exact {line['exact']:.2f}  "
    text += f"attention {line['share']:.2f}  bank {line['bank']}"
    if line["kinds"]:
        kind, share = next(iter(line["kinds"].items()))
        text += f"  worst: {kind} {share:.2f}"
    for row in line.get("banks", []):
        text += f"\n    unseen, {row['documents']} documents: exact match {row['em']:.2f}, {row['nats']:.3f} nats, "
        text += f"attention on the right document {row['weight']:.2f}"
    return text
