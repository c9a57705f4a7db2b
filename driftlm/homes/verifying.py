"""Every byte of a home, checked; no model is needed."""

import os
from pathlib import Path

from driftlm.core.errors import DriftError
from driftlm.homes.identity import described, locked, refuse_other_journal, settings_of
from driftlm.homes.journal import Journal
from driftlm.homes.snapshots import Snapshots
from driftlm.homes.states import read_checkpoint


def verify(folder: str | Path) -> list[str]:
    """Return what is wrong with a home, a sentence each; empty when it is sound.

    Raises:
        DriftError: when the folder holds no home, or it is open elsewhere.
    """
    folder = Path(folder)
    settings_of(described(folder))
    lock = locked(folder)
    try:
        found = Snapshots(folder / "snapshots").verify()
        try:
            journal = Journal.open(folder / "journal.sqlite")
        except DriftError as error:
            return [*found, str(error)]
        try:
            complaints = journal.verify()
            found += complaints
            held = read_checkpoint(folder / "state", None)
            if held is not None and not complaints:
                refuse_other_journal(folder, journal, held)
        except DriftError as error:
            found.append(str(error))
        finally:
            journal.close()
        return found
    finally:
        os.close(lock)
