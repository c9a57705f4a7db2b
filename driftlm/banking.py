"""The verbs `bank` and `ask`: a bank that is kept in a folder, taught documents and asked questions."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from driftlm.bank.modulate import answer_nats, generate
from driftlm.bank.modulations import Addition, Facts
from driftlm.bank.networks import BankNetworks, load_networks
from driftlm.bank.store import BankStore
from driftlm.errors import DriftError
from driftlm.models.loading import load
from driftlm.models.prompting import answer_ids, prompt_ids
from driftlm.options import Machine
from driftlm.streams.documents import Document, read_documents
from driftlm.streams.moments import moment_of

BUNDLED = Path(__file__).parent / "bank" / "bundled"
MADE_BY = "made_by.json"  # which model and networks, by folder
AT_A_TIME = 64  # documents between two acknowledgements
SHOWN = 5  # documents named with an answer


def networks_for(folder: Path, machine: Machine, networks: str) -> BankNetworks:
    """The networks of a bank: those given, those it was made with, or the bundled ones."""
    if machine.threads:
        torch.set_num_threads(machine.threads)
    kept: dict[str, str] = json.loads((folder / MADE_BY).read_text()) if (folder / MADE_BY).exists() else {}
    place = networks or kept.get("networks", "")
    if not place and not BUNDLED.exists():
        raise DriftError("no networks come with this installation; give --networks DIR, made by driftlm train bank.")
    model = load(machine.model or kept.get("model") or None, **machine.loading())
    return load_networks(place or BUNDLED, model)


def facts_of(networks: BankNetworks, dtype: str) -> Facts:
    """What a bank of these networks is made for."""
    settings = networks.aggregator.settings
    return Facts(settings.vectors, settings.width, settings.key_width, networks.fingerprint(), dtype)


def add(
    files: tuple[str, ...], folder: Path, machine: Machine, networks: str, *, stdin: Any, half: bool
) -> Iterator[list[str]]:
    """Teach a bank documents, making it where there is none; yields the ids that are on disk now, some at a time."""
    made = networks_for(folder, machine, networks)
    if (folder / "bank.sqlite").exists():
        with BankStore.open(folder) as held:
            dtype = held.facts.dtype
        store = BankStore.open(folder, facts_of(made, dtype))
    else:
        store = BankStore.create(folder, facts_of(made, "float16" if half else "float32"))
        places = {"networks": resolved(networks), "model": resolved(machine.model)}
        partial = folder / (MADE_BY + ".partial")
        partial.write_text(json.dumps(places) + "\n")
        os.replace(partial, folder / MADE_BY)
    with store:
        documents = iter(read_documents(files, stdin=stdin))
        while some := list(islice(documents, AT_A_TIME)):
            yield taught(store, made, some)


def resolved(place: str) -> str:
    """A folder by its full path; a hub name and nothing as they are."""
    return str(Path(place).resolve()) if place and Path(place).exists() else place


def taught(store: BankStore, networks: BankNetworks, documents: Iterable[Document]) -> list[str]:
    """Add documents; what the bank holds already is not read again."""
    fresh = [one for one in documents if not store.holds(one.id, one.text, one.time)]
    made = networks.amortize([one.text for one in fresh])
    store.add_many(
        [
            Addition(one.id, one.text, one.time, moment_of(one.time), vectors, keys)
            for one, (vectors, keys) in zip(fresh, made, strict=True)
        ]
    )
    return [one.id for one in fresh]


def listed(folder: Path) -> list[dict[str, Any]]:
    """Every document, without its text."""
    with BankStore.open(folder) as store:
        return [{name: value for name, value in asdict(one).items() if name != "text"} for one in store.ls()]


@torch.no_grad()
def ask(
    questions: tuple[str, ...], folder: Path, machine: Machine, networks: str, longest: int
) -> Iterator[dict[str, Any]]:
    """Answers from a bank: `{question, answer, nats, documents: [{id, weight}]}`, nats those of the answer given.

    Documents come by their share of the attention, the largest first. An empty bank leaves the plain language model.

    Raises:
        DriftError: for no question, an empty one, or a bank that cannot be read.
    """
    if not questions or not all(question.strip() for question in questions):
        raise DriftError("a question is missing or empty; give it in quotes.")
    if longest < 1:
        raise DriftError(f"--tokens was {longest}; give at least 1.")
    with BankStore.open(folder) as held:
        dtype = held.facts.dtype
    made = networks_for(folder, machine, networks)
    with BankStore.open(folder, facts_of(made, dtype)) as store:
        bank = store.matrices()
        model = made.language_model
        for question in questions:
            prompt, prefix, documents = [prompt_ids(model, question)], None, []
            if bank.documents:
                prefix, shares = made.asked([question], bank.vectors, bank.keys, bank.moments)
                weights = torch.zeros(bank.documents).index_add(0, bank.owner, shares[0].float().cpu())
                best = weights.topk(min(SHOWN, bank.documents))
                documents = [
                    {"id": bank.ids[place], "weight": weight}
                    for weight, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
                ]
            answer = generate(model, prompt, prefix, longest)[0]
            nats, _, _ = answer_nats(model, prompt, [answer_ids(model, answer)], prefix)
            yield {"question": question, "answer": answer, "nats": nats.sum().item(), "documents": documents}
