"""The server as a process: the official client, kill -9 under load, and a stop in order."""

import os
import random
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from driftlm import load, read_stream
from driftlm.homes.home import Home
from driftlm.homes.journal import Journal
from driftlm.homes.verifying import verify
from driftlm.memories.build import memory_for
from driftlm.models.loading import LanguageModel, no_progress_bar
from tests.support.homes import assert_same
from tests.support.running import Outcome, Process, finish, start, tiny_model, words

for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package, reason="needs the extra serve")
openai = pytest.importorskip("openai", reason="the official client is not installed")
httpx2 = pytest.importorskip("httpx2", reason="needs the extra serve")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")

ADA, BO = "ada-0123456789abcdef", "bo-0123456789abcdef"
GRID = ("--context", 32, "--stride", 16, "--threads", 1, "--compare", "none")
KILLS = 10


class Served:
    """A server that runs: its process, its address."""

    def __init__(self, process: Process) -> None:
        self.process, self.address = process, ""
        self.outcome: Outcome | None = None

    def listens(self) -> bool:
        text = self.process.err.read_text() if self.process.err.exists() else ""
        found = re.search(r"serving on (http://\S+)\n", text)
        self.address = found[1] if found else ""
        return bool(found)

    def end(self, number: int = signal.SIGKILL) -> Outcome:
        """Send it a signal, once, and wait for its end."""
        if self.outcome is None:
            self.process.kill(number)
            self.outcome = self.process.wait()
        return self.outcome


@contextmanager
def serving(folder: Path, *more: object) -> Iterator[Served]:
    """A server of the tiny model over `folder/homes`; killed at the end, where it still runs."""
    (folder / "tokens").write_text(f"ada {ADA}\nbo {BO}\n")
    model = tiny_model(folder)
    place = ("--model", model, "--home-folder", "homes", "--port", 0, "--tokens", "tokens")
    (folder / "stderr.log").unlink(missing_ok=True)
    served = Served(start(folder, "serve", *place, "--sources", "bm25", *GRID, *more))
    try:
        assert served.process.wait_until(served.listens), served.process.err.read_text()
        yield served
    finally:
        served.end()


def post(address: str, path: str, body: Any, token: str = ADA) -> Any:
    with httpx2.Client(timeout=60) as client:
        return client.post(f"{address}{path}", json=body, headers={"authorization": f"Bearer {token}"})


def test_the_official_client_completes_chats_and_streams(tmp_path: Path) -> None:
    with serving(tmp_path, "--learn", "lora", "--rank", 2) as served:
        address = served.address
        assert post(address, "/v1/read", {"text": words(20)}).status_code == 200
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=ADA, max_retries=0)
        model = client.models.list().data[0].id
        assert client.models.retrieve(model).id == model == "llama"

        made = client.completions.create(model=model, prompt="the sea", max_tokens=6, temperature=0, logprobs=2)
        assert made.usage.completion_tokens == len(made.choices[0].logprobs.tokens) <= 6
        pieces = client.completions.create(model=model, prompt="the sea", max_tokens=6, temperature=0, stream=True)
        assert "".join(piece.choices[0].text for piece in pieces) == made.choices[0].text

        asked = {
            "model": model,
            "messages": [{"role": "system", "content": "the storm"}, {"role": "user", "content": "the sea?"}],
            "max_completion_tokens": 8,
            "temperature": 0.7,
            "seed": 5,
            "stop": ["zz"],
        }
        said = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3)
        assert said.choices[0].message.role == "assistant" and said.choices[0].finish_reason in ("stop", "length")
        assert len(said.choices[0].logprobs.content[0].top_logprobs) == 3
        parts = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        assert text == said.choices[0].message.content and parts[-1].usage == said.usage

        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
        with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
            client.completions.create(model="gpt", prompt="the")
        with pytest.raises(openai.BadRequestError, match="one choice"):
            client.chat.completions.create(**asked, n=2)


def test_killed_under_load_it_has_what_it_acknowledged(tmp_path: Path) -> None:
    """Documents, snapshots and weights, bit by bit; whatever was begun and not acknowledged does no harm."""
    with no_progress_bar():
        model = load(tiny_model(tmp_path))
    chance, own = random.Random(0), {"ada": Straight(), "bo": Straight()}
    for kill in range(KILLS):
        with serving(tmp_path, "--learn", "norms", "--rule", "sgd", "--most-in-memory", 1) as served:
            process, address = served.process, served.address
            awaited = ("documents", "snapshots")[kill % 2]
            before = acknowledged(own, awaited)

            def press(name: str, token: str, client: int, kill: int = kill, address: str = address) -> None:
                with (
                    suppress(httpx2.HTTPError),
                    httpx2.Client(base_url=address, timeout=60, headers={"authorization": f"Bearer {token}"}) as http,
                ):
                    for number in range(10_000):
                        many = [f"{name}-{kill}-{client}-{number}-{part}" for part in range(2)]
                        rows = [{"id": id, "text": f"{id} {words(6, number)}"} for id in many]
                        reply = http.post("/v1/read", json={"documents": rows})
                        assert reply.status_code == 200, reply.text
                        own[name].documents |= {row["id"] for row in reply.json()["data"]}
                        reply = http.post("/v1/snapshots", json={"name": many[0]})
                        assert reply.status_code == 200, reply.text
                        own[name].snapshots |= {reply.json()["name"]}

            clients = (("ada", ADA, 0), ("bo", BO, 0), ("bo", BO, 1))
            threads = [threading.Thread(target=press, args=one) for one in clients]
            for thread in threads:
                thread.start()
            assert process.wait_until(lambda awaited=awaited, before=before: acknowledged(own, awaited) > before)
            time.sleep(chance.uniform(0, 0.3))
            assert served.end().code == -signal.SIGKILL
            for thread in threads:
                thread.join(60)
        for name, one in own.items():
            home = tmp_path / "homes" / name
            if (home / "home.json").exists():
                assert verify(home) == []
                shutil.copytree(home, tmp_path / "copy")  # so that the server has to come back by itself
                one.compare(tmp_path / "copy", model)
                shutil.rmtree(tmp_path / "copy")
            else:
                assert not one.documents
    assert acknowledged(own, "snapshots") >= KILLS // 2


def acknowledged(own: "dict[str, Straight]", kind: str) -> int:
    """How many, of all tenants."""
    return sum(len(getattr(one, kind)) for one in own.values())


class Straight:
    """What a tenant's server acknowledged, and a memory in no folder that reads what the journal has."""

    def __init__(self) -> None:
        self.documents, self.snapshots = set[str](), set[str]()
        self.read = list[int]()
        self.memory: Any = None

    def compare(self, folder: Path, model: LanguageModel) -> None:
        """A home has what was acknowledged, and states, present and kept, as this memory comes by them."""
        with Home.open(folder, model) as home:
            if self.memory is None:
                self.memory = memory_for(home.settings, model, None)
            snapshots = home.snapshots.ls()
            entries = list(home.journal.entries(home.history))
            assert self.documents <= {one.id for one in entries}
            assert self.snapshots <= {one.name for one in snapshots}
            assert home.history[: len(self.read)] == self.read
            for entry in [None, *entries[len(self.read) :]]:
                if entry is not None:
                    for _ in read_stream(self.memory, [entry.document]):
                        pass
                    self.read.append(entry.seq)
                for one in snapshots:
                    if one.history == self.read:
                        assert_same(home.snapshots.load(one, home.replay.priors).state, self.memory.state())
            assert_same(home.memory.state(), self.memory.state())


def kept(home: Path) -> set[str]:
    """Ids that a home's journal has."""
    journal = Journal.open(home / "journal.sqlite")
    try:
        return {entry.id for entry in journal.entries(journal.history())}
    finally:
        journal.close()


HEAD = b"POST /v1/read HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer " + ADA.encode()
GET = b"GET /health HTTP/1.1\r\nhost: x\r\n"
RAW = {
    "no request": b"\x00\x01\x02\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
    "a line and no version": b"GET /health\r\n\r\n",
    "a version that is none": b"GET /health HTTP/one\r\nhost: x\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"host: y\r\n\r\n",
    "a header without a name": GET + b": x\r\n\r\n",
    "a header with a zero byte": GET + b"x: \x00\r\n\r\n",
    "a header with a space in its name": GET + b"a b: c\r\n\r\n",
    "a huge header": GET + b"x: " + b"a" * 200_000 + b"\r\n\r\n",
    "thousands of headers": GET + b"x: a\r\n" * 30_000 + b"\r\n",
    "a huge path": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "a huge token": GET + b"authorization: Bearer " + b"a" * 200_000 + b"\r\n\r\n",
    "a length below zero": HEAD + b"\r\ncontent-length: -1\r\n\r\n",
    "a length that is none": HEAD + b"\r\ncontent-length: ten\r\n\r\n",
    "two lengths": HEAD + b"\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a length without end": HEAD + b"\r\ncontent-length: " + b"9" * 300 + b"\r\n\r\n{}",
    "a chunk that is none": HEAD + b"\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "an unknown coding": HEAD + b"\r\ntransfer-encoding: rot13\r\ncontent-length: 2\r\n\r\n{}",
    "a compressed body": HEAD + b"\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
    "half a body": HEAD + b'\r\ncontent-length: 99\r\n\r\n{"text": "the',
    "half a head": HEAD,
}


def test_what_is_no_request_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    with serving(tmp_path, "--learn", "none") as served:
        address = served.address
        assert post(address, "/v1/read", {"documents": [{"id": "a", "text": "the sea"}]}).status_code == 200
        host, port = address.removeprefix("http://").split(":")
        for name, raw in RAW.items():
            with socket.create_connection((host, int(port)), timeout=30) as connection:
                with suppress(ConnectionError):  # it need not hear all of it
                    connection.sendall(raw)
                    connection.shutdown(socket.SHUT_WR)
                answer = b""
                with suppress(ConnectionError):
                    while part := connection.recv(65536):
                        answer += part
            assert not answer or answer.startswith(b"HTTP/1.1 4"), (name, answer[:200])
        assert served.process.running()
        listed = httpx2.get(f"{address}/v1/memory", headers={"authorization": f"Bearer {ADA}"}).json()
        assert [row["id"] for row in listed["data"]] == ["a"]
        outcome = served.end(signal.SIGTERM)
        assert outcome.code == 0 and "Traceback" not in outcome.err and ADA not in outcome.err, outcome.err


def test_it_stops_in_order(tmp_path: Path) -> None:
    with serving(tmp_path, "--learn", "lora", "--rank", 2, "--rule", "sgd") as served:
        process, address = served.process, served.address
        replies: dict[str, Any] = {}

        def read(name: str, token: str, count: int) -> None:
            rows = [{"id": f"d{number}", "text": words(40, number)} for number in range(count)]
            replies[name] = post(address, "/v1/read", {"documents": rows}, token)

        def begun() -> bool:
            home = tmp_path / "homes" / "ada"
            return (home / "home.json").exists() and bool(kept(home))

        threads = [threading.Thread(target=read, args=one) for one in (("ada", ADA, 25), ("bo", BO, 1))]
        threads[0].start()
        assert process.wait_until(begun)
        threads[1].start()
        waits = f"{address}/metrics"
        headers = {"authorization": f"Bearer {ADA}"}
        assert process.wait_until(lambda: "jobs_waiting 1" in httpx2.get(waits, headers=headers).text)
        outcome = served.end(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert outcome.code == 0, outcome.err
        assert replies["ada"].status_code == 200 and len(replies["ada"].json()["data"]) == 25  # it had begun
        assert replies["bo"].status_code == 503 and "retry-after" in replies["bo"].headers  # it had not
        assert len(kept(tmp_path / "homes" / "ada")) == 25 and not (tmp_path / "homes" / "bo").exists()
        assert (tmp_path / "homes" / "ada" / "state").exists() and verify(tmp_path / "homes" / "ada") == []
        assert ADA not in outcome.err and BO not in outcome.err and "Traceback" not in outcome.err


def test_in_the_middle_of_a_long_document_it_answers_and_is_killed_or_stopped(tmp_path: Path) -> None:
    """What was half read when it was killed was never read; what is being read when it is to stop is read whole."""
    long = {"id": "long", "text": words(400, 1)}
    with no_progress_bar():
        model = load(tiny_model(tmp_path))
    homes, headers = tmp_path / "homes" / "ada", {"authorization": f"Bearer {ADA}"}
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)):
        replies = list[Any]()

        def read(address: str, replies: list[Any] = replies) -> None:
            with suppress(httpx2.HTTPError):
                replies.append(post(address, "/v1/read", {"documents": [long]}))

        with serving(tmp_path, "--learn", "lora", "--rank", 2, "--rule", "sgd") as served:
            assert "a window of 16 tokens is read in " in served.process.err.read_text()
            address = served.address

            def reading(address: str = address) -> Any:
                return httpx2.get(f"{address}/v1/reading", headers=headers).json()["document"]

            thread = threading.Thread(target=read, args=(address,))
            thread.start()
            assert served.process.wait_until(lambda reading=reading: reading() and reading()["tokens"])
            asked = {"model": "llama", "prompt": "the sea", "max_tokens": 1, "temperature": 0}
            assert post(address, "/v1/completions", asked).status_code == 200
            assert reading()["state"] == "reading" and not replies
            assert served.end(number).code == code, served.process.err.read_text()
            thread.join(60)
        assert verify(homes) == []
        assert [reply.status_code for reply in replies] == [200] * (number == signal.SIGTERM)
        with Home.open(homes, model) as home:
            assert [entry.id for entry in home.journal.entries(home.history)] == ["long"] * len(replies)
            memory = memory_for(home.settings, model, None)
            for entry in home.journal.entries(home.history):
                for _ in read_stream(memory, [entry.document]):
                    pass
            assert_same(home.memory.state(), memory.state())


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (("--host", "0.0.0.0"), "--tokens FILE"),
        (("--tokens", "missing"), "cannot be read"),
        (("--port", "70000"), "--port was 70000"),
        (("--rule", "mixture"), "mixture"),
        (("--queue", "0"), "--queue was 0"),
        (("--max-tokens", "0"), "--max-tokens was 0"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path: Path, more: tuple[str, ...], part: str) -> None:
    place = ("--model", tiny_model(tmp_path), "--home-folder", "homes", *GRID, *more)
    outcome = finish(tmp_path, "serve", *place)
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and part in outcome.err, outcome


def test_a_model_that_the_default_windows_do_not_fit_is_refused_with_those_that_do(tmp_path: Path) -> None:
    place = ("--model", tiny_model(tmp_path, "gpt2"), "--home-folder", "homes", "--port", 0)
    outcome = finish(tmp_path, "serve", *place, *GRID)
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and "give --window overlapping" in outcome.err, outcome


def test_a_port_that_is_taken_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = finish(tmp_path, "serve", "--model", "missing", "--home-folder", "homes", "--port", port)
    assert outcome.code == 2 and outcome.err.count("\n") == 1, outcome
    assert f"port {port} of 127.0.0.1 is taken" in outcome.err and not (tmp_path / "homes").exists()


def test_a_second_server_over_the_same_homes_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, "--learn", "none") as served:
        outcome = finish(tmp_path, "serve", "--model", "missing", "--home-folder", "homes", "--port", 0)
        assert outcome.code == 2 and outcome.err.count("\n") == 1, outcome
        assert "homes is open already" in outcome.err and served.process.running()


def test_a_name_with_addresses_of_two_kinds_is_served_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from driftlm import DriftError
    from driftlm.serving.running import bound

    here, elsewhere = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)), "192.0.2.1"  # RFC 5737: nowhere
    away = (*here[:4], (elsewhere, 0))
    for found in ([here, away], [away, here]):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, found=found, **__: found)
        with bound("name", 0) as sockets:
            assert [one.getsockname()[0] for one in sockets] == ["127.0.0.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [away])
    with pytest.raises(DriftError, match="cannot be listened to"), bound("name", 0):
        pass
