"""Named, immutable states of a home: HOME/snapshots/NAME.json, and the tensors and texts that all of them share.

A manifest is written when everything that it names is on disk, and removed before that is; so a snapshot is whole or
not there, and what a crash leaves behind is only room, which the next `prune` frees.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from driftlm import __version__
from driftlm.core.errors import DriftError
from driftlm.homes.journal import Entry
from driftlm.homes.states import Held, Objects, Priors, text_digests
from driftlm.memories.base import State
from driftlm.storage.checked_json import SEAL, ranges, read_sealed, unranged, write_sealed
from driftlm.storage.files import sync

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Snapshot:
    """What a manifest says.

    Attributes:
        name: of the snapshot.
        digest: SHA-256 of the manifest, which holds the hashes of all else: what identifies the state.
        created: when, ISO 8601 in UTC.
        history: rows of the journal that the state has read, in order.
        read: hash of those rows.
        document: id of the last document that was read; None before the first.
        time: of that document.
        driftlm: version that wrote it.
        model: fingerprint of the model.
        settings: of the home.
        tensors: hashes of the tensors that differ from the prior, by name.
        prior: hashes of those that do not; they are not written.
        values: JSON, long texts by their hashes.
    """

    name: str
    digest: str
    created: str
    history: list[int]
    read: str
    document: str | None
    time: str | None
    driftlm: str
    model: str
    settings: dict[str, Any]
    tensors: dict[str, str]
    prior: dict[str, str]
    values: dict[str, Any]

    @property
    def files(self) -> set[str]:
        """Return the names of the objects it refers to."""
        return {f"{digest}.safetensors" for digest in self.tensors.values()} | {
            f"{digest}.txt" for digest in text_digests(self.values)
        }


@dataclass(frozen=True)
class Change:
    """What became of a tensor between two snapshots.

    Attributes:
        tensor: its name.
        norm: L2 norm of the difference; of the tensor itself where only one of them has it.
        relative: the same, divided by the norm of the earlier one; None where that is zero or not there.
    """

    tensor: str
    norm: float
    relative: float | None


class Snapshots:
    """The snapshots of a home; made, restored and removed by who holds the home."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.objects = folder, Objects(folder / "objects")

    def path(self, name: str) -> Path:
        """Return the path of a manifest; `DriftError` for what is no name."""
        if not NAME.fullmatch(name):
            raise DriftError(
                f"{name!r} is no name of a snapshot; give up to 64 letters, digits, -, _ and . (the first no - or .)."
            )
        return self.folder / f"{name}.json"

    def names(self) -> list[str]:
        """Return the names of all manifests, damaged ones as well, in the order of the alphabet."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def ls(self) -> list[Snapshot]:
        """Return all snapshots, the oldest first."""
        return sorted(map(self.read, self.names()), key=lambda one: (one.created, one.name))

    def read(self, name: str) -> Snapshot:
        """Return a manifest.

        Raises:
            DriftError: when there is none of that name, or a damaged one.
        """
        path = self.path(name)
        if not path.exists() and not path.is_symlink():
            raise DriftError(f"there is no snapshot {name!r}; `driftlm snapshot ls` shows those that there are.")
        facts = read_sealed(path)
        try:
            digest, history = facts.pop(SEAL), unranged(facts.pop("history"))
            del facts["format"]
            found = Snapshot(digest=digest, history=history, **facts)
            if not all(isinstance(held, dict) for held in (found.tensors, found.prior, found.values, found.settings)):
                raise TypeError
        except (KeyError, TypeError, ValueError) as error:
            raise DriftError(f"{path} is no manifest of a snapshot; put it back from a copy.") from error
        if found.name != name:
            raise DriftError(f"{path} is the manifest of the snapshot {found.name!r}; give it its own name back.")
        return found

    def make(self, name: str, held: Held, priors: Priors, last: Entry | None, about: dict[str, Any]) -> Snapshot:
        """Write a state under a name that is free.

        Args:
            name: letters, digits, `-`, `_` and `.`.
            held: what is kept.
            priors: of the memory it is a state of.
            last: the last document of its history.
            about: `model` and `settings`.

        Raises:
            DriftError: when the name is taken.
        """
        if self.path(name).exists() or self.path(name).is_symlink():
            raise DriftError(f"there is a snapshot {name!r} already, and snapshots never change; give another name.")
        return self.write(name, held, priors, last, about, datetime.now(UTC).isoformat(timespec="milliseconds"))

    def write(
        self, name: str, held: Held, priors: Priors, last: Entry | None, about: dict[str, Any], created: str
    ) -> Snapshot:
        """Write a state under a name, in place of another that must go: objects first, the manifest once they are."""
        self.folder.mkdir(exist_ok=True)
        sync(self.folder.parent)
        tensors, prior = priors.parted(held.state.tensors)
        facts = {
            "name": name,
            "created": created,
            "history": ranges(held.history),
            "read": held.read,
            "document": None if last is None else last.id,
            "time": None if last is None else last.time,
            "driftlm": __version__,
            **about,
            "tensors": self.objects.put_tensors(tensors),
            "prior": prior,
            "values": self.objects.put_texts(held.state.values),
        }
        if self.objects.folder.exists():
            sync(self.objects.folder)
        write_sealed(self.path(name), facts)
        return self.read(name)

    def load(self, snapshot: Snapshot, priors: Priors) -> Held:
        """Return the state of a snapshot, every byte checked."""
        try:
            tensors = {name: self.objects.tensor(digest) for name, digest in snapshot.tensors.items()}
            values = self.objects.texts(snapshot.values)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise DriftError(
                f"the tensors of snapshot {snapshot.name!r} cannot be read ({error}); put them back from a copy."
            ) from error
        return Held(snapshot.history, snapshot.read, State(tensors | priors.filled(snapshot.prior), values))

    def prune(self, names: Sequence[str] = ()) -> int:
        """Remove snapshots, and the objects that none of the others refers to; bytes that were freed.

        Raises:
            DriftError: for an unknown name, and then nothing is removed.
        """
        for name in names:
            if name not in self.names():
                self.read(name)
        kept = [self.read(name) for name in self.names() if name not in names]  # a damaged one refers to who knows what
        freed = 0
        for name in names:
            freed += self.path(name).lstat().st_size
            self.path(name).unlink()
        if names:
            sync(self.folder)
        return freed + self.objects.keep({file for one in kept for file in one.files})

    def verify(self) -> list[str]:
        """Return what is wrong, a sentence each; objects that nothing refers to are no fault."""
        found, checked = list[str](), set[str]()
        for name in self.names():
            try:
                snapshot = self.read(name)
            except DriftError as error:
                found.append(str(error))
                continue
            for file in sorted(snapshot.files - checked):
                checked.add(file)
                try:
                    digest, _, kind = file.rpartition(".")
                    self.objects.get(digest, kind)
                except DriftError as error:
                    found.append(str(error))
        return found

    def diff(self, one: Snapshot, other: Snapshot, priors: Priors) -> list[Change]:
        """Return the tensors that are not the same in two snapshots, the largest change first."""
        before, after = one.tensors | one.prior, other.tensors | other.prior
        changes = []
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) == after.get(name):
                continue
            first, second = (self.tensor_of(snapshot, name, priors) for snapshot in (one, other))
            if first is None or second is None or first.shape != second.shape:
                moved = second if second is not None else first
                changes.append(Change(name, 0.0 if moved is None else norm(moved), None))
                continue
            size, whole = norm(second.double() - first.double()), norm(first)
            changes.append(Change(name, size, size / whole if whole else None))
        return sorted(changes, key=lambda change: -change.norm)

    def tensor_of(self, snapshot: Snapshot, name: str, priors: Priors) -> torch.Tensor | None:
        """Return a tensor of a snapshot, None where it has none of that name."""
        if name in snapshot.tensors:
            return self.objects.tensor(snapshot.tensors[name])
        return priors.filled({name: snapshot.prior[name]})[name].cpu() if name in snapshot.prior else None


def described(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as `snapshot ls --json` has it."""
    facts = asdict(snapshot)
    for name in ("history", "values", "tensors", "prior", "settings"):
        del facts[name]
    return facts | {"documents": len(snapshot.history), "changed": len(snapshot.tensors), "same": len(snapshot.prior)}


def norm(tensor: torch.Tensor) -> float:
    """Return the L2 norm, in float64."""
    return float(tensor.double().norm())
