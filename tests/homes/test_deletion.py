"""Forgotten is never read: in the weights, in the sources, in the snapshots and in every byte of the files."""

from pathlib import Path

import pytest

from driftlm import Document, DriftError
from driftlm.homes.deletion import forget, plan
from driftlm.homes.verifying import verify
from tests.support.homes import KINDS, assert_same, bytes_of, documents, home_in, straight
from tests.support.running import words

pytestmark = pytest.mark.long

READ = documents(6)
SECRET = Document("secret-id", f"zebra quagga {words(60)} okapi", "2003-03-03")
AGAIN = Document("secret-id", f"quagga once more {words(9, 7)}", "2004-04-04")
STREAM = [*READ[:2], SECRET, READ[2], AGAIN, *READ[3:5]]
LEFT = [document for document in STREAM if document.id != SECRET.id]
TRACES = (b"zebra", b"quagga", b"okapi", b"secret-id", b"2003-03-03", b"2004-04-04")


def traces(folder: Path) -> list[str]:
    """Files in which a byte of the forgotten documents is left."""
    return [name for name, data in bytes_of(folder).items() if any(trace in data for trace in TRACES)]


@pytest.mark.parametrize(("kind", "purge"), [*((kind, True) for kind in KINDS), ("lora sgd", False), ("words", False)])
def test_forgotten_is_never_read(kind: str, purge: bool, tmp_path: Path) -> None:
    settings = KINDS[kind]
    with home_in(tmp_path / "home", settings) as home:
        for number, document in enumerate(STREAM):
            home.read(document)
            if number in (1, 3, 6):
                home.snapshot(f"s{number}")
        home.checkpoint()
        assert traces(tmp_path / "home")
        planned = plan(home, SECRET.id, purge=purge)
        assert planned.rows == [3, 5] and planned.snapshots == ["s3", "s6"] and planned.history == [1, 2, 4, 6, 7]
        again = 0 if kind == "words" else 3
        assert planned.cost.documents == again and (planned.cost.start == "s1") == (again > 0)
        before = bytes_of(tmp_path / "home" / "snapshots")
        assert forget(home, SECRET.id, purge=purge) == planned
        assert_same(home.memory.state(), straight(settings, LEFT))
        if purge:
            for name, count in (("s1", 2), ("s3", 3), ("s6", 5)):
                found = home.snapshots.read(name)
                assert_same(home.snapshots.load(found, home.replay.priors).state, straight(settings, LEFT[:count]))
                assert (found.document, found.time) == (LEFT[count - 1].id, LEFT[count - 1].time)
            assert traces(tmp_path / "home") == []
        else:
            assert bytes_of(tmp_path / "home" / "snapshots") == before
            assert all(name.startswith("snapshots/") for name in traces(tmp_path / "home"))
            with pytest.raises(DriftError, match="forgotten since"):
                home.point(snapshot="s6")
            forget(home, purge=True)  # later is as well as at once
            assert traces(tmp_path / "home") == []
            assert_same(home.memory.state(), straight(settings, LEFT))
        home.replay.saved = home.history
    assert verify(tmp_path / "home") == []
    with home_in(tmp_path / "home") as home:
        assert_same(home.memory.state(), straight(settings, LEFT))
        with home_in(tmp_path / "never", settings) as never:
            numbers = [never.read(document).totals.nats for document in LEFT]
        if kind != "words":  # a frozen model's scores are those it had then, behind what was known then
            assert [entry.totals.nats for entry in home.journal.entries(home.history)] == numbers


def test_what_was_restored_away_is_forgotten_too(tmp_path: Path) -> None:
    with home_in(tmp_path / "home") as home:
        home.read(READ[0])
        home.read(SECRET)
        home.restore(home.point(before=SECRET.id))
        assert plan(home, SECRET.id).cost.documents == 0
        forget(home, SECRET.id)
        assert_same(home.memory.state(), straight(KINDS["all adam"], READ[:1]))
    assert traces(tmp_path / "home") == []


def test_all_is_forgotten_or_nothing(tmp_path: Path) -> None:
    with home_in(tmp_path / "home") as home:
        for document in STREAM[:4]:
            home.read(document)
        state, before = home.memory.state(), home.history
        with pytest.raises(DriftError, match="no document 'other' was read"):
            forget(home, SECRET.id, "other")
        with pytest.raises(DriftError, match="no document was named"):
            forget(home)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(home.journal), "forget", lambda *_: (_ for _ in ()).throw(DriftError("full.")))
            with pytest.raises(DriftError, match="full"):
                forget(home, SECRET.id)
        assert_same(home.memory.state(), state)
        assert home.history == before
        forget(home, "d0", SECRET.id)
        assert [entry.id for entry in home.journal.entries(home.history)] == ["d1", "d2"]


def test_a_wipe_that_was_cut_short_is_done_when_the_home_is_opened(tmp_path: Path) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with home_in(tmp_path / "home", KINDS["words"]) as home:
        for document in STREAM:
            home.read(document)
        home.checkpoint()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(home), "settle", killed)
            with pytest.raises(KeyboardInterrupt):
                forget(home, SECRET.id)
    assert traces(tmp_path / "home")
    with home_in(tmp_path / "home"):
        assert traces(tmp_path / "home") == []
