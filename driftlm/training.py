"""The verb `train bank`: meta-train a bank's networks, watch them on unseen entities, stop and go on at any time."""

import json
import random
import shutil
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from driftlm.bank.batches import Batches, fact_batches, stream_batches
from driftlm.bank.networks import ADAPTER, BankNetworks, saved, with_adapter
from driftlm.bank.ranks import joined
from driftlm.bank.settings import BankTraining, NetworksSettings
from driftlm.bank.training import Losses, Trainer
from driftlm.durable import write_atomically
from driftlm.errors import DriftError
from driftlm.evaluation.answering import summarized
from driftlm.evaluation.asking import bank_of, from_bank, from_context
from driftlm.models.loading import load
from driftlm.options import Machine
from driftlm.streams.facts import facts
from driftlm.streams.questions import QuestionStream, read_questions

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
BANKS = (8, 64, 1024)  # sizes watched during the training
WATCHED = 64  # questions


def train(
    machine: Machine,
    networks: NetworksSettings,
    training: BankTraining,
    *,
    stream: str,
    out: Path,
    reader: str,
    start: str,
    autocast: bool,
    log: int,
    check: int,
) -> dict[str, Any] | None:
    """Train, or go on with the training that `out` holds; returns the last line of its log.

    Of several processes that were started together each does a share, the first one logs, checks and writes, and the
    others return None.

    Raises:
        DriftError: for a stream that cannot be read, other settings than the checkpoint's, or a lost loss.
    """
    if machine.threads:
        torch.set_num_threads(machine.threads)
    ranks, device = joined(machine.device)
    machine = replace(machine, device=device)
    language_model = load(machine.model or None, **machine.loading())
    adapter = Path(reader) / ADAPTER if (Path(reader) / ADAPTER).exists() else Path(reader)
    if reader and not (adapter / "adapter_config.json").exists():
        raise DriftError(f"--reader {reader} holds no PEFT adapter; give a folder with an adapter_config.json.")
    torch.manual_seed(training.seed)
    if reader:
        with_adapter(language_model, adapter)
    batches, held_out = sources(stream, training)
    made = BankNetworks(language_model, networks)
    if start:
        facts_of_start, weights = saved(Path(start))
        if NetworksSettings(**facts_of_start["settings"]) != networks:
            raise DriftError(
                f"the networks in {start} have other shapes than were asked for; give the same settings of networks."
            )
        made.load_state_dict(weights)
    trainer = Trainer(made, training, batches, autocast, ranks)
    spent, resumed = 0.0, (out / CHECKPOINT).exists()
    if resumed:
        trainer.restore(torch.load(out / CHECKPOINT, weights_only=True, map_location=language_model.device))
    if not ranks.first:
        while trainer.progress.step < training.steps:
            trainer.step()
        return None
    out.mkdir(parents=True, exist_ok=True)
    if resumed:
        kept = [line for line in lines_of(out / LOG) if line["step"] <= trainer.progress.step]
        (out / LOG).write_text("".join(json.dumps(line) + "\n" for line in kept))
        spent = kept[-1]["seconds"] if kept else 0.0
        say(f"going on at step {trainer.progress.step} of {training.steps}")
    elif held_out:
        ceiling = summarized(from_context(language_model, held_out[0], held_out[0].questions[:WATCHED]))
        say(f"with the document in its context the frozen model answers {ceiling['em']:.2f} of held-out questions")
        if ceiling["em"] < 0.9:
            say("it must read before a bank can teach it: tune it to answer from a document first, or expect little")
    line = through(trainer, held_out, out, log, check, spent)
    trainer.networks.eval().save(out)
    if reader and adapter.resolve() != (out / ADAPTER).resolve():
        shutil.copytree(adapter, out / ADAPTER, dirs_exist_ok=True)
    return line


def sources(stream: str, training: BankTraining) -> tuple[Batches, list[QuestionStream]]:
    """What is trained on, and streams of growing size to watch: names or documents never trained on."""
    if stream == "facts":
        held_out = [facts(size, seed=training.seed, split="validation", distractors=0.0) for size in BANKS]
        return fact_batches(training.batch, training.seed), held_out
    whole = read_questions(stream)
    documents = list(whole.documents)
    random.Random(training.seed).shuffle(documents)
    kept_out = {document.id for document in documents[: max(1, len(documents) // 20)]}
    learned, watched = (
        replace(
            whole,
            documents=tuple(d for d in whole.documents if (d.id in kept_out) == out),
            questions=tuple(q for q in whole.questions if (q.document in kept_out) == out),
        )
        for out in (False, True)
    )
    return stream_batches(learned, training.batch, training.seed), [watched] if watched.questions else []


def through(
    trainer: Trainer, held_out: list[QuestionStream], out: Path, log: int, check: int, spent: float
) -> dict[str, Any]:
    """Take the steps; log, check and checkpoint. Seconds count on from those `spent` before a stop."""
    began, losses = time.monotonic() - spent, []
    line = dict[str, Any]()
    while trainer.progress.step < trainer.settings.steps:
        losses.append(trainer.step())
        step = trainer.progress.step
        last = step == trainer.settings.steps
        if step % log == 0 or step % check == 0 or last:
            mean = Losses.mean(losses)
            line = {"step": step, "seconds": round(time.monotonic() - began, 1)}
            line |= {name: round(value, 4) for name, value in mean.means.items()}
            line |= {"kinds": {kind: round(share, 3) for kind, share in mean.kinds.items()}}
            line |= {"bank": trainer.progress.bank, "accuracy": round(trainer.progress.accuracy, 3)}
            if not torch.isfinite(torch.tensor(line["nats"])):
                raise DriftError(f"the loss is not a number at step {step}; go on from {out} with a lower --rate.")
            if step % check == 0 or last:
                line |= {"banks": checked(trainer.networks, held_out)}
            with (out / LOG).open("a") as file:
                file.write(json.dumps(line) + "\n")
            say(shown(line))
            losses = []
        if step % check == 0 or last:
            write_atomically(out / CHECKPOINT, lambda partial: torch.save(trainer.state(), partial))
            draw(out)
    return line


def draw(out: Path) -> None:
    """A chart of the log beside it, where the `report` extra is installed."""
    if find_spec("altair") and find_spec("vl_convert"):
        from driftlm.evaluation.training_chart import write_chart

        write_chart(lines_of(out / LOG), out)


def checked(networks: BankNetworks, held_out: list[QuestionStream]) -> list[dict[str, Any]]:
    """Strict exact match on held-out streams, each answered from its whole bank, by kind of question."""
    networks.eval()
    rows = []
    for stream in held_out:
        bank = bank_of(networks, stream.documents)
        found = summarized(from_bank(networks, bank, stream.questions[:WATCHED]))
        kinds = {kind: round(one["em"], 2) for kind, one in found["kinds"].items()}
        row = {"documents": len(stream.documents), "kinds": kinds}
        rows.append(row | {name: round(found[name], 3) for name in ("em", "nats", "weight")})
    return rows


def shown(line: dict[str, Any]) -> str:
    """A log line as a person reads it."""
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


def lines_of(path: Path) -> list[dict[str, Any]]:
    """A log's lines, a torn last one left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def say(text: str) -> None:
    """To stderr."""
    print(text, file=sys.stderr, flush=True)
