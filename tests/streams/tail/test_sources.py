"""What is followed comes whole, once and in order: however it is written, replaced, or its reader killed."""

import json
import os
import random
import re
import signal
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftlm import Document, DriftError
from driftlm.streams.documents import read_documents
from driftlm.streams.tail.offsets import Offset, Offsets
from driftlm.streams.tail.parsing import BLOCK
from driftlm.streams.tail.sources import Growing, Tail, ended_by_signals
from tests.support.growing_files import append, line, looked
from tests.support.running import QUICK, checkpoints, driftlm, ending, finish, refused, start, tiny_model, words

Capture = pytest.CaptureFixture[str]
processes = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")


# ------------------------------------------------------------------------------------------------- files that grow


def test_lines_come_whole_whatever_is_written_at_a_time(tmp_path: Path, quick: None) -> None:
    feed = tmp_path / "feed.jsonl"
    feed.write_text("")
    texts = [f"{number} é😀 \u2028 rain" for number in range(40)]
    raw = "".join(line(text=text, date=str(number)) for number, text in enumerate(texts)).encode()
    portions = random.Random(1)

    def write() -> None:
        at = 0
        while at < len(raw):
            size = portions.randint(1, 90)
            append(feed, raw[at : at + size])
            at += size
            time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    came = list(Tail([str(feed)], idle=0.5))
    writer.join()
    assert [one.text for one in came] == texts and [one.time for one in came] == [str(n) for n in range(40)]
    starts = [0, *(match.end() for match in re.finditer(rb"\n", raw))][:40]
    parts = raw.splitlines(keepends=True)
    assert [one.id for one in came] == [
        f"{feed}:{at}-{sha256(part).hexdigest()[:8]}" for at, part in zip(starts, parts)
    ]


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(["a", "é😀", "\n", "\n\n", " \n", "x" * 1500]), max_size=30),
    st.lists(st.integers(1, 2000), max_size=12),
)
def test_paragraphs_do_not_depend_on_when_they_are_looked_at(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], sizes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("text") / "log"
    path.write_bytes(b"")
    raw = "".join(parts).encode()
    source = Growing(str(path), False, None, None, print)
    came: list[Document] = []
    try:
        for size in (*sizes, len(raw)):
            append(path, raw[:size])
            raw = raw[size:]
            came += looked(source)
    finally:
        source.close()
    whole = "".join(parts)
    ended = whole[: whole.rfind("\n") + 1]
    expected, block = list[str](), ""
    for paragraph in re.split(r"(?m)^[ ]*\n", ended):  # by lines that hold nothing
        expected += [block] if block else []  # ended by the blank line; the last one waits for one
        block = ""
        for row in paragraph.splitlines(keepends=True):
            block += row
            if len(block.encode()) >= BLOCK:
                expected.append(block)
                block = ""
    assert [one.text for one in came] == expected
    assert all(whole.encode()[int(one.id.split(":")[-1].split("-")[0]) :].startswith(one.text.encode()) for one in came)


def test_a_line_that_has_not_ended_waits_and_is_named(tmp_path: Path, quick: None) -> None:
    feed, said = tmp_path / "feed.jsonl", list[str]()
    feed.write_text(line(id="a", text="one") + '{"id": "b", "te')
    assert [one.id for one in Tail([str(feed)], idle=0, say=said.append)] == ["a"]
    assert said == [f"{feed}: the last 15 bytes are not read, as their line has not ended"]
    append(feed, 'xt": "two"}\n\n')
    assert [one.id for one in Tail([str(feed)], idle=0)] == ["a", "b"]


def test_a_line_that_is_none_is_refused_where_it_stands(tmp_path: Path, quick: None) -> None:
    feed, log = tmp_path / "feed.jsonl", tmp_path / "log"
    feed.write_text(line(text="é") + "{oops}\n")
    log.write_bytes(b"fine\n\nnot \xff\n\n")
    with pytest.raises(DriftError, match=f"feed.jsonl, byte {len(line(text='é').encode())}, column 2: not valid JSON"):
        list(Tail([str(feed)], idle=0))
    with pytest.raises(DriftError, match="log: not UTF-8 at byte offset 10;"):
        list(Tail([str(log)], idle=0))
    for sources, part in (
        ([str(tmp_path / "nothing")], "no such file or folder"),
        (["dataset:squad"], "does not grow"),
        (["a.jsonl.gz"], "is compressed"),
        ([], "nothing was given"),
        ([str(log), str(log)], "given twice"),
    ):
        with pytest.raises(DriftError, match=part):
            Tail(sources)
    with pytest.raises(DriftError, match="`Stream.piece`"):
        Tail([str(log)], piece=3)


@pytest.mark.parametrize("stop", range(1, 8))
def test_from_a_place_it_goes_on_behind_what_was_given(stop: int, tmp_path: Path, quick: None) -> None:
    feed = tmp_path / "feed.jsonl"
    feed.write_text(line(text="one") + line(text="two " * 1000) + line(text="three"))  # the second in four pieces
    whole = list(Tail([str(feed)], idle=0, piece=1024))
    assert len(whole) == 6
    first, offset = list[Document](), Offset("", "", 0, 0)
    source = Tail([str(feed)], idle=0, piece=1024)
    for document in source:
        first, offset = [*first, document], source.offset
        if len(first) == stop:
            break
    rest = list(Tail([str(feed)], idle=0, piece=1024, offsets=[offset]))
    assert first + rest == whole
    said = list[str]()
    (other := tmp_path / "other").write_text(line(text="new") * 90)
    other.rename(feed)
    again = Tail([str(feed)], idle=0, offsets=[offset], say=said.append)
    assert {one.text for one in again} == {"new"} and "another file than before" in said[0]
    assert "what came into the old one since is not read" in said[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_behind_the_document_that_is_read(number: int, tmp_path: Path, quick: None) -> None:
    feed = tmp_path / "feed.jsonl"
    feed.write_text(line(text="one") + line(text="two"))
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    tail, seen = Tail([str(feed)]), list[str]()
    with ended_by_signals(tail):
        for document in tail:
            os.kill(os.getpid(), number)
            seen.append(document.text)
    assert seen == ["one"]

    def twice() -> None:
        with ended_by_signals(tail):
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):  # a second one does not wait
        twice()
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    ending_soon = Tail([str(feed)])
    with ended_by_signals(ending_soon):
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        assert len(list(ending_soon)) == 2


# ------------------------------------------------------------------------------------------------------- folders


def test_a_file_of_a_folder_comes_when_its_writer_is_done(tmp_path: Path, quick: None) -> None:
    offset, said = tmp_path / "feed", list[str]()
    (offset / "deep").mkdir(parents=True)
    (offset / "b.txt").write_text("there already")
    (offset / "a.txt").write_text("there as well")
    os.utime(offset / "a.txt", (2e9, 2e9))  # changed last
    (offset / "empty.txt").write_text("")
    (offset / "note.md").write_text("no text of a feed")

    def write() -> None:
        for _ in range(12):  # slowly, over twice the time in which a file settles
            append(offset / "slow.txt", "rain ")
            append(offset / ".hidden.txt", "sun ")
            time.sleep(0.03)
        (offset / ".hidden.txt").rename(offset / "deep" / "whole.txt")
        (offset / "last.jsonl").write_text(line(id="x", text="one") + line(text="two"))
        time.sleep(0.5)
        append(offset / "a.txt", "!")

    writer = threading.Thread(target=write)
    writer.start()
    came = list(Tail([str(offset)], idle=0.8, say=said.append))
    writer.join()
    assert [one.text for one in came[:2]] == ["there already", "there as well"]
    assert sorted(one.text for one in came[2:]) == ["one", "rain " * 12, "sun " * 12, "two"]
    assert sorted(came, key=str) == sorted(
        [
            *read_documents([str(p) for p in (*offset.glob("[bsl]*.*"), offset / "deep")]),
            Document(str(offset / "a.txt"), "there as well"),
        ],
        key=str,
    )
    assert said == [f"{offset / 'a.txt'} changed after it was read; it is not read again"]


# --------------------------------------------------------------------------------- runs, killed, stopped, gone on with


def news(count: int) -> list[str]:
    return [line(text=words(8 + number % 5, number)) for number in range(count)]


@processes
def test_killed_while_it_follows_a_run_ends_as_one_that_read_the_final_file(tmp_path: Path) -> None:
    lines, feed = news(16), tmp_path / "feed.jsonl"
    settings = ["--model", tiny_model(tmp_path), *QUICK, "--window", "cached", "--follow", "--idle", "0"]
    feed.write_text("".join(lines[:6]))
    killed, command = tmp_path / "killed", list[object]()
    command = ["read", feed, *settings, "--run", killed, "--checkpoint", "0"]
    written, chance = 6, random.Random(3)
    for _ in range(2):
        reached = len(checkpoints(killed)) and int(checkpoints(killed)[0].name[11:])
        process = start(tmp_path, *command, pause=0.02)
        assert process.wait_until(
            lambda reached=reached: any(int(one.name[11:]) > reached + 2 for one in checkpoints(killed))
        ), process.wait()
        more = lines[written : written + 4]
        append(feed, "".join(more)[:-20])  # a line is cut in the middle
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        assert process.wait().code == -signal.SIGKILL
        append(feed, "".join(more)[-20:])
        written += len(more)
        command = ["read", "--resume", killed, "--json", "--checkpoint", "0"]
    append(feed, "".join(lines[written:]))
    assert finish(tmp_path, *command).summary["documents"] == 16
    whole = tmp_path / "whole"
    finish(tmp_path, "read", feed, *settings, "--run", whole)
    assert ending(killed) == ending(whole)
    plain = finish(tmp_path, "read", feed, *settings[:-3], "--run", tmp_path / "plain").summary
    assert plain["nats"] == json.loads((whole / "summary.json").read_text())["nats"]


def came(run: Path) -> int:
    """Documents that a run was given so far."""
    return (run / "followed.jsonl").read_bytes().count(b"\n") if (run / "followed.jsonl").exists() else 0


@processes
def test_a_signal_ends_the_run_in_order_and_it_can_go_on(tmp_path: Path) -> None:
    lines, log = news(9), tmp_path / "log"
    log.write_text("".join(json.loads(one)["text"] + "\n" for one in lines[:4]))
    settings = ["--model", tiny_model(tmp_path), *QUICK, "--follow"]
    run = tmp_path / "run"
    process = start(tmp_path, "read", log, *settings, "--run", run)
    assert process.wait_until(lambda: came(run) == 4), process.wait()
    process.kill(signal.SIGTERM)
    summary = process.wait().summary
    assert summary["documents"] == 4 and json.loads((run / "summary.json").read_text())["documents"] == 4
    append(log, json.loads(lines[7])["text"] + "\n")
    log.rename(tmp_path / "log.1")  # rotated while nobody looked
    log.write_text("".join(json.loads(one)["text"] + "\n" for one in lines[4:7]))
    process = start(tmp_path, "read", "--resume", run, "--json")
    assert process.wait_until(lambda: "log.1, whose rest is read first" in process.err.read_text())
    assert process.wait_until(lambda: came(run) == 8), process.wait()
    process.kill(signal.SIGTERM)
    assert process.wait().summary["documents"] == 8


@processes
def test_a_pipe_is_read_as_it_comes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    settings = ["--model", tiny_model(tmp_path), *QUICK, "--follow", "--checkpoint", "0"]
    process = start(tmp_path, "read", "-", *settings, "--run", tmp_path / "run", stdin=tmp_path / "pipe")
    with (tmp_path / "pipe").open("w") as feed:
        feed.write(words(9) + "\n" + words(7, 1))
        feed.flush()
        log = tmp_path / "run" / "windows.jsonl"
        assert process.wait_until(log.exists)  # while the pipe is open
    assert process.wait().summary["documents"] == 2


# ---------------------------------------------------------------------------------------------------------- homes


def test_a_home_reads_nothing_twice(tmp_path: Path, capsys: Capture, quick: None) -> None:
    home, feed, offset = tmp_path / "home", tmp_path / "feed.jsonl", tmp_path / "texts"
    grid = ["--window", "cached", "--context", 32, "--stride", 16, "--threads", 1, "--learn", "none"]
    assert driftlm(capsys, "home", "new", home, "--model", tiny_model(tmp_path), *grid, "--sources", "bm25").code == 0
    offset.mkdir()
    (offset / "a.txt").write_text("the sea")
    feed.write_text(line(id="x", text="one") + line(id="x", text="two") + line(text="red ring"))

    def follow() -> list[str]:
        done = driftlm(capsys, "home", "read", home, feed, offset, "--follow", "--idle", "0", "--json")
        assert done.code == 0, done.err
        return [json.loads(one)["id"] for one in done.out.splitlines()]

    first = follow()
    assert first[:2] == ["x", "x"] and first[2].startswith(f"{feed}:") and first[3] == str(offset / "a.txt")
    assert follow() == []
    assert driftlm(capsys, "home", "forget", home, "x").code == 0
    append(feed, line(id="y", text="three"))
    (offset / "a.txt").write_text("the red sea")
    assert follow() == ["y", str(offset / "a.txt")]  # what was forgotten stays so, what changed is a newer version
    assert follow() == []
    listed = driftlm(capsys, "home", "ls", home, "--json").summary["documents"]
    assert [one["id"] for one in listed] == [first[2], str(offset / "a.txt"), "y", str(offset / "a.txt")]
    assert driftlm(capsys, "snapshot", "verify", home).code == 0
    assert len((home / "followed.jsonl").read_text().splitlines()) == 2  # a line a file
    refused(driftlm(capsys, "home", "read", home, feed, "--idle", "3"), "--idle was 3.0", "--follow")


def test_a_torn_line_counts_as_never_written_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    kept = Offsets(tmp_path / "followed.jsonl", texts=True)
    for number in range(2):
        kept.add(Document(str(number), "é"), Offset("a", "7", number, 1))
    kept.write()
    append(kept.path, b'{"file": "a", "ma')
    again = Offsets(kept.path, texts=True)
    assert [one.id for one in again.documents()] == ["0", "1"] and again.offsets["a"].start == 1
    again.add(Document("2", "two"), Offset("a", "7", 2, 1))
    again.write()
    assert [one.id for one in Offsets(kept.path, texts=True).documents()] == ["0", "1", "2"]
    append(kept.path, b'{"file": "a"}\n')
    with pytest.raises(DriftError, match="followed.jsonl is damaged at byte"):
        Offsets(kept.path, texts=True)
