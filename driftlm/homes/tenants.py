"""Several tenants, each with a home of its own, over one frozen model in memory; one process at a time has them."""

import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.homes.home import Home
from driftlm.homes.identity import locked
from driftlm.memories.build import shared_by
from driftlm.memories.settings import MemorySettings
from driftlm.models.loading import LanguageModel
from driftlm.models.machine import Machine

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
HOMES = "the folder of homes"


@dataclass
class OpenHome:
    """A tenant's home, while it is in memory or somebody waits for it."""

    lock: Lock = field(default_factory=Lock)
    home: Home | None = None
    users: int = 0  # who have it or wait for it


class Tenants:
    """Homes by the names of tenants, in a folder each; the least recently used leave the memory, and come back equal.

    Any thread may use a tenant; one at a time has it, and once. Different tenants can be used at the same time.

    Args:
        folder: of all; made where it does not exist. Nobody else can open it before `close`.
        language_model: of all; it stays as it is.
        settings: of homes that are not there yet; the others have their own.
        most_in_memory: homes that stay open, at most, besides those in use.
        shared: what `memories.build.shared_by` gave; loaded once where it is not given.
        machine: how the model was loaded, for the homes that are made.

    Example (needs nothing but the installed package):
        >>> from tempfile import TemporaryDirectory
        >>> from driftlm import Document, Learning, Windows, load
        >>> settings = MemorySettings(Windows("cached", 64, 32), Learning("lora", rank=1))
        >>> with TemporaryDirectory() as folder, Tenants(folder, load(), settings, most_in_memory=1) as tenants:
        ...     with tenants.using("ada") as home:
        ...         _ = home.read(Document("a", "It was a dark and stormy night."))
        ...     with tenants.using("bo") as home:
        ...         len(home.history)
        ...     tenants.names(), tenants.in_memory()
        0
        (['ada', 'bo'], ['bo'])
    """

    def __init__(
        self,
        folder: str | Path,
        language_model: LanguageModel,
        settings: MemorySettings,
        most_in_memory: int = 8,
        shared: Mapping[str, Any] | None = None,
        machine: Machine = Machine(),  # noqa: B008 - frozen
    ) -> None:
        if most_in_memory < 1:
            raise DriftError(f"{most_in_memory} tenants were to stay in memory; give at least 1.")
        self.folder, self.language_model, self.settings = Path(folder), language_model, settings
        self.most_in_memory, self.machine = most_in_memory, machine
        self.shared = shared_by(settings, language_model, shared)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = locked(self.folder, HOMES)
        self.map = Lock()
        self.places: OrderedDict[str, OpenHome] = OrderedDict()  # the least recently used first

    @contextmanager
    def using(self, name: str) -> Iterator[Home]:
        """Yield a tenant's home, made where it does not exist, for nobody else until the context ends.

        Args:
            name: 1 to 64 letters, digits, `-` and `_`.

        Raises:
            DriftError: for another name, or a home that cannot be opened.
        """
        if not NAME.fullmatch(name):
            raise DriftError(f"{name!r} is no name of a tenant; give 1 to 64 letters, digits, - and _.")
        with self.map:
            place = self.places.setdefault(name, OpenHome())
            place.users += 1
        try:
            with place.lock:
                if place.home is None or not place.home.ready:  # an interrupted one is opened again
                    if place.home is not None:
                        place.home.close()
                        place.home = None
                    place.home = self.opened(name)
                yield place.home
        finally:
            with self.map:
                place.users -= 1
                self.places.move_to_end(name)
                if place.home is None and not place.users:
                    del self.places[name]
                self.evict(self.most_in_memory)

    def opened(self, name: str) -> Home:
        """Open a tenant's home from disk, or a new one, once there is room for it."""
        with self.map:
            self.evict(self.most_in_memory - 1)
        folder = self.folder / name
        if folder.exists() and name not in os.listdir(self.folder):
            raise DriftError(f"{folder} belongs to a tenant whose name is spelled otherwise; give another name.")
        if (folder / "home.json").exists():
            return Home.open(folder, self.language_model, self.shared)
        return Home.create(folder, self.language_model, self.settings, self.shared, machine=self.machine)

    def evict(self, most: int) -> None:
        """Close the least recently used homes that nobody has, down to so many in memory."""
        held = [name for name, place in self.places.items() if place.home is not None]
        for name in [name for name in held if not self.places[name].users][: max(0, len(held) - most)]:
            home = self.places.pop(name).home
            assert home is not None
            home.close()

    def names(self) -> list[str]:
        """Return the names of all tenants, in the order of the alphabet."""
        there = [path.parent.name for path in self.folder.glob("*/home.json")]
        return sorted(name for name in there if NAME.fullmatch(name))

    def in_memory(self) -> list[str]:
        """Return the tenants whose home is open, the least recently used first."""
        with self.map:
            return [name for name, place in self.places.items() if place.home is not None]

    def close(self) -> None:
        """Close all homes, and let go of the folder; nobody may have one."""
        try:
            with self.map:
                self.evict(0)
        finally:
            if self.lock >= 0:
                os.close(self.lock)
            self.lock = -1

    def __enter__(self) -> "Tenants":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
