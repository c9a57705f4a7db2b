"""Killed at any timestamp, a home has what it acknowledged, and ends as one that was never killed: bit by bit."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from driftlm.homes.journal import Journal
from driftlm.homes.verifying import verify
from tests.support.homes import KINDS, assert_same, bytes_of, documents, home_in, straight
from tests.support.running import finish, start

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")

READ = documents(24, 6)
KILLS = 10


def read_all(kind: str) -> None:
    """Read every document into `home`, and say so behind each; a snapshot behind every fifth."""
    said = os.open("acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with home_in(Path("home").absolute(), KINDS[kind], checkpoint=0.1) as home:
        for number, document in enumerate(READ):
            home.read(document)
            os.write(said, f"{document.id}\n".encode())
            if number % 5 == 4 and len(home.history) == number + 1 and f"s{number}" not in home.snapshots.names():
                home.snapshot(f"s{number}")
                os.write(said, f"s{number}\n".encode())


def acknowledged(folder: Path) -> list[str]:
    place = folder / "acknowledged"
    return place.read_text().split() if place.exists() else []


@pytest.mark.parametrize("kind", ["all adam"])
def test_killed_at_random_moments_a_home_ends_as_if_never_killed(kind: str, tmp_path: Path) -> None:
    chance = random.Random(kind)
    for kill in range(KILLS):
        if kill % 2:
            # before a change to a file of the home, or to one of a checkpoint or snapshot
            code = finish(tmp_path, "tests.homes.test_crash:read_all", kind, dies_at=chance.randint(5, 90)).code
        else:
            before = len(set(acknowledged(tmp_path)))
            process = start(tmp_path, "tests.homes.test_crash:read_all", kind)
            assert process.wait_until(lambda before=before: len(set(acknowledged(tmp_path))) > before)
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            code = process.wait().code
        assert code == -signal.SIGKILL, (tmp_path / "stderr.log").read_text()
        if (tmp_path / "home" / "home.json").exists():
            assert verify(tmp_path / "home") == []
            journal = Journal.open(tmp_path / "home" / "journal.sqlite")
            kept = {entry.id for entry in journal.entries(journal.history())}
            journal.close()
            kept |= {path.stem for path in (tmp_path / "home" / "snapshots").glob("*.json")}
            assert set(acknowledged(tmp_path)) <= kept
    assert finish(tmp_path, "tests.homes.test_crash:read_all", kind).code == 0

    with home_in(tmp_path / "home") as killed, home_in(tmp_path / "whole", KINDS[kind]) as whole:
        entries = [whole.read(document) for document in READ]
        assert_same(killed.memory.state(), whole.memory.state())
        again = list(killed.journal.entries(killed.history))
        assert [one.document for one in again] == READ
        numbers = [[(one.totals.nats, one.totals.static_nats) for one in some] for some in (again, entries)]
        assert numbers[0] == numbers[1]
        for one in killed.snapshots.ls():
            held = killed.snapshots.load(one, killed.replay.priors)
            assert_same(held.state, straight(KINDS[kind], READ[: len(one.history)]))


def forget_one(kind: str) -> None:
    """Forget a document, the snapshots' share as well."""
    from driftlm.homes.deletion import forget

    with home_in(Path("home").absolute(), KINDS[kind]) as home:
        if home.journal.versions("d2"):
            forget(home, "d2", purge=True)


def test_killed_while_it_forgets_a_home_can_forget_again(tmp_path: Path) -> None:
    kind = "lora sgd"
    with home_in(tmp_path / "home", KINDS[kind]) as home:
        for document in READ[:5]:
            home.read(document)
        home.snapshot("all")
    chance = random.Random(0)
    for _ in range(6):
        code = finish(tmp_path, "tests.homes.test_crash:forget_one", kind, dies_at=chance.randint(1, 250)).code
        assert code in (0, -signal.SIGKILL), (tmp_path / "stderr.log").read_text()
        assert verify(tmp_path / "home") == []
    assert finish(tmp_path, "tests.homes.test_crash:forget_one", kind).code == 0
    left = [document for document in READ[:5] if document.id != "d2"]
    with home_in(tmp_path / "home") as home:
        assert_same(home.memory.state(), straight(KINDS[kind], left))
        held = home.snapshots.load(home.snapshots.read("all"), home.replay.priors)
        assert_same(held.state, straight(KINDS[kind], left))
    assert not any(b"mark2 " in data for data in bytes_of(tmp_path / "home").values())
