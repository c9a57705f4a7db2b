"""Trainings of a bank's tiny networks, and what they and others learn from."""

import json
from pathlib import Path
from typing import Any

import torch

from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import BankTraining, NetworksSettings
from driftlm.streams.facts import facts
from driftlm.training.batches import Batch, Batches
from driftlm.training.meta_training import Trainer
from driftlm.training.ranks import Ranks
from tests.support.build import language_model

SMALL = NetworksSettings(
    vectors=4, encoder_width=16, encoder_layers=1, encoder_heads=2, blocks=1, heads=2, head_width=8, key_width=8
)
ALONE = Ranks()
PLACES = ["Oslo", "Rome", "Bern", "Paris"]
FIXED = Batch(
    documents=[f"The {what} was seen in {place}." for what, place in zip(("hat", "red bat", "cat", "old rat"), PLACES)],
    timestamps=[0.1, 0.2, 0.3, 0.4],
    questions=[f"Where was the {what} seen?" for what in ("hat", "red bat", "cat", "old rat")],
    answers=PLACES,
    own=[[0], [1], [2], [3]],
    kinds=["place"] * 4,
)
LONG = Batch(
    documents=["The hat was seen in Oslo. " * 3, "The hat was seen in Rome. " * 2, "The cat was seen in Bern."],
    timestamps=[0.1, 0.2, 0.3],
    questions=["Where was the hat seen?", "Where was the cat seen?"],
    answers=["Rome", "Bern"],
    own=[[0, 1], [2]],
    kinds=["hat", "cat"],
)


def trainer(batches: Batches = lambda step: FIXED, ranks: Ranks = ALONE, **settings: Any) -> Trainer:
    """A training of the same networks at every call."""
    torch.manual_seed(0)
    model = language_model("llama")
    model.model.requires_grad_(False)
    chosen: dict[str, Any] = {"steps": 6, "batch": 4, "warm_up": 1, "remembered": 8} | settings
    return Trainer(BankNetworks(model, SMALL), BankTraining(**chosen), batches, ranks=ranks)


def facts_file(folder: Path, seed: int = 0) -> str:
    """A file of documents and questions."""
    stream, path = facts(60, seed=seed), folder / "facts.jsonl"
    lines = [{"id": one.id, "text": one.text} for one in stream.documents]
    asked = [{"question": q.text, "answers": list(q.answers), "document": q.document} for q in stream.questions]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *asked]))
    return str(path)
