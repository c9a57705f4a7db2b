"""A file that is moved away or cut off while it is followed, or while nobody looks: nothing is lost, or it is said."""

import os
from pathlib import Path

import pytest

from driftlm import Document, DriftError
from driftlm.streams.tail.offsets import Offset
from driftlm.streams.tail.sources import Growing, Tail
from tests.support.growing_files import append, line, looked


def test_a_rotated_file_is_read_to_its_end_and_then_the_new_one(tmp_path: Path, quick: None) -> None:
    feed, said = tmp_path / "feed.jsonl", list[str]()
    feed.write_text(line(text="one"))
    source = Growing(str(feed), True, None, None, said.append)
    old = feed.open("ab")
    assert [one.text for one in looked(source)] == ["one"]
    feed.rename(tmp_path / "feed.jsonl.1")
    old.write(line(text="two").encode())
    old.flush()
    assert [one.text for one in looked(source)] == ["two"]  # its writer has not noticed yet
    old.write(line(text="three").encode() + b'{"tex')
    old.close()
    feed.write_text(line(text="one") + line(text="four"))
    assert [one.text for one in looked(source)] == ["three", "one", "four"]
    assert len(said) == 2 and "was replaced" in said[0] and "which was not finished, is left out" in said[1]

    feed.write_text(line(text="five"))  # copied away and cut off
    assert [one.text for one in looked(source)] == ["five"]
    assert "was cut off" in said[2] and len(said) == 3
    source.close()


def interrupted(feed: Path, count: int) -> tuple[list[Document], Offset]:
    """The first documents of a feed, and how far it was read."""
    source, came = Tail([str(feed)], idle=0, piece=1024), list[Document]()
    for document in source:
        came.append(document)
        if len(came) == count:
            break
    return came, source.offset


@pytest.mark.parametrize("stop", range(1, 8))
@pytest.mark.parametrize("replaced", [True, False])
def test_what_was_rotated_while_nobody_looked_is_read_to_its_end(
    stop: int, replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.chdir(tmp_path)
    feed, said = Path("feed.jsonl"), list[str]()
    feed.write_text(line(text="one") + line(text="two " * 1000) + line(text="three"))  # the second in four pieces
    first, offset = interrupted(feed, stop)
    append(feed, line(text="late"))
    whole = list(Tail([str(feed)], idle=0, piece=1024))  # as if it had stayed
    assert len(whole) == 7
    feed.rename("feed-2024.jsonl")
    Path("feed.jsonl.1").write_text(line(text="another") * 90)
    if replaced:
        feed.write_text(line(text="new"))
    source = Tail([str(feed)], idle=0, piece=1024, offsets=[offset], say=said.append)
    rest = list(source)
    assert [one for one in (*first, *rest) if one.text != "new"] == whole
    assert [one.text for one in rest].count("new") == replaced and source.offset.file == str(feed)
    assert "feed.jsonl was moved to feed-2024.jsonl, whose rest is read first" in said[0]
    assert len(said) == 1 + replaced
    again = Tail([str(feed)], idle=0, piece=1024, offsets=[source.offset])
    assert list(again) == []


def test_a_refusal_names_the_rotated_file_and_text_ends_with_it(tmp_path: Path, quick: None) -> None:
    log = tmp_path / "log"
    log.write_text("one\n\ntwo")
    first, offset = interrupted(log, 1)
    append(log, " and three")
    log.rename(tmp_path / "log.1")
    log.write_text("four\n\n")
    rest = list(Tail([str(log)], idle=0, offsets=[offset]))
    assert [one.text for one in (*first, *rest)] == ["one\n", "two and three", "four\n"]
    append(tmp_path / "log.1", b"\n\nnot \xff\n\n")
    with pytest.raises(DriftError, match=r"log\.1: not UTF-8 at byte offset"):
        list(Tail([str(log)], idle=0, offsets=[offset]))


@pytest.mark.parametrize("how", ["renamed otherwise", "shorter", "no line ends there"])
def test_another_file_is_not_taken_for_the_rotated_one(how: str, tmp_path: Path, quick: None) -> None:
    feed, said = tmp_path / "feed.jsonl", list[str]()
    feed.write_text("".join(line(text=text) for text in ("one", "two", "three")))
    _, offset = interrupted(feed, 3)
    append(feed, line(text="late"))
    old = tmp_path / ("other.jsonl" if how == "renamed otherwise" else "feed.jsonl.1")
    feed.rename(old)
    if how == "shorter":
        os.truncate(old, offset.start)
    elif how == "no line ends there":
        old.write_text("x" * 200 + "\n")  # the same file, written anew
    feed.write_text(line(text="new"))
    again = Tail([str(feed)], idle=0, offsets=[offset], say=said.append)
    assert [one.text for one in again] == ["new"] and "what came into the old one since is not read" in said[0]
