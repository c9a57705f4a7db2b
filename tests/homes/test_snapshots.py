"""Snapshots are exact, small and never change; any state between them is read again to the bit."""

from pathlib import Path

import pytest
import torch

from driftlm import Document, DriftError
from driftlm.homes.verifying import verify
from tests.support.homes import KINDS, assert_same, bytes_of, documents, home_in, model, straight
from tests.support.running import words

pytestmark = pytest.mark.long

READ = documents(6)


def size(folder: Path) -> int:
    return sum(len(data) for data in bytes_of(folder).values())


@pytest.mark.parametrize("kind", ["all adam", "mixture", "learns behind words"])
def test_a_restored_snapshot_has_the_same_bits_and_goes_on(kind: str, tmp_path: Path) -> None:
    settings = KINDS[kind]
    with home_in(tmp_path / "home", settings) as home:
        home.snapshot("empty")
        for number, document in enumerate(READ[:4]):
            home.read(document)
            if number == 1:
                assert home.snapshot("two").history == [1, 2]
        two = straight(settings, READ[:2])
        held = home.snapshots.load(home.snapshots.read("two"), home.replay.priors)
        assert_same(held.state, two)  # whatever was read again, and not
        home.restore(home.point(snapshot="two"))
        assert_same(home.memory.state(), two)
        home.read(READ[5])
    with home_in(tmp_path / "home") as home:
        assert home.history == [1, 2, 5]
        assert_same(home.memory.state(), straight(settings, [*READ[:2], READ[5]]))
        home.restore(home.point(snapshot="empty"))
        assert_same(home.memory.state(), straight(settings, []))
    assert verify(tmp_path / "home") == []


def test_what_was_restored_away_comes_back_with_a_later_snapshot(tmp_path: Path) -> None:
    with home_in(tmp_path / "home") as home:
        for document in READ[:3]:
            home.read(document)
        home.snapshot("three")
        home.restore(home.point(before="d1"))
        assert [entry.active for entry in home.journal.entries([1, 2, 3])] == [True, False, False]
        home.read(READ[4])
        home.snapshot("other")
        home.restore(home.point(snapshot="three"))
        home.replay.saved = home.history
    with home_in(tmp_path / "home") as home:
        assert home.history == [1, 2, 3]
        assert_same(home.memory.state(), straight(KINDS["all adam"], READ[:3]))


def test_as_of_a_document_and_as_of_a_date(tmp_path: Path) -> None:
    stream = [*READ[:2], Document("undated", words(9)), READ[2], Document("late", words(9, 1), "2001-01-01"), READ[3]]
    with home_in(tmp_path / "home") as home:
        entries = [home.read(document) for document in stream]
        assert [entry.seq for entry in entries] == home.history

        def ids(**where: str) -> list[str]:
            return [entry.id for entry in home.journal.entries(home.point(**where))]

        assert ids(before="d2") == ["d0", "d1", "undated"]
        assert ids(as_of="2001-06-15") == ["d0", "d1", "undated"]  # all of that day
        assert ids(as_of="2001-06-14") == ids(as_of="2001-05") == ids(as_of="2000") == ["d0"]
        assert ids(as_of="2001") == ["d0", "d1", "undated"]
        assert ids(as_of="2002-06") == ["d0", "d1", "undated", "d2", "late"]
        assert ids(as_of="1999") == [] and ids(as_of="2030") == [one.id for one in stream]
        home.snapshot("all")
        for as_of, count in (("2001", 3), ("2000-06-15T00:00:01", 1)):
            home.restore(home.point(snapshot="all"))
            target = home.point(as_of=as_of)
            cost = home.replay.cost(target)
            assert (cost.documents, cost.start) == (count, "start")
            assert cost.tokens == sum(entry.totals.tokens for entry in entries[:count]) and cost.seconds > 0
            home.restore(target)
            assert_same(home.memory.state(), straight(KINDS["all adam"], stream[:count]))
        with pytest.raises(DriftError, match="no document 'd9'"):
            home.point(before="d9")
        with pytest.raises(DriftError, match="`point.as_of` was 'soon'"):
            home.point(as_of="soon")
        with pytest.raises(DriftError, match="one of them"):
            home.point()
    with home_in(tmp_path / "undated") as home:
        home.read(stream[2])
        with pytest.raises(DriftError, match="names a time"):
            home.point(as_of="2001")


def test_equal_tensors_are_on_disk_once(tmp_path: Path) -> None:
    whole = sum(value.numel() * 4 for value in model().model.state_dict().values())
    place = tmp_path / "home" / "snapshots"
    with home_in(tmp_path / "home") as home:
        home.snapshot("new")
        assert size(place) == place.joinpath("new.json").stat().st_size < 10_000  # the manifest
        home.read(READ[0])
        home.snapshot("one")
        one = size(place)
        assert one > whole  # Adam changes all and has means of its own
        home.snapshot("again")
        assert size(place) - one == place.joinpath("again.json").stat().st_size
    with home_in(tmp_path / "lora", KINDS["lora sgd"]) as home:
        home.read(READ[0])
        home.snapshot("one")
    assert size(tmp_path / "lora" / "snapshots") < whole


def test_long_texts_are_on_disk_once(tmp_path: Path) -> None:
    long = Document("long", f"unmistakable {words(400)}")
    with home_in(tmp_path / "home", KINDS["words"]) as home:
        home.read(long)
        for name in ("one", "two"):
            home.snapshot(name)
            home.read(Document(name, "the sea"))
        held = home.snapshots.load(home.snapshots.read("two"), home.replay.priors)
        assert held.state.values["source 0"]["documents"] == [["long", long.text], ["one", "the sea"]]
    found = [name for name, data in bytes_of(tmp_path / "home" / "snapshots").items() if b"unmistakable" in data]
    assert len(found) == 1


def test_snapshots_never_change_and_have_plain_names(tmp_path: Path) -> None:
    with home_in(tmp_path / "home") as home:
        made = home.snapshot("a.b-1_C")
        home.read(READ[0])
        with pytest.raises(DriftError, match="never change"):
            home.snapshot("a.b-1_C")
        assert home.snapshots.ls() == [made]
        for name in ("", "..", "../a", "a/b", ".a", "-a", "a" * 65, "a\n"):
            with pytest.raises(DriftError, match="is no name"):
                home.snapshot(name)
        with pytest.raises(DriftError, match="there is no snapshot 'b'"):
            home.point(snapshot="b")


def test_the_difference_is_that_of_the_tensors(tmp_path: Path) -> None:
    with home_in(tmp_path / "home") as home:
        home.snapshot("new")
        home.read(READ[0])
        home.snapshot("one")
        home.read(READ[1])
        home.snapshot("two")
        states = [straight(KINDS["all adam"], READ[:count]).tensors for count in range(3)]
        for first, second in ((0, 1), (1, 2), (2, 1)):
            names = [("new", "one", "two")[place] for place in (first, second)]
            changes = home.snapshots.diff(*map(home.snapshots.read, names), home.replay.priors)
            assert [change.norm for change in changes] == sorted((change.norm for change in changes), reverse=True)
            found = {change.tensor: change for change in changes}
            moved = [n for n in states[0] if not torch.equal(states[first][n], states[second][n])]
            assert moved and {name for name in found if name.startswith("parameters/")} == set(moved)
            for name in moved:
                distance = torch.dist(states[first][name], states[second][name]).item()
                assert found[name].norm == pytest.approx(distance, rel=1e-4)
                whole = states[first][name].norm().item()
                assert found[name].relative == pytest.approx(distance / whole, rel=1e-4)
        one = home.snapshots.read("one")
        assert home.snapshots.diff(one, one, home.replay.priors) == []


def test_what_is_pruned_frees_its_room_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "home" / "snapshots"
    with home_in(tmp_path / "home") as home:
        home.read(READ[0])
        home.snapshot("one")
        before = bytes_of(place)
        home.read(READ[1])
        home.snapshot("two")
        with_two = size(place)
        (place / "objects" / "left.partial").write_bytes(b"12345")  # by a crash
        with pytest.raises(DriftError, match="no snapshot 'three'"):
            home.snapshots.prune(["two", "three"])
        assert home.snapshots.names() == ["one", "two"]
        freed = home.snapshots.prune(["two"])
        assert bytes_of(place) == before and freed == with_two + 5 - size(place)
    assert verify(tmp_path / "home") == []


def test_a_damaged_snapshot_is_named_and_stands_in_nobodys_way(tmp_path: Path) -> None:
    place = tmp_path / "home" / "snapshots"
    with home_in(tmp_path / "home") as home:
        for document in READ[:2]:
            home.read(document)
        home.snapshot("two")
        home.read(READ[2])
        file = sorted((place / "objects").iterdir())[0]
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        home.restore(home.point(snapshot="two"))  # reads both documents again
        assert_same(home.memory.state(), straight(KINDS["all adam"], READ[:2]))
    (problem,) = verify(tmp_path / "home")
    assert file.name in problem
    with home_in(tmp_path / "home") as home:
        home.snapshot("again")  # writes the file anew
    assert verify(tmp_path / "home") == []
