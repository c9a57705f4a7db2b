"""A bank as a source of what was read: every document becomes a modulation, and a question aggregates the bank.

Letters: R questions, N entries, T vectors, D width.

After "Online Adaptation of Language Models with a Memory of Amortized Contexts" (arXiv 2403.04317).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from driftlm.bank.asked import AskedBank
from driftlm.bank.modulations import Modulations
from driftlm.bank.networks import BankNetworks
from driftlm.bank.settings import EXACT, Aggregation
from driftlm.errors import DriftError
from driftlm.memory import State, Supply


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
        self.positions = networks.settings.vectors if networks.settings.modulation == "prefix" else 0
        self.reset()

    def reset(self) -> None:
        """An empty bank."""
        settings = self.networks.aggregator.settings
        keys = settings.key_width if settings.document_score else 0
        self.hold(Modulations.empty(settings.vectors, settings.width, keys))

    def hold(self, bank: Modulations) -> None:
        """From now on this is the bank; it is made ready to be asked when it is."""
        self.bank = bank
        self.ready: AskedBank | None = None

    @property
    def documents(self) -> Sequence[str]:
        """Ids, the oldest first."""
        return self.bank.ids

    def add(self, document: str, text: str) -> None:
        """Amortize a document, in place of an earlier one of its id."""
        newest = self.bank.moments.max().item() if self.bank.documents else 0.0
        self.drop(document)
        ((vectors, keys),) = self.networks.amortize([text])
        moments = torch.full((len(vectors),), newest + 1, dtype=torch.float64)
        owner = torch.zeros(len(vectors), dtype=torch.int64)
        self.hold(Modulations.cat([self.bank, Modulations(vectors, keys, moments, owner, [document])]))

    def drop(self, document: str) -> None:
        """The bank without a document, whether or not it holds it: nothing else depends on its entries."""
        if document in self.bank.ids:
            place = self.bank.ids.index(document)
            left = self.bank.select(self.bank.owner != place)
            ids = [name for name in left.ids if name != document]
            self.hold(replace(left, owner=left.owner - (left.owner > place).long(), ids=ids))

    def supply(self, questions: Sequence[str]) -> Supply:
        """A modulation for every question, and the documents by their share of the attention."""
        bank = self.bank
        modulated, shares = self.networks.asked(questions, bank.vectors, bank.keys, bank.moments)
        weights = torch.zeros(len(questions), bank.documents).index_add(1, bank.owner, shares.float().cpu())
        order = weights.argsort(dim=1, descending=True, stable=True).tolist()
        named = [
            [(bank.ids[place], weights[row, place].item()) for place in places] for row, places in enumerate(order)
        ]
        return Supply([""] * len(questions), modulated, named)

    def state(self) -> State:
        """Its entries."""
        tensors = {name: getattr(self.bank, name).clone() for name in ("vectors", "keys", "moments", "owner")}
        return State(tensors, {"ids": list(self.bank.ids), "networks": self.networks.fingerprint()})

    def restore(self, state: State) -> None:
        """Go on exactly where `state` was taken.

        Raises:
            DriftError: when it was taken with other networks.
        """
        if state.values["networks"] != self.networks.fingerprint():
            raise DriftError("the state was taken with other bank networks; give those it was taken with.")
        held = {name: value.to(self.language_model.device, copy=True) for name, value in state.tensors.items()}
        self.hold(Modulations(**held, ids=list(state.values["ids"])))
