"""Whatever became of a home's files, it is said in one sentence, and not a byte of what is left is changed."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from driftlm import DriftError
from driftlm.homes.home import Home
from driftlm.homes.states import file_digest
from driftlm.homes.verifying import verify
from driftlm.storage.checked_json import write_sealed
from tests.support.homes import bytes_of, documents, home_in, model

pytestmark = pytest.mark.long

READ = documents(4)
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two documents behind a checkpoint and a snapshot, a third in the journal alone."""
    folder = tmp_path_factory.mktemp("sound")
    with home_in(folder / "home") as home:
        for document in READ[:2]:
            home.read(document)
        home.snapshot("two")
        home.checkpoint()
        shutil.copy(folder / "home" / "journal.sqlite", folder / "older.sqlite")
        home.read(READ[2])
        home.replay.saved = home.history  # as if killed
    with home_in(folder / "other") as home:
        for document in READ[1:4]:
            home.read(document)
    assert verify(folder / "home") == []
    return folder


def the(pattern: str) -> Callable[[Path], Path]:
    """The first file that a pattern finds."""
    return lambda home: sorted(home.glob(pattern))[0]


HOME, JOURNAL, POINT = the("home.json"), the("journal.sqlite"), the("state/checkpoint.json")
TENSORS, MANIFEST, OBJECT = the("state/*.safetensors"), the("snapshots/two.json"), the("snapshots/objects/*")
PLACES = {
    "home.json": HOME, "journal": JOURNAL, "checkpoint": POINT, "tensors": TENSORS, "manifest": MANIFEST,
    "object": OBJECT,
}  # fmt: skip


def truncated(place: Callable[[Path], Path], part: float) -> Change:
    def change(home: Path) -> None:
        data = place(home).read_bytes()
        place(home).write_bytes(data[: int(len(data) * part)])

    return change


def flipped(place: Callable[[Path], Path], at: float | bytes) -> Change:
    def change(home: Path) -> None:
        data = bytearray(place(home).read_bytes())
        data[data.index(at) if isinstance(at, bytes) else int(len(data) * at)] ^= 4
        place(home).write_bytes(data)

    return change


def linked(place: Callable[[Path], Path]) -> Change:
    """A link to the very file, outside of the home."""

    def change(home: Path) -> None:
        path = place(home)
        outside = home.parent / "outside"
        path.rename(outside)
        path.symlink_to(outside)

    return change


def told(place: Callable[[Path], Path], **facts: Any) -> Change:
    """Other facts under a right hash."""

    def change(home: Path) -> None:
        held = json.loads(place(home).read_text())
        held.pop("sha256")
        write_sealed(place(home), held | facts)

    return change


def sql(*statements: str) -> Change:
    def change(home: Path) -> None:
        database = sqlite3.connect(home / "journal.sqlite", isolation_level=None)
        for statement in statements:
            database.execute(statement)
        database.close()

    return change


def other_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Other tensors in the checkpoint, under a right hash."""

    def rewritten(home: Path) -> None:
        tensors = load_file(TENSORS(home))
        change(tensors)
        save_file(tensors, TENSORS(home))
        told(POINT, digest=file_digest(TENSORS(home)))(home)

    return rewritten


def other_value(value: Any, *place: str) -> Change:
    """Another value in the checkpoint, under a right hash."""

    def changed(home: Path) -> None:
        values = held = json.loads(POINT(home).read_text())["values"]
        for name in place[:-1]:
            held = held[name]
        held[place[-1]] = value
        told(POINT, values=values)(home)

    return changed


def of_adam(key: str, change: Callable[[dict[str, torch.Tensor], str], object]) -> Change:
    """Change what the update rule keeps of every parameter under a name."""
    return other_tensors(lambda held: [change(held, name) for name in list(held) if name.startswith(f"rule/{key}/")])


NORM = "parameters/model.norm.weight"
MOMENT = "rule/exp_avg/0"
OTHER = {"windows": {"window": "cached", "context": 32, "stride": 64}, "learning": {}, "sources": []}
CHANGES: dict[str, Change] = {
    **{f"{name} cut to {part}": truncated(place, part) for name, place in PLACES.items() for part in (0, 0.5)},
    **{f"{name} with a flipped bit": flipped(place, 0.4) for name, place in PLACES.items() if name != "journal"},
    **{f"{name} is a link": linked(place) for name, place in PLACES.items()},
    **{f"{name} is gone": lambda home, place=place: place(home).unlink() for name, place in PLACES.items()
       if name not in ("checkpoint", "manifest")},
    **{f"{name} of a newer version": told(PLACES[name], format=2) for name in ("home.json", "checkpoint", "manifest")},
    "home.json is no object": lambda home: HOME(home).write_text("[1]"),
    "home.json nests without end": lambda home: HOME(home).write_text("[" * 100_000),
    "home.json without a model": told(HOME, model="llama"),
    "home.json of another model": told(HOME, model={"fingerprint": "other", "adapter": "", "name": "other"}),
    "home.json with windows that cannot be": told(HOME, settings=OTHER),
    "home.json with unknown settings": told(HOME, settings={**OTHER, "windows": {"grid": 3}}),
    "journal of something else": lambda home: JOURNAL(home).write_bytes(b"no database at all " * 300),
    "journal of another program": sql("PRAGMA application_id = 7"),
    "journal of a newer version": sql("PRAGMA user_version = 2"),
    "journal without its table": sql("DROP TABLE documents"),
    "journal without what was forgotten": sql("DROP TABLE forgotten"),
    "journal with a changed text": flipped(JOURNAL, b"mark1 "),
    "journal with a changed text to be replayed": flipped(JOURNAL, b"mark2 "),
    "journal with other totals": sql("UPDATE documents SET totals = '{}' WHERE seq = 1"),
    "journal without a row": sql("DELETE FROM documents WHERE seq = 2"),
    "journal without its last row": sql("DELETE FROM documents WHERE seq = 3"),
    "journal with a row switched off": sql("UPDATE documents SET active = 0 WHERE seq = 1"),
    "journal from before": lambda home: shutil.copy(home.parent / "older.sqlite", JOURNAL(home))
    and told(POINT, history=[[1, 3]])(home),
    "journal of another home": lambda home: shutil.copy(home.parent / "other" / "journal.sqlite", JOURNAL(home)),
    "checkpoint that leads out": told(POINT, file="../home.json"),
    "checkpoint that leads anywhere": told(POINT, file="/etc/passwd"),
    "checkpoint without values": told(POINT, values={}),
    "checkpoint with another prior": told(POINT, prior={NORM: "0" * 64}),
    "checkpoint with numbers that are none": told(POINT, history=[["a", "b"]]),
    "tensors of another shape": other_tensors(lambda held: held.update({NORM: torch.zeros(7)})),
    "tensors of another type": other_tensors(lambda held: held.update({NORM: held[NORM].double()})),
    "tensors without a parameter": other_tensors(lambda held: held.pop(NORM)),
    "tensors without a first moment": of_adam("exp_avg", dict.pop),
    "tensors without a second moment": of_adam("exp_avg_sq", dict.pop),
    "tensors without a number of steps": of_adam("step", dict.pop),
    "tensors without one of the moments": other_tensors(lambda held: held.pop("rule/exp_avg/0")),
    "tensors with a moment of another shape": other_tensors(lambda held: held.update({MOMENT: torch.zeros(7)})),
    "tensors with a moment of another type": other_tensors(lambda held: held.update({MOMENT: held[MOMENT].half()})),
    "tensors with a moment of nothing": other_tensors(lambda held: held.update({"rule/exp_avg/999": torch.zeros(7)})),
    "tensors with a statistic of another rule": other_tensors(
        lambda held: held.update({"rule/velocity/0": torch.zeros(7)})
    ),
    "values with a word for a number": other_value("x", "windows_read"),
    "values with nothing for a number": other_value(None, "counts", "updates"),
    "values with a list for a rate": other_value([0.1], "learning_rate"),
    "values with an infinite rate": other_value(float("inf"), "learning_rate"),
    "values with a truth for a number": other_value(True, "waiting"),
    "values with a list for counts": other_value([], "counts"),
    "manifest that leads out": told(MANIFEST, tensors={NORM: "../../home"}),
    "manifest with a hash that is none": told(MANIFEST, tensors={NORM: 7}),
    "manifest with a list": told(MANIFEST, tensors=[NORM]),
    "manifest of another name": lambda home: MANIFEST(home).rename(home / "snapshots" / "three.json"),
    "manifest of no name": lambda home: MANIFEST(home).rename(home / "snapshots" / "a b.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_malformed_home_is_refused_and_left_as_it_is(name: str, sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(sound, folder)
    CHANGES[name](folder / "home")
    before = bytes_of(folder)
    try:
        said = verify(folder / "home")
    except DriftError as error:
        said = [str(error)]
    assert bytes_of(folder) == before
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Home, "checkpoint", lambda home: None)  # of one that opens, and is named by `verify`
            Home.open(folder / "home", model()).close()
    except DriftError as error:
        said.append(str(error))
    assert bytes_of(folder) == before
    assert said
    for sentence in said:
        assert "\n" not in sentence and len(sentence) < 400


def test_there_are_fifty() -> None:
    assert len(CHANGES) >= 50


def test_without_its_checkpoint_a_home_reads_again(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound / "home", tmp_path / "home")
    with home_in(tmp_path / "home") as home:
        state = home.memory.state()
    shutil.rmtree(tmp_path / "home" / "state")
    with home_in(tmp_path / "home") as home:
        assert all(torch.equal(value, state.tensors[name]) for name, value in home.memory.state().tensors.items())
