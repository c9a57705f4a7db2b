"""Dense retrieval: documents by id, found by the product of their vectors with a question's; exact.

Letters: N documents, R texts, D width, k best.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from driftlm.core.errors import DriftError

AT_A_TIME = 32  # texts that an encoder is given


class Encoder(Protocol):
    """Makes texts into vectors whose products say how well they fit; a text's does not depend on those beside it.

    Attributes:
        fingerprint: of what it is made of.
    """

    fingerprint: str

    def documents(self, texts: Sequence[str]) -> Tensor:
        """Encode texts of documents as (R, D) float32."""

    def questions(self, texts: Sequence[str]) -> Tensor:
        """Encode texts of questions as (R, D) float32."""


class DenseIndex:
    """Vectors by id, in the order they were added; one that is replaced goes to the end.

    Vectors of removed documents stay until they are the larger part, and there is room for as many again whenever it
    grows: adding and removing N documents copies O(N) vectors.

    Args:
        encoder: of documents and questions; None where only vectors are added and searched.

    Example:
        >>> index = DenseIndex()
        >>> index.add_rows(["a", "b"], torch.eye(2))
        >>> index.nearest(torch.tensor([0.5, 2.0]), 2)
        [('b', 2.0), ('a', 0.5)]
    """

    def __init__(self, encoder: Encoder | None = None) -> None:
        self.encoder = encoder
        self.reset()

    def reset(self) -> None:
        """Hold nothing."""
        # A vector is a column, (D, room): the product with a question is then twice as fast as by rows.
        self.columns = torch.empty(0, 0)
        self.used, self.largest = 0, 0.0  # columns; an upper bound of their norms
        self.places: dict[str, int] = {}  # of the columns that count; ascending, as both grow at their ends
        self.dead: list[int] = []  # the others
        self.names: list[str] = []  # of every column

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the encoder."""
        return self.encoder.fingerprint if self.encoder else ""

    @property
    def documents(self) -> list[str]:
        """Return the ids, the oldest first."""
        return list(self.places)

    # ---- texts ------------------------------------------------------------------------------------------------------

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        """Keep documents, each in the place of an earlier one of its id."""
        parts = [texts[start : start + AT_A_TIME] for start in range(0, len(texts), AT_A_TIME)]
        if parts:
            self.add_rows(ids, torch.cat([self._encoder().documents(part) for part in parts]))

    def search(self, query: str, k: int) -> list[tuple[str, float]]:
        """Return the k best documents and their scores; equal ones as they were added."""
        return self.nearest(self._encoder().questions([query])[0], k) if self.places else []

    def _encoder(self) -> Encoder:
        if self.encoder is None:
            raise DriftError("this index has no encoder for texts; make it with one, or give it vectors.")
        return self.encoder

    # ---- vectors ----------------------------------------------------------------------------------------------------

    def add_rows(self, ids: Sequence[str], rows: Tensor) -> None:
        """Keep vectors, (R, D) of any floating type, each in the place of an earlier one of its id.

        Raises:
            DriftError: for another width than that of the vectors held, or numbers that are not finite.
        """
        if rows.ndim != 2 or len(rows) != len(ids) or (self.places and rows.shape[1] != len(self.columns)):
            raise DriftError(
                f"vectors of shape {tuple(rows.shape)} came for {len(ids)} documents and an index of "
                f"{len(self.columns)} numbers each; give one row a document, all of the index's width."
            )
        if not bool(rows.isfinite().all()):
            raise DriftError("a vector has numbers that are not finite; leave its document out.")
        newest = sorted({id: number for number, id in enumerate(ids)}.values())  # where an id comes for the last time
        ids, rows = [ids[number] for number in newest], rows[newest].float()
        self.drop(*(id for id in ids if id in self.places))
        if not self.places:
            self.reset()
        end = self.used + len(rows)
        if end > self.columns.shape[1]:
            grown = rows.new_empty(rows.shape[1], max(end, 2 * self.used))
            if self.used:
                grown[:, : self.used] = self.columns[:, : self.used]
            self.columns = grown
        self.columns[:, self.used : end] = rows.T
        self.largest = max([self.largest, *rows.norm(dim=1).tolist()])
        self.places |= {id: self.used + number for number, id in enumerate(ids)}
        self.names += ids
        self.used = end

    def drop(self, *ids: str) -> None:
        """Remove documents, all or none.

        Raises:
            DriftError: when one is not held.
        """
        unknown = [id for id in ids if id not in self.places]
        if unknown:
            raise DriftError(f"the index holds no document {unknown[0]!r}; give the id of one that was added.")
        self.dead += [self.places.pop(id) for id in dict.fromkeys(ids)]
        if len(self.dead) > len(self.places):
            self.columns = self.columns[:, list(self.places.values())]
            self.places = {id: number for number, id in enumerate(self.places)}
            self.names, self.dead, self.used = list(self.places), [], len(self.places)

    def nearest(self, question: Tensor, k: int) -> list[tuple[str, float]]:
        """Return the k best documents for a vector (D,) and their scores; equal ones as they were added.

        Products in float32 find who may be among them, in float64 who is: a score does not depend on what else is
        held, and equal vectors have equal ones.
        """
        if k < 1:
            raise DriftError(f"{k} documents were asked for; give 1 or more.")
        if not self.places:
            return []
        question = question.float().to(self.columns.device)
        scores = question @ self.columns[:, : self.used]  # (N,)
        if self.dead:
            scores[self.dead] = -torch.inf
        # The k-th best, and all that rounding could have put below it: a sum of D products is off by at most
        # D · eps · |row| · |question|, twice as two are compared.
        least = scores.topk(min(k, len(self.places))).values[-1]
        least = least - 2 * len(question) * torch.finfo(torch.float32).eps * self.largest * question.norm()
        chosen = (scores >= least).nonzero()[:, 0]
        exact = (self._vectors(chosen).double() * question.double()).sum(dim=1)
        best = exact.sort(descending=True, stable=True).indices[:k]
        return [(self.names[place], score) for place, score in zip(chosen[best].tolist(), exact[best].tolist())]

    # ---- state ------------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Return the vectors of the documents, (N, D), in their order."""
        return {"rows": self._vectors(torch.tensor(list(self.places.values()), dtype=torch.int64))}

    def restore(self, ids: Sequence[str], texts: Sequence[str], tensors: dict[str, Tensor]) -> None:
        """Hold these documents with their vectors; texts are not encoded again."""
        self.reset()
        if ids:
            self.add_rows(ids, tensors["rows"])

    def _vectors(self, places: Tensor) -> Tensor:
        return self.columns[:, places.to(self.columns.device)].T.contiguous()
