"""What a server costs: an answer through it against the same in process, latencies by clients, and kill -9 under load.

    python -m benchmarks.serving [--threads 1] [--rounds 30] [--documents 64] [--clients 1 10 100] [--kills 200]

A server of the bundled model in a process of its own, frozen behind a bank and BM25, and a home with the same documents
in this one. Answers are greedy and equal; every round asks both, so that a ratio compares neighbours in time. Clients
ask one question after the other; a full queue makes them wait, as its answer says, and that counts. Acknowledged
documents are looked for in the journal after every kill.
"""

import argparse
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from driftlm import Learning, Windows, load
from driftlm.live.home import Home
from driftlm.live.journal import Journal
from driftlm.live.settings import HomeSettings
from driftlm.streams.facts import facts

GOAL = 1.2  # x in process
GRID = Windows("overlapping", 128, 64)


class Server:
    """A server in a process of its own."""

    def __init__(self, folder: Path, threads: int, *sources: str) -> None:
        command = [sys.executable, "-m", "driftlm", "serve", "--home-folder", str(folder), "--port", "0"]
        command += ["--learn", "none", "--window", GRID.window, "--compare", "none", "--threads", str(threads)]
        command += ["--context", str(GRID.context), "--stride", str(GRID.stride), "--sources", *sources]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        found = re.search(r"http://([\d.]+):(\d+)", self.process.stderr.readline())
        assert found is not None
        self.host, self.port = found[1], int(found[2])

    def client(self) -> http.client.HTTPConnection:
        """A connection that stays."""
        return http.client.HTTPConnection(self.host, self.port, timeout=600)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.process.wait()


def post(client: http.client.HTTPConnection, path: str, body: Any, seen: Counter[int]) -> Any:
    """An answer; sent again while the queue is full."""
    while True:
        client.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        reply = client.getresponse()
        found = json.loads(reply.read())
        seen[reply.status] += 1
        if reply.status != 429:
            return found
        time.sleep(int(reply.headers["retry-after"]))


def chat(question: str) -> dict[str, Any]:
    """What asks as `Home.answer` does."""
    return {
        "model": "bundled",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 24,
    }


def beside(server: Server, home: Home, questions: list[str]) -> None:
    """The same answers through the server and in process."""
    seconds: dict[str, list[float]] = {"in process": [], "through the server": []}
    client, seen = server.client(), Counter[int]()
    for number, question in enumerate(["warm up?", *questions]):
        began = time.perf_counter()
        text = home.answer(question).text
        between = time.perf_counter()
        said = post(client, "/v1/chat/completions", chat(question), seen)["choices"][0]["message"]["content"]
        assert said == text, (said, text)
        if number:
            seconds["in process"].append(between - began)
            seconds["through the server"].append(time.perf_counter() - between)
    ratio = median(b / a for a, b in zip(*seconds.values(), strict=True))
    for name, found in seconds.items():
        print(f"{name:20} {1000 * median(found):8.1f} ms")
    print(f"{'ratio':20} {ratio:8.2f}     goal {GOAL}")


def latencies(server: Server, questions: list[str], clients: int, each: int) -> None:
    """Percentiles of the time to an answer, with several clients at a time."""
    found, seen = list[float](), Counter[int]()

    def ask(number: int) -> None:
        client = server.client()
        for round_number in range(each):
            began = time.perf_counter()
            post(client, "/v1/chat/completions", chat(questions[(number + round_number) % len(questions)]), seen)
            found.append(time.perf_counter() - began)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate, found = len(found) / (time.perf_counter() - began), sorted(found)
    places = {share: min(len(found) - 1, len(found) * share // 100) for share in (50, 95, 99)}
    shown = "  ".join(f"p{share} {1000 * found[place]:8.0f} ms" for share, place in places.items())
    print(f"{clients:4} clients  {shown}  {rate:6.1f} answers/s  statuses {dict(seen)}")


def killed(folder: Path, threads: int, kills: int) -> None:
    """Documents that were acknowledged and are not there, after kill -9 at random moments."""
    chance, acknowledged, lost = random.Random(0), set[str](), 0
    for kill in range(kills):
        server, before = Server(folder, threads, "bm25"), len(acknowledged)

        def load(number: int, server: Server = server, kill: int = kill) -> None:
            with suppress(OSError, http.client.HTTPException, ValueError):
                client = server.client()
                for count in range(100_000):
                    row = {"id": f"{kill} {number} {count}", "text": "It rained, and the sea was red."}
                    post(client, "/v1/read", {"documents": [row]}, Counter())
                    acknowledged.add(row["id"])

        threads_of = [threading.Thread(target=load, args=(number,)) for number in range(4)]
        for thread in threads_of:
            thread.start()
        while len(acknowledged) == before:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.3))
        server.stop(signal.SIGKILL)
        for thread in threads_of:
            thread.join()
        journal = Journal.open(folder / "default" / "journal.sqlite")
        lost += len(acknowledged - {entry.id for entry in journal.entries(journal.history())})
        journal.close()
    print(f"{kills} kills: {len(acknowledged)} documents acknowledged, {lost} lost")


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--kills", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    stream = facts(arguments.documents, seed=2)
    questions = [one.text for one in stream.questions][: arguments.rounds]
    settings = HomeSettings(GRID, Learning("none"), ("bank", "bm25"), compare="none")
    with TemporaryDirectory() as place, Home.create(Path(place, "home"), load(), settings) as home:
        server = Server(Path(place, "homes"), arguments.threads, "bank", "bm25")
        client = server.client()
        for document in stream.documents:
            home.read(document)
            row = {"id": document.id, "text": document.text, "time": document.time}
            post(client, "/v1/read", {"documents": [row]}, Counter())
        beside(server, home, questions)
        for clients in arguments.clients:
            latencies(server, questions, clients, max(1, arguments.rounds // clients))
        print(f"SIGTERM: exit code {server.stop()}")
        killed(Path(place, "killed"), arguments.threads, arguments.kills)


if __name__ == "__main__":
    main()
