"""A server that is killed at random timestamps under load, and what is there afterwards.

A server whose LoRA learns is killed while two clients read and one takes snapshots. Then, in a copy of its home, what
it acknowledged is looked for, every byte is verified, and weights and snapshots are compared, bit by bit, with those of
a memory that lives in no folder and reads what the journal has. A new home every ten kills.
"""

import http.client
import json
import multiprocessing
import os
import random
import shutil
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.server import Client, address_in, arguments_of
from driftlm import Learning, Windows, load, read_stream
from driftlm.cli.main import main as command_line
from driftlm.homes.home import Home
from driftlm.homes.verifying import verify
from driftlm.memories.base import State
from driftlm.memories.build import begin, memory_for
from driftlm.memories.settings import MemorySettings
from driftlm.models.loading import LanguageModel

SETTINGS = MemorySettings(
    Windows("overlapping", 128, 64),
    Learning("lora", rank=2, rule="sgd", learning_rate=0.01),
    ("bm25",),
    compare="none",
)
KILLS_OF_A_HOME = 10
HEAVY = ["peft", "driftlm.runs.formats", "driftlm.homes.tenants", "driftlm.serving.running", "fastapi", "uvicorn"]
WAITING = 60.0  # seconds for a server to listen


def serve_in(log: str, arguments: list[str]) -> None:
    """What a forked process does: it is `driftlm` with stderr in a file."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    command_line(arguments)


class Found:
    """What was acknowledged and what was there, over all kills."""

    def __init__(self) -> None:
        self.documents, self.snapshots, self.rows, self.compared = 0, 0, 0, 0
        self.wrong: list[str] = []

    def table(self, kills: int, seconds: float) -> dict[str, Any]:
        """For the file."""
        return {
            "kills": kills,
            "seconds": round(seconds, 1),
            "documents_acknowledged": self.documents,
            "documents_in_journals": self.rows,
            "snapshots_acknowledged": self.snapshots,
            "states_compared_bit_by_bit": self.compared,
            "wrong": self.wrong,
        }


class Reference:
    """A memory that lives in no folder, and reads what a journal has."""

    def __init__(self, language_model: LanguageModel) -> None:
        self.memory, self.read = memory_for(SETTINGS, language_model, None), list[int]()
        begin(self.memory)

    def compare(self, home: Home) -> tuple[int, list[str]]:
        """States of a home that were compared, and those that differ: the present one, and all snapshots that this
        memory comes by."""
        if home.history[: len(self.read)] != self.read:
            return 0, ["the journal has another beginning than before"]
        wrong, compared = list[str](), 0
        snapshots = home.snapshots.ls()
        while True:
            for one in snapshots:
                if one.history == self.read:
                    held = home.snapshots.load(one, home.replay.priors).state
                    wrong += [] if same(held, self.memory.state()) else [f"the snapshot {one.name} differs"]
                    compared += 1
            if len(self.read) == len(home.history):
                break
            seq = home.history[len(self.read)]
            for _ in read_stream(self.memory, [home.journal.entry(seq).document]):
                pass
            self.read.append(seq)
        wrong += [] if same(home.memory.state(), self.memory.state()) else ["weights differ"]
        return compared + 1, wrong


def same(one: State, other: State) -> bool:
    """Bit by bit."""
    return (
        one.values == other.values
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())
    )


def killed(place: Path, threads: int, kills: int) -> dict[str, Any]:
    """What is there after kill -9 at random timestamps."""
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(HEAVY)
    language_model = load()  # of its own: a bank's networks change theirs
    chance, found, began = random.Random(0), Found(), time.perf_counter()
    for first in range(0, kills, KILLS_OF_A_HOME):
        homes, reference = place / f"killed-{first}", Reference(language_model)
        documents, snapshots = set[str](), set[str]()
        for kill in range(first, min(kills, first + KILLS_OF_A_HOME)):
            arguments = arguments_of(homes, SETTINGS, threads)
            process = forking.Process(target=serve_in, args=(str(place / "log"), arguments))
            (place / "log").unlink(missing_ok=True)
            process.start()
            under_load(process, place / "log", kill, chance, documents, snapshots)
            shutil.copytree(homes / "default", place / "copy")
            found.wrong += [f"kill {kill}: {what}" for what in verify(place / "copy")]
            with Home.open(place / "copy", language_model) as home:
                lost = documents - {entry.id for entry in home.journal.entries(home.history)}
                lost |= snapshots - set(home.snapshots.names())
                found.wrong += [f"kill {kill}: {what} is lost" for what in sorted(lost)]
                compared, wrong = reference.compare(home)
                found.compared, found.wrong = found.compared + compared, found.wrong + wrong
                rows = len(home.history)
            shutil.rmtree(place / "copy")
        found.documents, found.snapshots = found.documents + len(documents), found.snapshots + len(snapshots)
        found.rows += rows
        shutil.rmtree(homes)
        print(json.dumps(found.table(kill + 1, time.perf_counter() - began)), flush=True)
    return found.table(kills, time.perf_counter() - began)


def under_load(process: Any, log: Path, kill: int, chance: random.Random, *acknowledged: set[str]) -> None:
    """Clients read and take snapshots until the server is killed; all that it acknowledged is added."""
    documents, snapshots = acknowledged
    deadline, address, before = time.monotonic() + WAITING, None, len(documents)
    while address is None:
        assert time.monotonic() < deadline and process.is_alive(), log.read_text()
        time.sleep(0.005)
        address = address_in(log.read_text()) if log.exists() else None

    def load(number: int) -> None:
        with suppress(OSError, http.client.HTTPException, ValueError):
            client, seen = Client(address), Counter[int]()
            for count in range(100_000):
                name = f"{kill}-{number}-{count}"
                if number:
                    row = {"id": name, "text": f"It rained on day {name}, and the sea was red."}
                    made = client.post("/v1/read", {"documents": [row]}, seen)["data"][0]["id"]
                    documents.add(made)
                else:
                    snapshots.add(client.post("/v1/snapshots", {"name": name}, seen)["name"])
                    time.sleep(0.1)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    while len(documents) == before:
        assert time.monotonic() < deadline, "nothing was acknowledged"
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.5))
    process.kill()
    process.join()
    for thread in threads:
        thread.join()
