"""How long answers wait while a server reads a long document: p50 and p95, beside the seconds of a window.

    python -m benchmarks.giving_way [--model DIR] [--dtype bfloat16] [--threads 2] [--text FILE] [--characters 40000]
                                    [--tokens 8] [--stride 128] [--out FILE]

A LoRA (Adam, 1e-3) reads one document over HTTP, by the windows that `driftlm serve` has by default. Meanwhile a
client asks for answers of a few tokens, each a random time after the one before, a window on average; whole and
streamed in turn. *wait* is what the server says in its header Server-Timing: from the request's place in the queue to
the beginning of its batch. *answer* is the whole request as the client sees it, and *idle* the same where nothing is
read. *window* is the mean of the metric `driftlm_window_seconds`. Before that, the same text is read without anybody
asking: the totals of both readings have to be equal, and *processor* is what the server's threads took for a window
there, which on a machine that is shared says more than the clock does.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

from benchmarks.server import Client, address_in
from benchmarks.serving import percentiles
from driftlm.studies.running import machine

IDLE = 6  # answers where nothing is read


@contextmanager
def served(folder: Path, arguments: argparse.Namespace) -> Iterator[tuple[tuple[str, int], str, int]]:
    """A server with a LoRA: where it listens, what it said of a window, and its process."""
    command = [sys.executable, "-m", "driftlm", "serve", "--home-folder", str(folder), "--port", "0"]
    command += ["--learn", "lora", "--rule", "adam", "--learning-rate", "0.001", "--compare", "none"]
    command += ["--dtype", arguments.dtype, "--stride", str(arguments.stride), "--threads", str(arguments.threads)]
    command += ["--model", arguments.model] if arguments.model else []
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        if address := address_in(line):
            break
        said += line
    else:
        raise RuntimeError(said)
    try:
        yield address, said.strip(), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def read(address: Any, text: str) -> tuple[dict[str, Any], float]:
    """A document's totals, and the seconds until it was acknowledged."""
    began = time.perf_counter()
    (entry,) = Client(address).post("/v1/read", {"documents": [{"id": "long", "text": text}]}, Counter())["data"]
    return entry, time.perf_counter() - began


def processor_seconds(pid: int) -> float:
    """Seconds that the threads of a process have computed."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def metric(address: Any, name: str) -> float:
    """A number of the server's metrics."""
    with urlopen(f"http://{address[0]}:{address[1]}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def window_of(address: Any) -> float:
    """Mean seconds of a window so far; 0 where none was read."""
    count = metric(address, "driftlm_window_seconds_count")
    return metric(address, "driftlm_window_seconds_sum") / count if count else 0.0


def asked(address: Any, model: str, tokens: int, stream: bool) -> tuple[float, float]:
    """Seconds that an answer waited, and those it took in all."""
    client = Client(address)  # one that stays is closed by the server between two questions
    body = {"model": model, "prompt": "The proposal is", "max_tokens": tokens, "temperature": 0, "stream": stream}
    began = time.perf_counter()
    client.connection.request("POST", "/v1/completions", json.dumps(body), client.headers)
    reply = client.connection.getresponse()
    reply.read()
    assert reply.status == 200
    return float(reply.headers["server-timing"].removeprefix("wait;dur=")) / 1000, time.perf_counter() - began


def measured(place: Path, arguments: argparse.Namespace, text: str) -> dict[str, Any]:
    """Both readings, and the answers in the second."""
    with served(place / "quiet", arguments) as (address, said, pid):
        before = processor_seconds(pid)
        quiet, quiet_seconds = read(address, text)
        processor = processor_seconds(pid) - before
        quiet_window = window_of(address)
    with served(place / "asked", arguments) as (address, *_), ThreadPoolExecutor() as pool:
        chance, found = random.Random(0), list[tuple[float, float]]()
        with urlopen(f"http://{address[0]}:{address[1]}/v1/models") as reply:
            model = json.loads(reply.read())["data"][0]["id"]
        idle = [asked(address, model, arguments.tokens, bool(turn % 2))[1] for turn in range(IDLE)]
        reading = pool.submit(read, address, text)
        while not metric(address, "driftlm_window_seconds_count") and not reading.done():
            time.sleep(0.05)
        while not reading.done():
            time.sleep(chance.expovariate(1 / window_of(address)))
            if not reading.done():
                found.append(asked(address, model, arguments.tokens, bool(len(found) % 2)))
        entry, seconds = reading.result()
        window = window_of(address)
    assert all(entry[name] == quiet[name] for name in ("tokens", "nats", "updates")), (entry, quiet)
    windows = -(-entry["tokens"] // arguments.stride)
    waits = percentiles([wait for wait, _ in found])
    return {
        "tokens_read": entry["tokens"],
        "windows": windows,
        "said_at_start": said,
        "window_ms": {"nobody asks": round(1000 * quiet_window, 1), "somebody asks": round(1000 * window, 1)},
        "processor_ms": round(1000 * processor / windows, 1),
        "read_seconds": {"nobody asks": round(quiet_seconds, 1), "somebody asks": round(seconds, 1)},
        "answers": len(found),
        "wait_ms": waits,
        "wait_p95_by_window": round(waits["p95"] / 1000 / window, 2),
        "answer_ms": percentiles([whole for _, whole in found]),
        "idle_ms": percentiles(idle),
        "totals_equal": True,
    }


def main() -> None:
    """Print it, and keep it where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a folder; the bundled model where there is none")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--text", type=Path, help="a text file; else the documentation that comes with Python")
    parser.add_argument("--characters", type=int, default=40_000)
    parser.add_argument("--tokens", type=int, default=8, help="of an answer")
    parser.add_argument("--stride", type=int, default=128)
    parser.add_argument("--note", default="", help="what else is to be known of the machine")
    parser.add_argument("--out", type=Path, help="file to keep the results in")
    arguments = parser.parse_args()
    if arguments.text is None:
        from pydoc_data.topics import topics

        text = "\n".join(topics.values())
    else:
        text = arguments.text.read_text(encoding="utf-8")
    with TemporaryDirectory() as folder:
        found = measured(Path(folder), arguments, text[: arguments.characters])
    about = {"model": Path(arguments.model).name or "bundled", "dtype": arguments.dtype, "threads": arguments.threads}
    results = about | {"note": arguments.note, "machine": machine()} | found
    print(json.dumps(results, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
