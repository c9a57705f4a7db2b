"""The verb `train`: what is learned beforehand, one kind a function."""

from collections.abc import Callable
from pathlib import Path

from driftlm.cli.output import said
from driftlm.core.errors import DriftError
from driftlm.memories.bank.settings import BankTraining, NetworksSettings
from driftlm.models.machine import Machine
from driftlm.training.settings import AnswerTraining, SalienceTraining


def train_bank(
    machine: Machine,
    networks: NetworksSettings,
    training: BankTraining,
    *,
    out: str,
    stream: str = "facts",
    reader: str = "",
    start: str = "",
    autocast: bool = False,
    log: int = 25,
    check: int = 100,
) -> int:
    """Meta-train the networks of a bank around a frozen model; the same command goes on after a stop.

    On several devices each takes a share of every batch: `accelerate launch --multi_gpu -m driftlm train bank ...`, or
    `torchrun --nproc-per-node 2 -m -- driftlm train bank ...`.

    Args:
        machine: which model.
        networks: their shapes.
        training: how they learn.
        out: folder for checkpoints, the log and the networks.
        stream: `facts`, or a file of documents with questions (SQuAD JSON, JSONL, CSV).
        reader: a PEFT adapter that teaches the model to answer from a document; part of the networks from then on.
        start: a folder of networks to begin with instead of random ones.
        autocast: compute encoders and model in bfloat16.
        log: steps between lines.
        check: steps between checkpoints, with answers to held-out questions.
    """
    from driftlm.training.bank import train

    refuse_intervals(log, check)
    last = train(
        machine,
        networks,
        training,
        stream=stream,
        out=Path(out),
        reader=reader,
        start=start,
        autocast=autocast,
        log=log,
        check=check,
    )
    return 0 if last is None else said({"the bank's networks": out}, False)  # of several processes, one speaks


def train_salience(
    machine: Machine,
    training: SalienceTraining,
    *,
    out: str,
    stream: str = "facts",
    reader: str = "",
    log: int = 10,
    check: int = 50,
) -> int:
    """Meta-train a network that weighs tokens, for `--salience camels`; the same command goes on after a stop.

    The network is trained so that after a gradient step on each of a few documents the model answers about them.

    Args:
        machine: which model reads, learns and answers.
        training: how the network learns.
        out: folder for checkpoints, the log and the network.
        stream: `facts`, or a file of documents with questions (SQuAD JSON, JSONL, CSV).
        reader: a PEFT adapter that teaches the model to answer, as `driftlm train qa` makes it.
        log: steps between lines.
        check: steps between checkpoints, with held-out questions.
    """
    from driftlm.training.salience import train

    refuse_intervals(log, check)
    train(machine, training, stream=stream, out=Path(out), reader=reader, log=log, check=check)
    return said({"the salience network": out}, False)


def train_qa(
    machine: Machine,
    training: AnswerTraining,
    *,
    out: str,
    stream: str = "facts",
    autocast: bool = False,
    log: int = 25,
    check: int = 100,
) -> int:
    """Tune a model, by a LoRA, to answer from a document in its context or from what it knows; goes on after a stop.

    Args:
        machine: which model.
        training: how it learns.
        out: folder for checkpoints, the log and the adapter: `OUT/adapter`, for `--reader OUT` and `--from`.
        stream: `facts`, or a file of documents with questions (SQuAD JSON, JSONL, CSV).
        autocast: compute in bfloat16.
        log: steps between lines.
        check: steps between checkpoints, with answers to held-out questions.
    """
    from driftlm.training.qa import train

    refuse_intervals(log, check)
    train(machine, training, stream=stream, out=Path(out), autocast=autocast, log=log, check=check)
    return said({"the adapter that answers": str(Path(out) / "adapter")}, False)


def refuse_intervals(log: int, check: int) -> None:
    """Refuse intervals below one step."""
    if min(log, check) < 1:
        raise DriftError(f"--log was {log} and --check {check}; give at least 1 of each.")


def train() -> int:
    """Train what is learned beforehand: bank, salience, qa (see `driftlm train --help`)."""
    raise DriftError(f"there is {', '.join(TRAIN_VERBS)} to train; say which: driftlm train bank --out DIR.")


TRAIN_VERBS: dict[str, Callable[..., int]] = {"bank": train_bank, "salience": train_salience, "qa": train_qa}
