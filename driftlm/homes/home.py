"""A memory that lives in a folder: what it acknowledged to have read outlives kill -9, and every earlier state is near.

HOME/home.json        what the memory is made of; written last, when the home is made
HOME/journal.sqlite   every document, in order
HOME/state/           the checkpoint: the state behind some row of the journal
HOME/snapshots/       named states
HOME/followed.jsonl   how far files and folders were read

The present state is always the checkpoint, or a snapshot, and an exact reading of the rows behind it: the same bits on
the same machine with the same versions and threads.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from driftlm import __version__
from driftlm.core.errors import DriftError
from driftlm.homes import points
from driftlm.homes.completing import Sampling, turn
from driftlm.homes.decoding import complete
from driftlm.homes.identity import (
    about_model,
    described,
    locked,
    refuse_other_journal,
    refuse_other_model,
    settings_of,
)
from driftlm.homes.journal import Entry, Journal
from driftlm.homes.replay import Base, Replay
from driftlm.homes.snapshots import Snapshot, Snapshots
from driftlm.homes.states import read_checkpoint, write_checkpoint
from driftlm.memories.base import Answer
from driftlm.memories.build import memory_for, shared_by
from driftlm.memories.loop import Step
from driftlm.memories.settings import MemorySettings
from driftlm.models.loading import LanguageModel, fitted
from driftlm.models.machine import Machine
from driftlm.models.prompting import LONGEST_ANSWER
from driftlm.storage.checked_json import write_sealed
from driftlm.storage.files import sync
from driftlm.storage.locks import refuse_without_locks
from driftlm.streams.documents import Document

CHECKPOINT_SECONDS = 60.0  # of reading that an opening has to do again at most, one document aside
UNFINISHED = {"journal.sqlite", "journal.sqlite-journal", "home.json.partial"}  # of a creation that was cut short


class Home:
    """A memory in its folder, open; made by `create` and `open`, to be used by one thread at a time.

    A document is in the journal, on disk, when `read` returns: it is acknowledged. What is read under the id of an
    earlier document is a newer version of it: sources replace the earlier one, weights have learned from both. The
    same text and time under the same id once more is not read again, so that whoever lost an acknowledgement may send
    the document a second time.

    Args:
        folder: of the home.
        facts: what `home.json` says.
        language_model: stays as it is; homes and tenants can share it.
        shared: what its sources share with those of other homes, by name.
        lock: the folder's descriptor, locked.
        checkpoint: seconds of reading between two checkpoints.

    Attributes:
        replay: takes the memory to other histories, and says what that costs.
        memory: the memory itself, to be scored and asked; only the home may let it learn.
        history: rows of the journal that it has read, in order.

    Example (needs nothing but the installed package):
        >>> from tempfile import TemporaryDirectory
        >>> from driftlm import Learning, Windows, load
        >>> settings = MemorySettings(Windows("cached", 64, 32), Learning(learning_rate=1e-3))
        >>> model, place = load(), TemporaryDirectory()
        >>> with Home.create(Path(place.name, "home"), model, settings) as home:
        ...     _ = home.snapshot("empty")
        ...     home.read(Document("a", "It was a dark and stormy night.")).totals.tokens
        10
        >>> with Home.open(Path(place.name, "home"), model) as home:
        ...     home.restore(home.point(snapshot="empty"))
        ...     len(home.history)
        0
        >>> place.cleanup()
    """

    def __init__(
        self,
        folder: Path,
        facts: dict[str, Any],
        language_model: LanguageModel,
        shared: Mapping[str, Any] | None,
        lock: int,
        checkpoint: float,
    ) -> None:
        self.folder, self.facts, self.lock, self.every = folder, facts, lock, checkpoint
        self.settings = settings_of(facts)
        language_model.goes_by(facts["model"].get("fingerprint"))  # before anything is named after it
        shared = shared_by(self.settings, language_model, shared)
        refuse_other_model(folder, facts["model"], language_model)
        self.journal = Journal.open(folder / "journal.sqlite")
        try:
            self.memory = memory_for(self.settings, language_model, shared)
            self.snapshots = Snapshots(folder / "snapshots")
            about = {"model": facts["model"]["fingerprint"], "settings": facts["settings"]}
            compare = self.settings.compare == "static"
            threads = int(facts["machine"].get("threads", 0))
            self.replay = Replay(self.memory, compare, self.journal, self.snapshots, folder / "state", about, threads)
            self.history: list[int] = []
            self.unsaved = 0.0
            self.bring_back()
            self.journal.wipe()
            if (folder / "state").exists() and self.replay.saved is None:  # it may hold what was forgotten
                self.checkpoint()
        except BaseException:
            self.journal.close()
            raise

    # ---- making, opening, closing -----------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        folder: str | Path,
        language_model: LanguageModel,
        settings: MemorySettings,
        shared: Mapping[str, Any] | None = None,
        *,
        machine: Machine = Machine(),  # noqa: B008 - frozen
        checkpoint: float = CHECKPOINT_SECONDS,
    ) -> "Home":
        """Return a new home in a folder that is made where it does not exist.

        Args:
            folder: empty, or not there yet.
            language_model: the model; it stays as it is.
            settings: what the memory is made of.
            shared: what `memories.build.shared_by` gave, where other homes use it as well; else it is loaded.
            machine: how the model was loaded, for who opens the home by its folder alone.
            checkpoint: seconds of reading between two checkpoints.

        Raises:
            DriftError: when there is a home already, or anything else.
        """
        refuse_without_locks()
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - UNFINISHED):
            raise DriftError(f"{folder} exists and is not empty; give a new folder for the home.")
        place = str(Path(settings.networks).resolve()) if settings.networks else ""
        windows = fitted(language_model, settings.windows)
        settings = replace(settings, windows=windows, learning=settings.learning.settled(), networks=place)
        shared = shared_by(settings, language_model, shared)
        memory_for(settings, language_model, shared)  # what cannot work is refused before there is a folder
        folder.mkdir(parents=True, exist_ok=True)
        lock = locked(folder)
        try:
            Journal.create(folder / "journal.sqlite").close()
            facts = {
                "driftlm": __version__,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "model": about_model(language_model),
                "machine": asdict(machine),
                "settings": settings.described(),
            }
            write_sealed(folder / "home.json", facts)
            sync(folder.absolute().parent)
            return cls(folder, described(folder), language_model, shared, lock, checkpoint)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def open(
        cls,
        folder: str | Path,
        language_model: LanguageModel,
        shared: Mapping[str, Any] | None = None,
        *,
        checkpoint: float = CHECKPOINT_SECONDS,
    ) -> "Home":
        """Return the home in a folder, as it was behind the last acknowledged document. Arguments as of `create`.

        Raises:
            DriftError: when it holds none or a damaged one, which is left as it is; when it was made with another
                model; when it is open already.
        """
        facts = described(folder)
        lock = locked(Path(folder))
        try:
            return cls(Path(folder), facts, language_model, shared, lock, checkpoint)
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Write a checkpoint where there is something new, and let go of the folder."""
        if self.lock < 0:
            return
        try:
            if self.replay.at == self.history != (self.replay.saved or []):
                self.checkpoint()
        finally:
            self.journal.close()
            os.close(self.lock)
            self.lock, self.replay.at = -1, None

    def __enter__(self) -> "Home":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- reading ----------------------------------------------------------------------------------------------------

    def read(
        self,
        document: Document,
        watch: Callable[[Step], None] = lambda step: None,
        between: Callable[[], None] = lambda: None,
    ) -> Entry:
        """Score a document, learn from it, keep it; acknowledged when this returns.

        Args:
            document: to read.
            watch: gets every window when it was scored, before it is learned from.
            between: called between two windows; the memory may be asked there, by its weights as they are, and the
                reading is the same as without. Nothing else can be done with the home before the document's end.

        Raises:
            DriftError: for one that cannot be read; the home is as before.
        """
        self.refuse_unready()
        known = self.newest(document.id)
        if known is not None and known.document == document:
            return known
        try:
            totals = self.replay.learn(document, True, watch, between)
            entry = self.journal.append(document, totals)
            self.history.append(entry.seq)
            self.replay.at = self.history
        except Exception:
            if self.replay.at is None:
                self.bring_back()
            raise
        self.unsaved += totals.seconds
        if self.unsaved >= self.every:
            self.checkpoint()
        return entry

    def newest(self, id: str) -> Entry | None:
        """Return the version of a document that the memory has read last."""
        entries = [self.journal.entry(seq) for seq in self.journal.versions(id)]
        return next((entry for entry in reversed(entries) if entry.active), None)

    def answer(self, question: str) -> Answer:
        """A greedy answer to one question, behind what the sources supply where there are any.

        Raises:
            DriftError: for a mixture of experts, which does not write, or a question that leaves no room.
        """
        self.refuse_unready()
        prompt, sampling = turn(self.memory.language_model, [("user", question)], Sampling(temperature=0))
        completion = complete(self.memory, prompt, sampling, LONGEST_ANSWER)
        return Answer(completion.text, completion.documents)

    # ---- states -----------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Write the present state, so that opening need not read again."""
        self.refuse_unready()
        write_checkpoint(self.folder / "state", self.replay.held(self.history), self.replay.priors)
        sync(self.folder)
        self.replay.saved, self.unsaved = list(self.history), 0.0

    def snapshot(self, name: str) -> Snapshot:
        """Keep the present state under a name that is free; on disk when this returns."""
        self.refuse_unready()
        last = self.journal.entry(self.history[-1]) if self.history else None
        return self.snapshots.make(name, self.replay.held(self.history), self.replay.priors, last, self.replay.about)

    def point(self, *, snapshot: str = "", before: str = "", as_of: str = "") -> list[int]:
        """Return a history to go to: a snapshot's, or the present one up to a document or time.

        Raises:
            DriftError: when there is no such place; when the snapshot holds what was forgotten since.
        """
        if sum(map(bool, (snapshot, before, as_of))) != 1:
            raise DriftError("a snapshot, a document and a time are three ways to name a state; give one of them.")
        if not snapshot:
            entries = self.journal.entries(self.history)
            return points.before(entries, before) if before else points.as_of(list(entries), as_of)
        found = self.snapshots.read(snapshot)
        if set(found.history) - self.journal.hashes().keys():
            raise DriftError(
                f"the snapshot {snapshot!r} holds what was forgotten since; make it anew with "
                f"`driftlm home forget {self.folder} --purge`, or give another one."
            )
        return found.history

    def left_by(self, history: Sequence[int]) -> list[int]:
        """Return the rows that a restoring of a history would take out of the present state."""
        return sorted(set(self.history) - set(history))

    def kept_by(self) -> list[str]:
        """Return the names of the snapshots that hold exactly the present state; a damaged one does not."""
        return [base.name for base in self.replay.kept() if base.history == self.history]

    def restore(self, history: Sequence[int]) -> None:
        """Go to a history that `point` gave. The journal keeps later documents, inactive: a later snapshot has them."""
        self.refuse_unready()
        with Undoing(self):
            self.replay.move(history)
            self.journal.rewrite(history, {})
            self.settle(history)

    def settle(self, history: Sequence[int]) -> None:
        """Take the history that the memory has been moved to as the one from now on."""
        self.history = self.replay.at = list(history)
        self.checkpoint()

    def bring_back(self) -> None:
        """Take the memory to what the journal says was acknowledged."""
        self.replay.at, self.replay.saved = None, None
        self.history = self.journal.history()
        held = read_checkpoint(self.folder / "state", self.replay.priors)
        if held is not None and not refuse_other_journal(self.folder, self.journal, held):
            self.replay.saved = held.history
        if (
            held is not None
            and self.replay.saved is not None
            and self.history[: len(self.replay.saved)] == self.replay.saved
        ):
            self.replay.move(self.history, [Base("checkpoint", self.replay.saved, lambda: held)])
        else:
            self.replay.move(self.history)
        self.replay.at = self.history

    @property
    def ready(self) -> bool:
        """Tell whether it is known what the memory has read; else the home has to be opened again."""
        return self.replay.at is not None

    def refuse_unready(self) -> None:
        """Refuse to go on with a memory of which nobody knows what it has read."""
        if not self.ready:
            raise DriftError(f"the home {self.folder} is closed, or was stopped in the middle; open it again.")


class Undoing:
    """What fails inside is undone: the home goes back to what its journal says; one that is stopped is opened again."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            self.home.bring_back()
        elif kind is not None:
            self.home.replay.at = None
