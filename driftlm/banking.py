"""The verbs `bank` and `ask`: a bank that is kept in a folder, taught documents and asked questions."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from driftlm.bank.asked import AskedBank
from driftlm.bank.modulations import Addition, Facts
from driftlm.bank.networks import BankNetworks, load_networks
from driftlm.bank.settings import EXACT, Aggregation
from driftlm.bank.store import BankStore
from driftlm.durable import write_atomically
from driftlm.errors import DriftError
from driftlm.models.answers import answer_nats, generate
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
    kept: dict[str, str] = json.loads((folder / MADE_BY).read_text()) if (folder / MADE_BY).exists() else {}
    model = machine.model or kept.get("model", "")
    return networks_at(replace(machine, model=model), networks or kept.get("networks", ""))


def networks_at(machine: Machine, place: str) -> BankNetworks:
    """The networks in a folder, the bundled ones where none is named, around the machine's model."""
    if machine.threads:
        torch.set_num_threads(machine.threads)
    if not place and not BUNDLED.exists():
        raise DriftError("no networks come with this installation; give --networks DIR, made by driftlm train bank.")
    return load_networks(place or BUNDLED, load(machine.model or None, **machine.loading()))


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
        write_atomically(folder / MADE_BY, lambda partial: partial.write_text(json.dumps(places) + "\n"))
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
    questions: tuple[str, ...],
    folder: Path,
    machine: Machine,
    networks: str,
    longest: int,
    *,
    beams: int = 1,
    aggregation: Aggregation = EXACT,
) -> Iterator[dict[str, Any]]:
    """Answers from a bank: `{question, answer, nats, documents: [{id, weight}]}`, nats those of the answer given.

    Documents come by their share of the attention, the largest first. An empty bank leaves the plain language model.

    Raises:
        DriftError: for no question, an empty one, or a bank that cannot be read.
    """
    if not questions or not all(question.strip() for question in questions):
        raise DriftError("a question is missing or empty; give it in quotes.")
    if longest < 1 or beams < 1:
        raise DriftError(f"--tokens was {longest} and --beams {beams}; give at least 1 of each.")
    with BankStore.open(folder) as held:
        dtype = held.facts.dtype
    made = networks_for(folder, machine, networks)
    with BankStore.open(folder, facts_of(made, dtype)) as store:
        bank, model = store.matrices(), made.language_model
        ready = AskedBank(made, bank, aggregation, several=len(questions) > 1) if bank.documents else None
        for question in questions:
            prompt = [prompt_ids(model, question)]
            modulated, shares = ready.asked([question]) if ready else (None, torch.zeros(1, 0))
            answer = generate(model, prompt, modulated, longest, beams)[0]
            nats, _, _ = answer_nats(model, prompt, [answer_ids(model, answer)], modulated)
            documents = largest(shares[0], bank.ids)
            yield {"question": question, "answer": answer, "nats": nats.sum().item(), "documents": documents}


def largest(shares: torch.Tensor, ids: list[str]) -> list[dict[str, Any]]:
    """The documents of the largest shares (B,), each with its weight."""
    best = shares.topk(min(SHOWN, len(shares)))
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [{"id": ids[place], "weight": weight} for weight, place in pairs]
