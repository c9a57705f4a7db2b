"""The verb `train`: what is learned beforehand, one kind a function."""

from collections.abc import Callable
from pathlib import Path

from driftlm.cli.output import said
from driftlm.core.errors import DriftError
from driftlm.memories.bank.settings import BankTraining, NetworksSettings
from driftlm.models.machine import Machine
from driftlm.training.settings import AnswerRun, AnswerTraining, BankRun, SalienceRun, SalienceTraining


def train_bank(machine: Machine, networks: NetworksSettings, training: BankTraining, run: BankRun) -> int:
    """Meta-train the networks of a bank around a frozen model; the same command goes on after a stop.

    On several devices each takes a share of every batch: `accelerate launch --multi_gpu -m driftlm train bank ...`, or
    `torchrun --nproc-per-node 2 -m -- driftlm train bank ...`.

    Args:
        machine: which model.
        networks: their shapes.
        training: how they learn.
        run: what they learn from, and where they are kept.
    """
    from driftlm.training.bank import train

    last = train(machine, networks, training, run)
    return 0 if last is None else said({"the bank's networks": run.out}, False)  # of several processes, one speaks


def train_salience(machine: Machine, training: SalienceTraining, run: SalienceRun) -> int:
    """Meta-train a network that weighs tokens, for `--salience camels`; the same command goes on after a stop.

    The network is trained so that after a gradient step on each of a few documents the model answers about them.

    Args:
        machine: which model reads, learns and answers.
        training: how the network learns.
        run: what it learns from, and where it is kept.
    """
    from driftlm.training.salience import train

    train(machine, training, run)
    return said({"the salience network": run.out}, False)


def train_qa(machine: Machine, training: AnswerTraining, run: AnswerRun) -> int:
    """Tune a model, by a LoRA, to answer from a document in its context or from what it knows; goes on after a stop.

    Args:
        machine: which model.
        training: how it learns.
        run: what it learns from, and where it is kept.
    """
    from driftlm.training.qa import train

    train(machine, training, run)
    return said({"the adapter that answers": str(Path(run.out) / "adapter")}, False)


def train() -> int:
    """Train what is learned beforehand: bank, salience, qa (see `driftlm train --help`)."""
    raise DriftError(f"there is {', '.join(TRAIN_VERBS)} to train; say which: driftlm train bank --out DIR.")


TRAIN_VERBS: dict[str, Callable[..., int]] = {"bank": train_bank, "salience": train_salience, "qa": train_qa}
