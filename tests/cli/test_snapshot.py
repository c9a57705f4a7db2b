"""The verbs of homes and snapshots, from making a home to forgetting, and their refusals."""

import json
from pathlib import Path

import pytest

from tests.support.homes import bytes_of
from tests.support.running import driftlm, refused, tiny_model, words

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def home(tmp_path: Path, capsys: Capture) -> str:
    """A home that has read three documents, with a snapshot behind the first."""
    news = tmp_path / "news"
    news.mkdir()
    for number in range(3):
        record = {"id": f"n{number}", "text": f"mark{number} {words(8, number)}", "date": f"200{number}-05-05"}
        (news / f"{number}.jsonl").write_text(json.dumps(record) + "\n")
    place = str(tmp_path / "home")
    settings = ["--model", tiny_model(tmp_path), "--window", "cached", "--context", "32", "--stride", "16"]
    made = driftlm(capsys, "home", "new", place, *settings, "--learn", "lora", "--rank", "2", "--sources", "bm25")
    assert made.code == 0, made.err
    first = driftlm(capsys, "home", "read", place, news / "0.jsonl")
    assert first.code == 0 and first.out.startswith("n0: ") and "by the static model" in first.out, first
    assert driftlm(capsys, "snapshot", "make", place, "one").code == 0
    lines = driftlm(capsys, "home", "read", place, news, "--json").out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["n0", "n1", "n2"]
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3]  # the first was not read again
    return place


def listed(capsys: Capture, home: str) -> dict[str, bool]:
    return {one["id"]: one["active"] for one in driftlm(capsys, "home", "ls", home, "--json").summary["documents"]}


def test_a_home_is_taken_back_and_on_again(home: str, capsys: Capture) -> None:
    assert driftlm(capsys, "snapshot", "make", home, "all", "--json").summary["documents"] == 3
    (one, all_) = driftlm(capsys, "snapshot", "ls", home, "--json").summary["snapshots"]
    assert (one["name"], one["document"], one["time"], one["documents"]) == ("one", "n0", "2000-05-05", 1)
    assert all_["documents"] == 3 and not all_["holds_forgotten"] and len(all_["digest"]) == 64
    assert "3 documents, last n2 (2002-05-05)" in driftlm(capsys, "snapshot", "ls", home).out

    asked = driftlm(capsys, "snapshot", "restore", home, "--as-of", "2001", "--cost", "--json")
    assert asked.summary["cost"]["documents"] == 1 and asked.summary["cost"]["start"] == "one"
    assert "1 documents" in asked.err and "read again from 'one'" in asked.err
    assert listed(capsys, home) == {"n0": True, "n1": True, "n2": True}
    assert asked.summary["left"] == 1 and asked.summary["kept_by"] == ["all"]
    assert "1 documents would leave the state" in asked.err and "'all' holds the present state" in asked.err
    for where, count in ((["--as-of", "2001"], 2), (["--before", "n1"], 1), (["all"], 3), (["one"], 1)):
        assert driftlm(capsys, "snapshot", "restore", home, *where, "--json").summary["documents"] == count
        assert list(listed(capsys, home).values()).count(True) == count
    assert "(not behind the present state)" in driftlm(capsys, "home", "ls", home).out
    assert "leave the state" not in driftlm(capsys, "snapshot", "restore", home, "all").err

    found = driftlm(capsys, "snapshot", "diff", home, "one", "all", "--json").summary
    assert found["added"] == ["n1", "n2"] and found["missing"] == []
    assert found["tensors"] and all(change["norm"] > 0 for change in found["tensors"] if change["relative"])
    back = driftlm(capsys, "snapshot", "diff", home, "all", "one").out
    assert "one has not read n1, n2" in back and "one read nothing" in back

    assert driftlm(capsys, "snapshot", "prune", home, "--keep", "1", "--json").summary["removed"] == ["one"]
    assert driftlm(capsys, "snapshot", "verify", home, "--json").summary["problems"] == []
    assert "all as it was written" in driftlm(capsys, "snapshot", "verify", home).out
    damaged = sorted(Path(home, "snapshots", "objects").iterdir())[0]
    damaged.write_bytes(b"")
    problems = driftlm(capsys, "snapshot", "verify", home)
    assert problems.code == 1 and damaged.name in problems.out


def test_it_is_said_that_no_snapshot_leads_back(home: str, capsys: Capture) -> None:
    where = ("snapshot", "restore", home, "one")
    assert "2 documents would leave the state" in (asked := driftlm(capsys, *where, "--cost")).err
    assert "no snapshot holds the present state: make one first" in asked.err
    done = driftlm(capsys, *where, "--json")
    assert "2 documents leave the state" in done.err and "read them again" in done.err
    assert done.summary["left"] == 2 and done.summary["kept_by"] == []


def test_a_time_that_nobody_can_read_is_said_once_and_the_document_is_read(
    home: str, capsys: Capture, tmp_path: Path
) -> None:
    rows = [{"id": f"x{number}", "text": words(6, number), "date": "yesterdayish"} for number in range(2)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = driftlm(capsys, "home", "read", home, tmp_path / "more.jsonl")
    assert read.code == 0 and read.err.count("'yesterdayish'") == 1 and "'x0'" in read.err
    assert "such as 2024-05-01" in read.err and listed(capsys, home).keys() >= {"x0", "x1"}


def test_documents_are_forgotten_with_the_cost_said_first(home: str, capsys: Capture) -> None:
    driftlm(capsys, "snapshot", "make", home, "all")
    asked = driftlm(capsys, "home", "forget", home, "n1", "--cost", "--json").summary
    assert asked["forgotten"] == [] and asked["held_by"] == ["all"] and asked["cost"]["documents"] == 1
    assert len(listed(capsys, home)) == 3
    done = driftlm(capsys, "home", "forget", home, "n1")
    assert done.code == 0 and "read again from 'one'" in done.err and "all still hold them" in done.err
    assert listed(capsys, home) == {"n0": True, "n2": True}
    refused(driftlm(capsys, "snapshot", "restore", home, "all"), "forgotten since", "--purge")
    assert "holds what was forgotten" in driftlm(capsys, "snapshot", "ls", home).out
    assert driftlm(capsys, "home", "forget", home, "--purge", "--json").summary["held_by"] == []
    assert driftlm(capsys, "snapshot", "restore", home, "all", "--json").summary["documents"] == 2
    assert not any(b"mark1" in data for data in bytes_of(Path(home)).values())


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("home", "a home can new, read, ask, ls, forget"),
        ("snapshot", "make, ls, restore, diff, verify, prune"),
        ("home ls nowhere", "holds no home"),
        ("snapshot verify nowhere", "holds no home"),
        ("home read nowhere", "no source was given"),
        ("home new here --rule mixture --sources bm25", "without sources"),
    ],
)
def test_bad_input_gets_one_sentence(
    line: str, part: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(driftlm(capsys, *line.split()), part)
    assert not list(tmp_path.iterdir())


def test_bad_input_to_a_home_gets_one_sentence(home: str, capsys: Capture) -> None:
    for line, part in (
        (["snapshot", "make", home, "one"], "never change"),
        (["snapshot", "restore", home], "give one of them"),
        (["snapshot", "diff", home, "one", "two"], "no snapshot 'two'"),
        (["snapshot", "prune", home, "one", "--keep", "1"], "--keep was 1"),
        (["home", "forget", home], "no document was named"),
        (["home", "forget", home, "n7"], "no document 'n7' was read"),
        (["home", "new", home], "not empty"),
    ):
        refused(driftlm(capsys, *line), part)
