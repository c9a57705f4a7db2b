"""A server as the benchmarks of serving have it, and a client of it."""

import http.client
import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from driftlm.memories.settings import MemorySettings


def arguments_of(folder: Path, settings: MemorySettings, threads: int, *more: str) -> list[str]:
    """What `driftlm` serves homes in a folder by."""
    windows, learning = settings.windows, settings.learning
    command = ["serve", "--home-folder", str(folder), "--port", "0", "--threads", str(threads), "--compare", "none"]
    command += ["--window", windows.window, "--context", str(windows.context), "--stride", str(windows.stride)]
    command += ["--learn", learning.learn, "--sources", *settings.sources]
    if learning.learn == "lora":
        command += [
            "--rank",
            str(learning.rank),
            "--rule",
            learning.rule,
            "--learning-rate",
            str(learning.learning_rate),
        ]
    return [*command, *more]


class Client:
    """A connection that stays."""

    def __init__(self, address: tuple[str, int], token: str = "") -> None:
        self.connection = http.client.HTTPConnection(*address, timeout=600)
        self.headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})

    def post(self, path: str, body: Any, seen: Counter[int]) -> Any:
        """An answer; sent again while the queue is full."""
        while True:
            self.connection.request("POST", path, json.dumps(body), self.headers)
            reply = self.connection.getresponse()
            found = json.loads(reply.read())
            seen[reply.status] += 1
            if reply.status != 429:
                return found
            time.sleep(int(reply.headers["retry-after"]))


def address_in(text: str) -> tuple[str, int] | None:
    """Where a server listens, when it has said so."""
    found = re.search(r"http://([\d.]+):(\d+)\n", text)
    return (found[1], int(found[2])) if found else None


def started(folder: Path, settings: MemorySettings, threads: int, *more: str) -> tuple[subprocess.Popen[str], Any]:
    """A server as it is started by hand, and where it listens."""
    command = [sys.executable, "-m", "driftlm", *arguments_of(folder, settings, threads, *more)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if address := address_in(line):
            return process, address
    raise RuntimeError("the server ended before it listened")
