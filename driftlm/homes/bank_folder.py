"""The verbs `bank` and `ask`: a bank that is kept in a folder, taught documents and asked questions."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from driftlm.core.errors import DriftError
from driftlm.memories.answering import answers, prompts_of
from driftlm.memories.bank.adapter import adapter_of
from driftlm.memories.bank.asked import AskedBank
from driftlm.memories.bank.modulations import Addition, Facts
from driftlm.memories.bank.networks import BankNetworks, load_networks
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.memories.bank.store import BankStore
from driftlm.memories.base import Supply
from driftlm.models.answers import answer_nats
from driftlm.models.loading import LanguageModel
from driftlm.models.machine import Machine
from driftlm.models.prompting import answer_ids, prompt_ids
from driftlm.runs import formats
from driftlm.storage.files import appearing, refuse_existing
from driftlm.streams.documents import Document, read_documents
from driftlm.streams.timestamps import timestamp_of

AT_A_TIME = 64  # documents between two acknowledgements
SHOWN = 5  # documents named with an answer


def facts_of(networks: BankNetworks, dtype: str) -> Facts:
    """Return what a bank of these networks is made for."""
    settings = networks.aggregator.settings
    return Facts(settings.vectors, settings.width, settings.key_width, networks.fingerprint(), dtype)


def add(
    files: tuple[str, ...], folder: Path, machine: Machine, networks: str, *, stdin: Any, half: bool
) -> Iterator[list[str]]:
    """Teach a bank documents, making it where there is none; yields the ids that are on disk now, some at a time."""
    documents = iter(read_documents(files, stdin=stdin))
    some = list(islice(documents, AT_A_TIME))  # what cannot be read leaves no bank behind
    store, made = opened(folder, machine, networks) if BankStore.there(folder) else (None, None)
    if store is None or made is None:
        store, made = created(folder, machine, networks, half)
    if half and store.facts.dtype != "float16":
        raise DriftError(f"`add.half` was given, but the bank {folder} keeps float32 already; leave `add.half` out.")
    with store:
        while some:
            yield taught(store, made, some)
            some = list(islice(documents, AT_A_TIME))


def opened(folder: Path, machine: Machine, networks: str) -> tuple[BankStore, BankNetworks]:
    """Return a bank and the networks for it: those given, those it was made with, or the bundled ones."""
    with BankStore.open(folder) as held:
        facts = held.facts
    made = load_networks(networks or facts.place or None, replace(machine, model=machine.model or facts.model).load())
    return BankStore.open(folder, facts_of(made, facts.dtype)), made


def created(folder: Path, machine: Machine, networks: str, half: bool) -> tuple[BankStore, BankNetworks]:
    """Return a new bank and its networks; the bank as it is where another process was faster."""
    made = load_networks(networks or None, machine.load())
    facts = facts_of(made, "float16" if half else "float32")
    try:
        return BankStore.create(folder, replace(facts, place=resolved(networks), model=resolved(machine.model))), made
    except DriftError:
        if not BankStore.there(folder):
            raise
        return BankStore.open(folder, facts), made


def resolved(place: str) -> str:
    """Return a folder by its full path; a hub name and nothing as they are."""
    return str(Path(place).resolve()) if place and Path(place).exists() else place


def taught(store: BankStore, networks: BankNetworks, documents: Iterable[Document]) -> list[str]:
    """Add documents; what the bank holds already is not read again."""
    fresh, latest = list[Document](), dict[str, Document]()
    for one in documents:
        before = latest.get(one.id)
        known = (
            (before.text, before.time) == (one.text, one.time) if before else store.holds(one.id, one.text, one.time)
        )
        latest[one.id] = one
        if not known:
            fresh.append(one)
    made = networks.amortize([one.text for one in fresh])
    store.add_many(
        [
            Addition(one.id, one.text, one.time, timestamp_of(one.time), vectors, keys)
            for one, (vectors, keys) in zip(fresh, made, strict=True)
        ]
    )
    return list(dict.fromkeys(one.id for one in fresh))


def listed(folder: Path) -> list[dict[str, Any]]:
    """Return every document, without its text."""
    with BankStore.open(folder) as store:
        return [{name: value for name, value in asdict(one).items() if name != "text"} for one in store.ls()]


def shown(folder: Path, document: str) -> dict[str, Any]:
    """A document, its text included."""
    with BankStore.open(folder) as store:
        return asdict(store.show(document))


def forget(folder: Path, documents: Iterable[str]) -> list[str]:
    """Forget documents, all of them or, where one is not known, none; returns their ids, each once.

    Raises:
        DriftError: for no document, or one that is not held.
    """
    ids = list(dict.fromkeys(documents))
    if not ids:
        raise DriftError("no document was named; give the ids that `driftlm bank ls` shows.")
    with BankStore.open(folder) as store:
        store.forget(*ids)
    return ids


def expire(folder: Path, before: str) -> list[str]:
    """Forget all documents from before a time; returns their ids. Those without a time stay.

    Raises:
        DriftError: for a time that cannot be read.
    """
    timestamp = timestamp_of(before)
    if timestamp is None:
        raise DriftError(
            f"`expire.before` was {before!r}; give a date such as 2024-05-01, a year, or seconds since 1970."
        )
    with BankStore.open(folder) as store:
        return store.expire(timestamp)


def verify(folder: Path) -> tuple[list[str], int]:
    """What is torn or was changed, a sentence each, and how many documents there are."""
    with BankStore.open(folder) as store:
        return store.verify(), len(store)


def compact(folder: Path) -> int:
    """Write the vectors anew, in one file that opens at once; returns how many documents there are."""
    with BankStore.open(folder) as store:
        store.compact()
        return len(store)


@torch.no_grad()
def ask(
    questions: tuple[str, ...],
    folder: Path,
    machine: Machine,
    networks: str,
    tokens: int,
    *,
    beams: int = 1,
    aggregation: Aggregation = EXACT,
) -> Iterator[dict[str, Any]]:
    """Yield the answers from a bank: `{question, answer, nats, documents: [{id, weight}]}`, nats of the answer and its
    end.

    Documents come by their share of the attention, the largest first. An empty bank leaves the plain language model.

    Raises:
        DriftError: for no question, an empty one, or a bank that cannot be read.
    """
    if not questions or not all(question.strip() for question in questions):
        raise DriftError("a question is missing or empty; give it in quotes.")
    if tokens < 1 or beams < 1:
        raise DriftError(f"`ask.tokens` was {tokens} and `ask.beams` {beams}; give at least 1 of each.")
    store, made = opened(folder, machine, networks)
    with store:
        bank, model = store.matrices(), made.language_model
        ready = AskedBank(made, bank, aggregation, several=len(questions) > 1) if bank.documents else None
        for question in questions:
            modulated, shares = ready.asked([question]) if ready else (None, torch.zeros(1, 0))
            documents = largest(shares[0], bank.ids)
            supply = Supply([""], modulated, [[(one["id"], one["weight"]) for one in documents]])
            prompt = prompts_of(model, [question], supply)
            refuse_longer(
                model, len(prompt[0]) + tokens + made.settings.vectors, f"a question of {len(prompt[0])} tokens"
            )
            answer = answers(model, prompt, supply, tokens, beams)[0].text
            nats, _, _ = answer_nats(model, prompt, [answer_ids(model, answer)], modulated)
            yield {"question": question, "answer": answer, "nats": nats.sum().item(), "documents": documents}


@torch.no_grad()
def export(
    question: str, folder: Path, machine: Machine, networks: str, to: Path, aggregation: Aggregation = EXACT
) -> dict[str, Any]:
    """Write what a bank says to one question as a PEFT folder: prefix tuning, or a LoRA, by the networks' modulation.

    Behind it plain transformers and peft give the prompt of `prompt_ids` the logits that `ask` answers with. Where the
    networks came with an adapter, the model with it merged is a HuggingFace folder `base` inside.

    Returns:
        `{question, folder, as, base, documents: [{id, weight}]}`.

    Raises:
        DriftError: for an empty question, an empty bank, a folder that exists, or a model that peft does not serve.
    """
    refuse_existing(to)
    if not question.strip():
        raise DriftError("the question is empty; give it in quotes.")
    store, made = opened(folder, machine, networks)
    with store:
        bank, model = store.matrices(), made.language_model
        if not bank.documents:
            raise DriftError(f"the bank {folder} is empty and says nothing to a question; add documents to it first.")
        modulated, shares = AskedBank(made, bank, aggregation).asked([question])
        documents = largest(shares[0], bank.ids)
    adapter = adapter_of(model, modulated, prompt_ids(model, question))
    merged = bool(getattr(model.model, "merged_adapter", ""))
    with appearing(to) as partial:
        if merged:
            formats.write(model, None, partial / formats.BASE)
        base = str(to.resolve() / formats.BASE) if merged else formats.base_for(model, to, partial)
        formats.write(model, adapter, partial, base)
    kind = adapter.peft_config["default"].peft_type.value
    return {"question": question, "folder": str(to), "as": kind, "base": base, "documents": documents}


def refuse_longer(model: LanguageModel, needed: int, what: str) -> None:
    """Refuse what the model has no positions for."""
    positions = model.positions
    if positions is not None and needed > positions:
        raise DriftError(
            f"{what} and its answer need {needed} positions, and {model.name!r} has {positions}; ask shorter."
        )


def largest(shares: torch.Tensor, ids: list[str]) -> list[dict[str, Any]]:
    """Return the documents of the largest shares (B,), each with its weight."""
    best = shares.topk(min(SHOWN, len(shares)))
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [{"id": ids[place], "weight": weight} for weight, place in pairs]
