"""A bank as a source of what was read: every document becomes a modulation, and a question aggregates the bank.

Letters: R questions, N entries, T vectors, D width.

After "Online Adaptation of Language Models with a Memory of Amortized Contexts" (arXiv 2403.04317).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from driftlm.core.errors import DriftError
from driftlm.memories.bank.asked import AskedBank
from driftlm.memories.bank.modulations import Modulations
from driftlm.memories.bank.networks import BankNetworks, load_networks
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.memories.base import State, Supply
from driftlm.models.loading import LanguageModel
from driftlm.streams.documents import Document
from driftlm.streams.timestamps import timestamp_of


def bank_of(networks: BankNetworks, documents: Sequence[Document]) -> Modulations:
    """Return the modulations of documents, in their order; timestamps are those that they name, else NaN."""
    made = list(networks.amortize([document.text for document in documents]))
    parts = [len(vectors) for vectors, _ in made]
    known = [timestamp_of(document.time) for document in documents]
    timestamps = torch.tensor([float("nan") if one is None else one for one in known], dtype=torch.float64)
    return Modulations(
        vectors=torch.cat([vectors for vectors, _ in made]),
        keys=torch.cat([keys for _, keys in made]),
        timestamps=timestamps.repeat_interleave(torch.tensor(parts)),
        owner=torch.arange(len(parts)).repeat_interleave(torch.tensor(parts)),
        ids=[document.id for document in documents],
    )


class BankSource:
    """Modulations of the documents read, in the order they were read: a later one is newer.

    Args:
        networks: of the bank, around the language model.
        aggregation: how the bank becomes one modulation.
    """

    modulates = True
    meta_trained = True

    def __init__(self, networks: BankNetworks, aggregation: Aggregation = EXACT) -> None:
        self.networks, self.aggregation = networks.eval(), aggregation
        self.language_model = networks.language_model
        self.positions = networks.positions
        self.reset()

    @staticmethod
    def shared(language_model: LanguageModel, settings: Any, own: Any) -> BankNetworks:
        """Load the networks around a model."""
        return load_networks(settings.networks or None, language_model)

    @classmethod
    def build(cls, language_model: LanguageModel, settings: Any, own: Any, shared: Any) -> "BankSource":
        """Make an empty bank of the networks that the settings name; arguments as of `Memory.build`."""
        return cls(shared or cls.shared(language_model, settings, own), settings.aggregation)

    def reset(self) -> None:
        """Begin with an empty bank."""
        settings = self.networks.aggregator.settings
        keys = settings.key_width if settings.document_score else 0
        self.hold(Modulations.empty(settings.vectors, settings.width, keys))

    def hold(self, bank: Modulations) -> None:
        """Take this as the bank from now on; it is made ready to be asked when it is."""
        self.bank = bank
        self.ready: dict[bool, AskedBank] = {}  # for one question, and for several

    @property
    def documents(self) -> Sequence[str]:
        """Return the ids, the oldest first."""
        return self.bank.ids

    def add(self, document: str, text: str) -> None:
        """Amortize a document, in place of an earlier one of its id; it counts as newer than those of known time."""
        known = self.bank.timestamps[~self.bank.timestamps.isnan()]
        newest = known.max().item() if len(known) else 0.0
        made = bank_of(self.networks, [Document(document, text)])
        self.drop(document)
        self.append(replace(made, timestamps=torch.full_like(made.timestamps, newest + 1)))

    def add_all(self, documents: Sequence[Document]) -> None:
        """Amortize documents in batches. What they say of their times tells which is newer, not their order."""
        latest = {document.id: document for document in reversed(documents)}
        for document in latest:
            self.drop(document)
        if latest:
            self.append(bank_of(self.networks, list(latest.values())[::-1]))

    def append(self, made: Modulations) -> None:
        """Add documents to the bank; an empty one is on no device yet."""
        self.hold(Modulations.cat([self.bank, made]) if self.bank.documents else made)

    def drop(self, document: str) -> None:
        """Leave a document out of the bank, whether or not it holds it: nothing else depends on its entries."""
        if document in self.bank.ids:
            place = self.bank.ids.index(document)
            left = self.bank.select(self.bank.owner != place)
            ids = [name for name in left.ids if name != document]
            self.hold(replace(left, owner=left.owner - (left.owner > place).long(), ids=ids))

    def supply(self, questions: Sequence[str]) -> Supply:
        """Return a modulation for every question, and the documents by their share of the attention."""
        several = len(questions) > 1
        if several not in self.ready:
            self.ready[several] = AskedBank(self.networks, self.bank, self.aggregation, several)
        modulated, shares = self.ready[several].asked(questions)
        largest = shares.cpu().sort(dim=1, descending=True, stable=True)
        named = [
            [(self.bank.ids[place], share) for share, place in zip(*row, strict=True)]
            for row in zip(largest.values.tolist(), largest.indices.tolist(), strict=True)
        ]
        return Supply([""] * len(questions), modulated, named)

    def state(self) -> State:
        """Return the bank's entries."""
        bank = self.bank
        held = {"vectors": bank.vectors, "keys": bank.keys, "moments": bank.timestamps, "owner": bank.owner}
        return State(
            {name: value.clone() for name, value in held.items()},
            {"ids": list(self.bank.ids), "networks": self.networks.fingerprint()},
        )

    def restore(self, state: State) -> None:
        """Go on exactly where `state` was taken.

        Raises:
            DriftError: when it was taken with other networks.
        """
        if state.values["networks"] != self.networks.fingerprint():
            raise DriftError("the state was taken with other bank networks; give those it was taken with.")
        held = {name: value.clone() for name, value in state.tensors.items()}
        held |= {name: held[name].to(self.language_model.device) for name in ("vectors", "keys")}
        self.hold(Modulations(timestamps=held.pop("moments"), **held, ids=list(state.values["ids"])))
