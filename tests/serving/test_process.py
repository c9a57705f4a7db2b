"""The server as a process: the official client, kill -9 under load, and a stop in order."""

import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from driftlm.live.journal import Journal
from driftlm.live.verifying import verify
from tests.running import Outcome, Process, finish, start, tiny_model, words

for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package, reason="needs the extra serve")
openai = pytest.importorskip("openai", reason="the official client is not installed")
httpx2 = pytest.importorskip("httpx2", reason="needs the extra serve")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")

ADA, BO = "ada-0123456789abcdef", "bo-0123456789abcdef"
GRID = ("--context", 32, "--stride", 16, "--threads", 1, "--compare", "none")
KILLS = 6


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
    chance, acknowledged = random.Random(0), {"ada": set[str](), "bo": set[str]()}
    for kill in range(KILLS):
        with serving(tmp_path, "--learn", "none", "--most-in-memory", 1) as served:
            process, address = served.process, served.address
            many = sum(map(len, acknowledged.values()))

            def load(name: str, token: str, kill: int = kill, address: str = address) -> None:
                number = 0
                while True:
                    ids = [f"{name} {kill} {number} {part}" for part in range(2)]
                    rows = [{"id": id, "text": words(6, hash(id))} for id in ids]
                    try:
                        reply = post(address, "/v1/read", {"documents": rows}, token)
                    except httpx2.HTTPError:
                        return
                    assert reply.status_code == 200, reply.text
                    acknowledged[name] |= {row["id"] for row in reply.json()["data"]}
                    number += 1

            threads = [threading.Thread(target=load, args=one) for one in (("ada", ADA), ("bo", BO), ("bo", BO))]
            for thread in threads:
                thread.start()
            assert process.wait_until(lambda many=many: sum(map(len, acknowledged.values())) > many)
            time.sleep(chance.uniform(0, 0.3))
            assert served.end().code == -signal.SIGKILL
            for thread in threads:
                thread.join(60)
        for name, ids in acknowledged.items():
            if (tmp_path / "homes" / name / "home.json").exists():
                assert verify(tmp_path / "homes" / name) == []
                assert ids <= kept(tmp_path / "homes" / name)
            else:
                assert not ids


def kept(home: Path) -> set[str]:
    """Ids that a home's journal has."""
    journal = Journal.open(home / "journal.sqlite")
    try:
        return {entry.id for entry in journal.entries(journal.history())}
    finally:
        journal.close()


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
