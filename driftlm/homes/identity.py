"""What belongs together in a home: its `home.json`, its model, its journal, and one process that has it open."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.homes.journal import Journal, facts_of
from driftlm.homes.states import Held
from driftlm.memories.bank.settings import Aggregation
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.learning import Learning
from driftlm.models.loading import LanguageModel
from driftlm.storage import locks
from driftlm.storage.checked_json import read_sealed
from driftlm.streams.windows import Windows


def described(folder: str | Path) -> dict[str, Any]:
    """Return what `home.json` says: `model`, `machine`, `settings`, `created`, `driftlm`.

    Raises:
        DriftError: when the folder holds no home, or one whose `home.json` is damaged.
    """
    folder = Path(folder)
    if not (folder / "home.json").is_file():
        raise DriftError(f"{folder} holds no home; give the folder of one, or make one with `driftlm home new`.")
    facts = read_sealed(folder / "home.json")
    if not all(isinstance(facts.get(name), dict) for name in ("model", "machine", "settings")):
        raise DriftError(f"{folder / 'home.json'} is damaged; put it back from a copy.")
    return facts


@contextmanager
def journal_of(folder: str | Path) -> Iterator[Journal]:
    """What the home in a folder has read, without its model.

    Raises:
        DriftError: when the folder holds no home, or one that is damaged.
    """
    described(folder)
    with closing(Journal.open(Path(folder) / "journal.sqlite")) as journal:
        yield journal


def listed(folder: str | Path) -> list[dict[str, Any]]:
    """What the home in a folder has read, in order, without the texts."""
    with journal_of(folder) as journal:
        return [facts_of(entry) for entry in journal.entries(sorted(journal.hashes()))]


def settings_of(facts: Mapping[str, Any]) -> MemorySettings:
    """Return the settings in what `described` gives."""
    held = facts["settings"]
    try:
        parts: dict[str, Any] = {"windows": Windows.of(held["windows"]), "learning": Learning(**held["learning"])}
        if "aggregation" in held:
            parts["aggregation"] = Aggregation(**held["aggregation"])
        return MemorySettings(**{**held, **parts, "sources": tuple(held["sources"])})
    except (KeyError, TypeError) as error:
        raise DriftError("home.json holds settings that this driftlm does not know; update driftlm.") from error


def about_model(language_model: LanguageModel) -> dict[str, Any]:
    """Return what tells a model from others; the adapter is one that a bank's networks merged into it."""
    return {
        "name": language_model.place,
        "fingerprint": language_model.fingerprint,
        "adapter": getattr(language_model.model, "merged_adapter", ""),
        **({"sha256": language_model.sha256} if language_model.sha256 else {}),
    }


def refuse_other_model(folder: Path, held: Mapping[str, Any], language_model: LanguageModel) -> None:
    """Refuse a model other than the one of a state, which means nothing on another."""
    adapter = about_model(language_model)["adapter"]
    if not language_model.goes_by(str(held.get("fingerprint"))) or held.get("adapter") != adapter:
        raise DriftError(
            f"the home {folder} was made with the model {held.get('name')!r} as it was then, not with "
            f"{language_model.name!r} as it is; give that one."
        )


def refuse_other_journal(folder: Path, journal: Journal, held: Held) -> bool:
    """Tell whether the checkpoint has read rows that were forgotten since; refuse an older or another journal."""
    hashes, gone = journal.hashes(), set(held.history) - journal.forgotten()
    if gone - hashes.keys():
        raise DriftError(
            f"{journal.path} is older than the state beside it and lacks documents that were read; put the newer one "
            f"back."
        )
    if gone != set(held.history):
        return True
    if read_digest(hashes, held.history) != held.read:
        raise DriftError(
            f"{journal.path} holds other documents than the state in {folder} has read; put back what belongs together."
        )
    return False


def read_digest(hashes: Mapping[int, str], history: Sequence[int]) -> str:
    """Return the SHA-256 of the hashes of some rows."""
    digest = hashlib.sha256()
    for seq in history:
        digest.update(hashes[seq].encode())
    return digest.hexdigest()


def locked(folder: Path, what: str = "the home") -> int:
    """A lock of the folder, as `storage.locks` has it."""
    return locks.locked(folder, what)
