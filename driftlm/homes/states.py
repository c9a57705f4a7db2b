"""States of a memory in files: only what differs from the prior, verified by hash.

The checkpoint is one file of tensors beside `checkpoint.json`, which names it: HOME/state/. Snapshots share their
tensors: each is a file of its own in HOME/snapshots/objects/, named by the SHA-256 of its bytes, and so are long texts.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save, save_file
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.memories.base import Memory, State
from driftlm.storage.checked_json import ranges, read_sealed, unranged, write_sealed
from driftlm.storage.files import sha256_of, sync, write_atomically

DIGEST = re.compile(r"[0-9a-f]{64}")
LONG_TEXT = 256  # characters from which a text is a file of its own
TEXT = "text in file"  # what stands for it, with its hash


@dataclass(frozen=True)
class Held:
    """A state at its place in the journal.

    Attributes:
        history: rows that it has read, in order.
        read: hash of those rows.
        state: all of it, tensors at the prior included.
    """

    history: list[int]
    read: str
    state: State


class Priors:
    """Parameters before the stream by their name in a memory's state; they need not be written, only told apart."""

    def __init__(self, memory: Memory) -> None:
        self.tensors = memory.priors()
        self.digests: dict[str, str] = {}

    def parted(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the tensors that differ from the prior, and the hashes of those that do not."""
        same = {name for name, value in tensors.items() if name in self.tensors and equal(value, self.tensors[name])}
        changed = {name: value.cpu().contiguous() for name, value in tensors.items() if name not in same}
        return changed, {name: self.digest(name) for name in sorted(same)}

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a prior's tensor."""
        if name not in self.digests:
            self.digests[name] = sha256(packed(self.tensors[name]))
        return self.digests[name]

    def filled(self, held: Mapping[str, str]) -> dict[str, Tensor]:
        """Return the tensors that were left out; `DriftError` when the prior is another one now."""
        for name, digest in held.items():
            if name not in self.tensors or self.digest(name) != digest:
                raise DriftError(f"the state was made with another prior of {name}; give the model it was made with.")
        return {name: self.tensors[name] for name in held}


def equal(one: Tensor, other: Tensor) -> bool:
    """Tell whether tensors are equal bit by bit, wherever they are."""
    return alike(one, other) and torch.equal(one, other.to(one.device))


def alike(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors are of one shape and type."""
    return one.shape == other.shape and one.dtype == other.dtype


def packed(tensor: Tensor) -> bytes:
    """Return a tensor as a safetensors file."""
    return bytes(save({"tensor": tensor.detach().cpu().contiguous()}))


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a plain file; links are no such."""
    if path.is_symlink() or not path.is_file():
        raise DriftError(f"{path} is missing or no plain file; put it back from a copy.")
    return sha256_of(path)


# ---- the checkpoint -----------------------------------------------------------------------------------------------


def write_checkpoint(folder: Path, held: Held, priors: Priors) -> None:
    """Write HOME/state: until this returns it is the old state or none, then the new one."""
    folder.mkdir(exist_ok=True)
    there = [path.name for path in folder.glob("tensors-*.safetensors")]
    number = 1 + max([int(name[8:-12]) for name in there if name[8:-12].isdigit()], default=0)
    tensors, prior = priors.parted(held.state.tensors)
    path = folder / f"tensors-{number}.safetensors"
    write_atomically(path, lambda partial: save_file(tensors, partial))
    facts = {
        "history": ranges(held.history),
        "read": held.read,
        "file": path.name,
        "digest": file_digest(path),
        "prior": prior,
        "values": held.state.values,
    }
    write_sealed(folder / "checkpoint.json", facts)
    for other in folder.iterdir():
        if other.name not in (path.name, "checkpoint.json"):
            other.unlink()


def read_checkpoint(folder: Path, priors: Priors | None) -> Held | None:
    """Return the state in HOME/state, None where there is none; without `priors` it is only checked.

    Raises:
        DriftError: when it is damaged, with what to do.
    """
    if not (folder / "checkpoint.json").exists() and not (folder / "checkpoint.json").is_symlink():
        return None
    advice = f"remove {folder}, and the home reads again from its latest snapshot or its start"
    try:
        facts = read_sealed(folder / "checkpoint.json")
        if not re.fullmatch(r"tensors-\d+\.safetensors", str(facts["file"])):
            raise DriftError(
                f"{folder / 'checkpoint.json'} names the file {facts['file']!r}, which is none of its own."
            )
        path = folder / facts["file"]
        if file_digest(path) != facts["digest"]:
            raise DriftError(f"{path} is not what was written.")
        tensors = load(path.read_bytes())
        history = unranged(facts["history"])
        whole = State(tensors | (priors.filled(facts["prior"]) if priors else {}), facts["values"])
        return Held(history, str(facts["read"]), whole)
    except DriftError as error:
        raise DriftError(f"{str(error).split('; ')[0].rstrip('.')}; {advice}.") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DriftError(f"{folder} holds no whole checkpoint; {advice}.") from error


# ---- objects ------------------------------------------------------------------------------------------------------


class Objects:
    """Files named by the SHA-256 of their bytes: tensors and texts, each once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, data: bytes, kind: str) -> str:
        """Keep bytes; their hash. On disk when this returns, under that name once the folder is synced."""
        self.folder.mkdir(parents=True, exist_ok=True)
        digest = sha256(data)
        path = self.folder / f"{digest}.{kind}"
        if not path.is_file() or file_digest(path) != digest:
            partial = path.with_name(path.name + ".partial")
            partial.write_bytes(data)
            sync(partial)
            partial.replace(path)
        return digest

    def get(self, digest: str, kind: str) -> bytes:
        """Return the bytes by their hash; `DriftError` when they are others."""
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise DriftError(f"{digest!r} was given for the hash of a file in {self.folder}; put the manifest back.")
        path = self.folder / f"{digest}.{kind}"
        if file_digest(path) != digest:
            raise DriftError(f"{path} is not what was written; put it back from a copy.")
        return path.read_bytes()

    def put_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Return the hashes by name."""
        return {name: self.put(packed(value), "safetensors") for name, value in tensors.items()}

    def tensor(self, digest: str) -> Tensor:
        """Return a tensor by its hash."""
        return load(self.get(digest, "safetensors"))["tensor"]

    def put_texts(self, values: Any) -> Any:
        """Return JSON values with the hash of each long text in its place."""
        if isinstance(values, str) and len(values) >= LONG_TEXT:
            return {TEXT: self.put(values.encode("utf-8", "surrogatepass"), "txt")}
        if isinstance(values, dict):
            return {name: self.put_texts(value) for name, value in values.items()}
        return [self.put_texts(value) for value in values] if isinstance(values, list | tuple) else values

    def texts(self, values: Any) -> Any:
        """Return what `put_texts` was given."""
        if isinstance(values, dict):
            if set(values) == {TEXT}:
                return self.get(values[TEXT], "txt").decode("utf-8", "surrogatepass")
            return {name: self.texts(value) for name, value in values.items()}
        return [self.texts(value) for value in values] if isinstance(values, list) else values

    def keep(self, live: Iterable[str]) -> int:
        """Remove every file but these (hash and kind, as it is named); bytes that were freed."""
        freed, kept = 0, set(live)
        for path in sorted(self.folder.glob("*")):
            if path.name not in kept:
                freed += path.lstat().st_size
                path.unlink()
        if freed:
            sync(self.folder)
        return freed


def text_digests(values: Any) -> set[str]:
    """Return the hashes of the long texts in values that `put_texts` gave."""
    if isinstance(values, dict):
        if set(values) == {TEXT}:
            return {str(values[TEXT])}
        values = list(values.values())
    return {digest for value in values for digest in text_digests(value)} if isinstance(values, list) else set()
