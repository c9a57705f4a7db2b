"""What goes into a bank and comes out: documents, parts as matrices, and the files these are mapped from."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.storage.files import write_atomically

DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Facts:
    """What a bank is made for.

    Attributes:
        vectors: T, vectors that one part becomes.
        width: D of each.
        key_width: Q of a part's key.
        networks: fingerprint of the networks that make them.
        dtype: what they are kept as, `float32` or `float16`.
        place: folder of the networks when the bank was made, to look for them there; empty for the bundled ones.
        model: likewise of the language model.
    """

    vectors: int
    width: int
    key_width: int
    networks: str
    dtype: str = "float32"
    place: str = field(default="", compare=False)
    model: str = field(default="", compare=False)


@dataclass(frozen=True)
class Entry:
    """A document in the bank.

    Attributes:
        id: its name.
        text: all of it.
        time: as the source wrote it.
        timestamp: the same in seconds since 1970, where it could be read.
        parts: how many rows it has.
        hash: of text and time, see `content_hash`.
        bytes: that its text, vectors and keys take.
    """

    id: str
    text: str
    time: str | None
    timestamp: float | None
    parts: int
    hash: str
    bytes: int


@dataclass(frozen=True)
class Addition:
    """A document to be added.

    Attributes:
        id: its name.
        text: all of it.
        time: as the source wrote it.
        timestamp: the same in seconds since 1970.
        vectors: of its P parts, (P, T, D).
        keys: of its parts, (P, Q).
    """

    id: str
    text: str
    time: str | None
    timestamp: float | None
    vectors: Tensor
    keys: Tensor

    def fitted(self, facts: Facts) -> "Addition":
        """Return the parts as a bank of these facts keeps them: on the CPU, of its type, without nan for a timestamp.

        Raises:
            DriftError: when shapes are others, a number is not finite or the text is not UTF-8.
        """
        parts = len(self.keys) if self.keys.dim() else 0
        shapes = (parts, facts.vectors, facts.width), (parts, facts.key_width)
        if (self.vectors.shape, self.keys.shape) != shapes:
            raise DriftError(
                f"document {self.id!r} has vectors {tuple(self.vectors.shape)} and keys {tuple(self.keys.shape)}, but "
                f"the bank keeps {shapes[0]} and {shapes[1]}; encode it with the bank's networks."
            )
        vectors, keys = (tensor.detach().to("cpu", DTYPES[facts.dtype]) for tensor in (self.vectors, self.keys))
        if not (vectors.isfinite().all() and keys.isfinite().all()):
            raise DriftError(
                f"document {self.id!r} has vectors or keys that are not finite in {facts.dtype}; encode it again, or "
                f"make a bank of float32."
            )
        try:
            "".join((self.id, self.text, self.time or "")).encode()
        except UnicodeEncodeError as error:
            raise DriftError(f"document {self.id!r} holds half a surrogate pair; give text that is UTF-8.") from error
        known = self.timestamp is not None and not math.isnan(self.timestamp)
        return replace(self, vectors=vectors, keys=keys, timestamp=self.timestamp if known else None)


@dataclass(frozen=True)
class Modulations:
    """The N parts of some documents, in the order of the bank.

    Attributes:
        vectors: what each part became, (N, T, D) float32 or float16; from a compacted bank mapped, not read.
        keys: what it is found by, (N, Q), of the same type.
        timestamps: seconds since 1970 of its document, (N,) float64; nan where unknown.
        owner: its document, (N,) int64, an index into `ids`.
        ids: the documents.

    >>> both = Modulations.cat([Modulations.empty(8, 32, 16), Modulations.empty(8, 32, 16)])
    >>> both.vectors.shape, both.documents
    (torch.Size([0, 8, 32]), 0)
    """

    vectors: Tensor
    keys: Tensor
    timestamps: Tensor
    owner: Tensor
    ids: list[str]

    @property
    def documents(self) -> int:
        """Return how many documents `ids` names, with parts or without."""
        return len(self.ids)

    def select(self, rows: Tensor) -> "Modulations":
        """Take some parts, by places (M,) int64 or by (N,) bool; `ids` stays, so that `owner` means the same."""
        return Modulations(self.vectors[rows], self.keys[rows], self.timestamps[rows], self.owner[rows], self.ids)

    @staticmethod
    def empty(vectors: int, width: int, key_width: int, dtype: torch.dtype = torch.float32) -> "Modulations":
        """Return no parts, of T vectors, width D and key width Q."""
        return Modulations(
            torch.empty(0, vectors, width, dtype=dtype),
            torch.empty(0, key_width, dtype=dtype),
            torch.empty(0, dtype=torch.float64),
            torch.empty(0, dtype=torch.int64),
            [],
        )

    @staticmethod
    def cat(several: Sequence["Modulations"]) -> "Modulations":
        """Put modulations one after the other; an id that is in two of them is one document.

        Raises:
            DriftError: when there are none, or of different T, D or Q.
        """
        shapes = {(tuple(one.vectors.shape[1:]), tuple(one.keys.shape[1:])) for one in several}
        if len(shapes) != 1:
            raise DriftError(
                f"modulations of shapes {sorted(shapes)} were to be joined; give one or more, all of the same shape."
            )
        places: dict[str, int] = {}
        owners = []
        for one in several:
            there = [places.setdefault(name, len(places)) for name in one.ids]
            owners.append(torch.tensor(there, dtype=torch.int64, device=one.owner.device)[one.owner])
        return Modulations(
            torch.cat([one.vectors for one in several]),
            torch.cat([one.keys for one in several]),
            torch.cat([one.timestamps for one in several]),
            torch.cat(owners),
            list(places),
        )


def content_hash(text: str, time: str | None) -> str:
    """Return the SHA-256 of a document's text and time, in hex."""
    return hashlib.sha256(json.dumps([text, time]).encode()).hexdigest()


def seal_of(id: str, timestamp: float | None, hashed: str, rows: bytes, parts: int) -> str:
    """Return the SHA-256 over all of a document's record that stays when it is moved, in hex."""
    return hashlib.sha256(json.dumps([id, timestamp, hashed, rows.hex(), parts]).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------ segment files


def segment_name(number: int) -> str:
    """Return the name of a segment's file."""
    return f"vectors-{number:08d}.safetensors"


def write_segment(path: Path, vectors: Tensor, keys: Tensor) -> None:
    """Write a file of `vectors` (N, T, D) and `keys` (N, Q) under its name; it is on disk when this returns."""
    tensors = {"vectors": vectors.contiguous(), "keys": keys.contiguous()}
    write_atomically(path, lambda partial: save_file(tensors, partial))


def map_segment(path: Path, facts: Facts, rows: int) -> tuple[Tensor, Tensor]:
    """Map a segment's `vectors` (N, T, D) and `keys` (N, Q) from the file: changing them does not change it.

    Raises:
        ValueError: what is wrong with it, as the end of a sentence that begins with its name.
    """
    try:
        with safe_open(path, "pt") as file:
            vectors, keys = file.get_tensor("vectors"), file.get_tensor("keys")
    except FileNotFoundError as error:
        raise ValueError("is missing") from error
    except (OSError, SafetensorError) as error:
        raise ValueError(f"is torn or cannot be read ({error})") from error
    shapes = (rows, facts.vectors, facts.width), (rows, facts.key_width)
    if (vectors.shape, keys.shape) != shapes or {vectors.dtype, keys.dtype} != {DTYPES[facts.dtype]}:
        raise ValueError("holds matrices of other shapes than were written")
    return vectors, keys


def gather(
    segments: Sequence[int],
    firsts: Sequence[int],
    parts: Sequence[int],
    facts: Facts,
    segment: Callable[[int], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Return `vectors` (N, T, D) and `keys` (N, Q) of documents: views when their rows stand together, else copies.

    Args:
        segments: of each document.
        firsts: its first row in it.
        parts: how many rows it has.
        facts: the shapes.
        segment: maps one.
    """
    place, first, count = (np.array(column, dtype=np.int64) for column in (segments, firsts, parts))
    place, first, count = place[count > 0], first[count > 0], count[count > 0]
    if not len(count):
        none = Modulations.empty(facts.vectors, facts.width, facts.key_width, DTYPES[facts.dtype])
        return none.vectors, none.keys
    goes_on = (place[1:] == place[:-1]) & (first[1:] == first[:-1] + count[:-1])
    starts = np.concatenate([[0], np.flatnonzero(~goes_on) + 1])
    runs = list(zip(place[starts].tolist(), first[starts].tolist(), np.add.reduceat(count, starts).tolist()))
    if len(runs) == 1:
        ((number, begin, length),) = runs
        vectors, keys = segment(number)
        return vectors[begin : begin + length], keys[begin : begin + length]
    total, dtype, done, latest = int(count.sum()), DTYPES[facts.dtype], 0, 0
    gathered = (
        torch.empty(total, facts.vectors, facts.width, dtype=dtype),
        torch.empty(total, facts.key_width, dtype=dtype),
    )
    for number, begin, length in runs:
        if number != latest:  # one is mapped at a time: the system limits how many
            (vectors, keys), latest = segment(number), number
        gathered[0][done : done + length] = vectors[begin : begin + length]
        gathered[1][done : done + length] = keys[begin : begin + length]
        done += length
    return gathered


def row_digests(vectors: Tensor, keys: Tensor) -> list[bytes]:
    """Return the SHA-256 of the bytes of each part, its vectors (T, D) and then its key (Q)."""
    rows = np.concatenate([vectors.flatten(1).numpy(), keys.numpy()], axis=1)
    return [hashlib.sha256(row.data).digest() for row in rows]
