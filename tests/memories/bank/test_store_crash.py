"""The bank against a plain dict, with crashes at any step, and killed with SIGKILL while it adds."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from driftlm.core.errors import DriftError
from driftlm.memories.bank.modulations import Addition, Facts
from driftlm.memories.bank.store import BankStore

ROOT = Path(__file__).resolve().parents[3]
FACTS = Facts(vectors=2, width=3, key_width=4, networks="first")


def document(name: str, version: int, parts: int = 1) -> Addition:
    """What an id's version is made of; every number of it says which it is."""
    value = float(sum(name.encode()) * 100 + version)
    timestamp = None if version == 0 else float(version)
    vectors, keys = torch.full((parts, 2, 3), value), torch.full((parts, 4), -value)
    return Addition(name, f"{name} {version} {parts}", None, timestamp, vectors, keys)


# ------------------------------------------------------------------------------------------------------------ crashes


class Crash(BaseException):
    """The process died."""


class Fuse:
    """Counts the steps to files and to sqlite, and dies at one of them; the dead take no further step."""

    def __init__(self) -> None:
        self.left: int | None = None

    def step(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **settings: Any) -> Any:
            if self.left is None:
                return work(*arguments, **settings)
            self.left -= 1
            if self.left <= 0:
                raise Crash
            return work(*arguments, **settings)

        return stepped

    @contextmanager
    def armed(self, steps: int) -> Iterator[None]:
        """Die instead of taking this step, counted from 1."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("fsync", "replace", "unlink"):
                patch.setattr(os, name, self.step(getattr(os, name)))
            self.left = steps
            try:
                yield
            finally:
                self.left = None


class Wired:
    """A connection whose statements are steps of a fuse."""

    def __init__(self, connection: sqlite3.Connection, fuse: Fuse) -> None:
        self.__dict__.update(
            connection=connection, execute=fuse.step(connection.execute), executemany=fuse.step(connection.executemany)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.connection, name, value)


class AgainstADict(RuleBasedStateMachine):
    """Whatever is done, the bank holds what a dict does; after a crash, what it did before or after the last verb."""

    names = st.sampled_from("abcde")
    versions = st.integers(0, 3)

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.fuse = Fuse()
        self.crash: int | None = None
        self.model: dict[str, Addition] = {}
        BankStore.create(self.folder / "bank", FACTS).close()
        self.open()

    def open(self) -> None:
        self.bank = BankStore.open(self.folder / "bank", FACTS)
        self.connection = self.bank.database
        self.bank.database = Wired(self.connection, self.fuse)  # type: ignore[assignment]

    def teardown(self) -> None:
        self.connection.close()
        shutil.rmtree(self.folder)

    def do(self, verb: Callable[[], Any], after: dict[str, Addition]) -> Any:
        """Run a verb, and let the process die in it if that was decided; `after` is the dict when it is done."""
        if self.crash is None:
            self.model, answer = after, verb()
            return answer
        crash, self.crash = self.crash, None
        try:
            with self.fuse.armed(crash):
                verb()
            done = [after]  # acknowledged
        except Crash:
            done = [self.model, after]
        self.connection.close()  # as the system does for the dead: what was not committed is rolled back
        self.open()
        held = self.held()
        assert held in [self.said(model) for model in done]
        self.model = next(model for model in done if self.said(model) == held)
        return None

    def put(self, model: dict[str, Addition], one: Addition) -> tuple[dict[str, Addition], bool]:
        if one.id in model and model[one.id].text == one.text:
            return model, False
        return {name: kept for name, kept in model.items() if name != one.id} | {one.id: one}, True

    @precondition(lambda self: self.crash is None)
    @rule(step=st.integers(1, 25))
    def die_in_the_next(self, step: int) -> None:
        self.crash = step

    @rule(name=names, version=versions, parts=st.integers(0, 3))
    def add(self, name: str, version: int, parts: int) -> None:
        one = document(name, version, parts)
        model, fresh = self.put(self.model, one)
        assert self.do(lambda: self.bank.add(**vars(one)), model) in (fresh, None)

    @rule(several=st.lists(st.tuples(names, versions, st.integers(0, 2)), max_size=4))
    def add_many(self, several: list[tuple[str, int, int]]) -> None:
        model, expected = self.model, []
        for one in (document(*each) for each in several):
            model, fresh = self.put(model, one)
            expected.append(fresh)
        assert self.do(lambda: self.bank.add_many([document(*each) for each in several]), model) in (expected, None)

    @rule(name=names)
    def forget(self, name: str) -> None:
        if name in self.model:
            self.do(lambda: self.bank.forget(name), {key: one for key, one in self.model.items() if key != name})
        else:
            with pytest.raises(DriftError, match=name):
                self.bank.forget(name)

    @rule(before=versions)
    def expire(self, before: int) -> None:
        gone = [key for key, one in self.model.items() if one.timestamp is not None and one.timestamp < before]
        kept = {key: one for key, one in self.model.items() if key not in gone}
        assert self.do(lambda: self.bank.expire(before), kept) in (gone, None)

    @rule()
    def compact(self) -> None:
        if self.do(self.bank.compact, self.model) is None and len(self.bank.matrices().owner):
            self.bank.compact()  # also after one that died
            assert len(list(self.bank.folder.glob("vectors-*"))) == 1

    @rule()
    def reopen(self) -> None:
        self.connection.close()
        self.open()

    @staticmethod
    def said(model: dict[str, Addition]) -> list[Any]:
        return [
            (one.id, one.text, one.timestamp, one.vectors.flatten().tolist(), one.keys.flatten().tolist())
            for one in model.values()
        ]

    def held(self) -> list[Any]:
        parts, entries = self.bank.matrices(), self.bank.ls()
        assert parts.ids == [entry.id for entry in entries] and len(self.bank) == len(entries)
        found = []
        for place, entry in enumerate(entries):
            own = parts.select(parts.owner == place)
            assert len(own.owner) == entry.parts
            assert all(
                timestamp == (entry.timestamp or timestamp) for timestamp in own.timestamps.nan_to_num(0).tolist()
            )
            vectors, keys = own.vectors.flatten().tolist(), own.keys.flatten().tolist()
            found.append((entry.id, entry.text, entry.timestamp, vectors, keys))
        return found

    @invariant()
    def equal(self) -> None:
        if hasattr(self, "bank"):
            assert self.held() == self.said(self.model)
            assert self.bank.verify() == []


TestAgainstADict = AgainstADict.TestCase
TestAgainstADict.settings = settings(max_examples=10, stateful_step_count=12, deadline=None)


VERBS: dict[str, Callable[[BankStore], Any]] = {
    "add": lambda bank: bank.add(**vars(document("c", 2))),
    "add_many": lambda bank: bank.add_many([document("c", 2), document("b", 1), document("d", 2)]),
    "replace": lambda bank: bank.add(**vars(document("b", 2))),
    "forget": lambda bank: bank.forget("b"),
    "compact": lambda bank: bank.compact(),
}


def dies(folder: Path, verb: str, step: int) -> bool:
    """Whether a process died in a verb, at this step of its."""
    fuse, connections, connect = Fuse(), [], sqlite3.connect

    def wired(*arguments: Any, **named: Any) -> Any:
        connections.append(connect(*arguments, **named))
        return Wired(connections[-1], fuse)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", wired)
        try:
            if verb == "create":
                with fuse.armed(step):
                    BankStore.create(folder, FACTS)
            else:
                bank = BankStore.open(folder)
                with fuse.armed(step):
                    VERBS[verb](bank)
        except Crash:
            return True
        finally:
            for connection in connections:
                connection.close()
    return False


def texts_of(folder: Path) -> list[str] | None:
    """What a bank holds; None where there is no bank yet."""
    try:
        bank = BankStore.open(folder)
    except DriftError as error:
        assert "holds no bank" in str(error)
        return None
    with bank:
        assert bank.verify() == []
        return [entry.text for entry in bank.ls()]


@pytest.mark.parametrize("verb", [*VERBS, "create"])
def test_dead_at_each_step_a_verb_is_done_or_not_begun(verb: str, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    if verb != "create":
        with BankStore.create(begun, FACTS) as bank:
            bank.add_many([document("a", 1), document("b", 1)])
            bank.forget("a")
    states, died = [texts_of(begun)], True
    while died:
        folder = tmp_path / str(len(states))
        if begun.exists():
            shutil.copytree(begun, folder)
        died = dies(folder, verb, len(states))
        states.append(texts_of(folder))
        with BankStore.create(folder, FACTS) if states[-1] is None else BankStore.open(folder) as bank:
            assert bank.add(**vars(document("z", 3))) and bank.matrices().ids[-1] == "z"  # it goes on
            bank.compact()
            assert bank.verify() == [] and len(list(folder.glob("vectors-*"))) == 1
    turn = states.index(states[-1])
    assert states == [states[0]] * turn + [states[-1]] * (len(states) - turn) and len(states) > 4
    assert (turn == 0) == (verb == "compact")


def test_a_segment_is_on_disk_before_the_bank_refers_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    with BankStore.create(tmp_path / "bank", FACTS) as bank:
        bank.database.set_trace_callback(steps.append)
        for name in ("fsync", "replace"):
            work = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *a, name=name, work=work: [steps.append(name), work(*a)][1])
        bank.add(**vars(document("a", 1)))
        assert bank.database.execute("PRAGMA synchronous").fetchone() == (3,)  # the folder of the journal too
    assert [step for step in steps if step in ("fsync", "replace", "COMMIT")] == ["fsync", "replace", "fsync", "COMMIT"]


# -------------------------------------------------------------------------------------------------------------- kill -9

ADDS = "import sys, tests.memories.bank.test_store_crash as crash; crash.write_for_ever(sys.argv[1])"


def plan() -> Iterator[tuple[str, int]]:
    """Verbs without end."""
    for number in count(1):
        yield "add", number
        if number % 3 == 0:
            yield "forget", number - 1
        if number % 7 == 0:
            yield "compact", 0


def write_for_ever(folder: str) -> None:
    """Do what is planned, and say each verb when it has returned."""
    with BankStore.open(folder) as bank:
        for verb, number in plan():
            if verb == "add":
                bank.add(**vars(document(f"n{number}", 1, 2)))
            elif verb == "forget":
                bank.forget(f"n{number}")
            else:
                bank.compact()
            print(verb, number, flush=True)


def planned(verbs: int) -> list[str]:
    """What a bank holds after so many."""
    held: list[str] = []
    for verb, number in islice(plan(), verbs):
        if verb == "add":
            held.append(f"n{number}")
        elif verb == "forget":
            held.remove(f"n{number}")
    return held


def check(folder: Path, said: int) -> None:
    """Every verb that was said is done; of the others at most the next, and that wholly."""
    with BankStore.open(folder) as bank:
        assert bank.verify() == []
        parts = bank.matrices()
        assert parts.ids in (planned(said), planned(said + 1))
        for place, name in enumerate(parts.ids):
            assert torch.equal(parts.vectors[parts.owner == place], document(name, 1, 2).vectors)
        bank.compact()
        assert [entry.id for entry in bank.ls()] == parts.ids and bank.verify() == []


def test_killed_a_process_has_kept_what_it_said(tmp_path: Path) -> None:
    BankStore.create(tmp_path / "bank", FACTS).close()
    command = [sys.executable, "-c", ADDS, str(tmp_path / "bank")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    check(tmp_path / "bank", sum(line.endswith("\n") for line in lines))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_killed_at_random_moments(tmp_path: Path) -> None:
    timestamps = random.Random(0)
    for turn in range(10):
        folder = tmp_path / str(turn)
        BankStore.create(folder, FACTS).close()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                sys.stdout = os.fdopen(writing, "w")
                write_for_ever(str(folder))
            finally:
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            lines = [pipe.readline() for _ in range(timestamps.randrange(10))]
            time.sleep(timestamps.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
            lines += pipe.readlines()
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        check(folder, sum(line.endswith("\n") for line in lines))
