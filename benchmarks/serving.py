"""What a server costs and what it stands: answers beside the same in process, latencies by clients, kill -9 under load.

    python -m benchmarks.serving [--threads 1] [--rounds 30] [--documents 64] [--clients 1 10 100] [--seconds 20]
                                 [--long 60] [--pairs 6] [--kills 200] [--out benchmarks/results/serving.json]

All with the bundled model, on loopback, bounded in count and time.

- *beside*: a server in a process of its own, frozen behind a bank and BM25, and a home with the same documents in this
  one. Answers are greedy and equal; every round asks both, so that a ratio compares neighbours in time.
- *clients*: of four tenants, each of which has read facts of its own that hold its mark; a client asks, and reads every
  fourth time. A full queue makes it wait, as its answer says, and that counts. An answer that rests on another tenant's
  document or holds another's mark is *mixed*. The largest number of clients stays for `--long` seconds, the others for
  `--seconds`; memory is what the server's process has resident, from a third of that time on.
- *together*: ten clients of a server that writes answers one by one (`--batch 1`) and of one that writes sixteen
  together, in turn, a few seconds each; ratios are of neighbours in time. *questions*: as above, answers of three
  tokens or so and a read every fourth time; *stories*: completions of 48 tokens, drawn, no reads.
- *kills*: what is there after kill -9 at random timestamps (`benchmarks/killing.py`).

What the requests may look like is tested by `tests/serving/test_schema.py`; for longer than there, against a server:
`st run http://127.0.0.1:8000/openapi.json --exclude-checks positive_data_acceptance --phases coverage,fuzzing -n 50`.
"""

import argparse
import json
import os
import platform
import signal
import sys
import threading
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.killing import killed
from benchmarks.server import Client, started
from driftlm import Learning, Windows, __version__, load
from driftlm.homes.home import Home
from driftlm.memories.settings import MemorySettings
from driftlm.streams.facts import facts
from driftlm.studies.running import machine

GOAL = 1.2  # x in process
GRID = Windows("overlapping", 128, 64)
TENANTS = ("ada", "bo", "cy", "dora")
READ_EVERY = 4  # requests
MANY = 10  # clients of servers that are compared


def chat(question: str) -> dict[str, Any]:
    """What asks as `Home.answer` does."""
    return {
        "model": "bundled",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 24,
    }


def told(beginning: str, seed: int) -> dict[str, Any]:
    """What has a text drawn."""
    return {"model": "bundled", "prompt": beginning, "max_tokens": 48, "seed": seed}


# ---- beside the same in process -----------------------------------------------------------------------------------


def beside(place: Path, threads: int, documents: int, rounds: int) -> dict[str, Any]:
    """The same answers through the server and in process, milliseconds."""
    settings = MemorySettings(GRID, Learning("none"), ("bank", "bm25"), compare="none")
    stream, seen = facts(documents, seed=2), Counter[int]()
    seconds: dict[str, list[float]] = {"in process": [], "through the server": []}
    process, address = started(place / "beside", settings, threads)
    with Home.create(place / "home", load(), settings) as home:
        client = Client(address)
        for document in stream.documents:
            home.read(document)
            row = {"id": document.id, "text": document.text, "time": document.time}
            client.post("/v1/read", {"documents": [row]}, seen)
        for number, question in enumerate(["warm up?", *[one.text for one in stream.questions][:rounds]]):
            began = time.perf_counter()
            text = home.answer(question).text
            between = time.perf_counter()
            said = client.post("/v1/chat/completions", chat(question), seen)["choices"][0]["message"]["content"]
            assert said == text, (said, text)
            if number:
                seconds["in process"].append(between - began)
                seconds["through the server"].append(time.perf_counter() - between)
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    ratio = median(b / a for a, b in zip(*seconds.values(), strict=True))
    shown = {name: round(1000 * median(found), 2) for name, found in seconds.items()}
    return {"questions": rounds, "median_ms": shown, "ratio": round(ratio, 3), "goal": GOAL, "exit_on_sigterm": code}


# ---- many clients -------------------------------------------------------------------------------------------------


def mark_of(tenant: str) -> str:
    """What every document of a tenant holds, and no other's."""
    return f"mark-{sum(map(ord, tenant)) * 7919}"


def homes(
    place: Path, threads: int, documents: int, *more: str
) -> tuple[Any, Any, dict[str, str], dict[str, list[str]]]:
    """A server of the four, each of which has read; its process and address, their tokens and questions."""
    settings = MemorySettings(GRID, Learning("none"), ("bank", "bm25"), compare="none")
    tokens = {tenant: f"{tenant}-0123456789abcdef" for tenant in TENANTS}
    place.mkdir()
    (place / "tokens").write_text("".join(f"{tenant} {token}\n" for tenant, token in tokens.items()))
    process, address = started(place / "homes", settings, threads, "--tokens", str(place / "tokens"), *more)
    questions = {}
    for number, (tenant, token) in enumerate(tokens.items()):
        stream, client = facts(documents, seed=number), Client(address, token)
        questions[tenant] = [one.text for one in stream.questions]
        rows = [
            {"id": f"{tenant} {one.id}", "text": f"{mark_of(tenant)}: {one.text}", "time": one.time}
            for one in stream.documents
        ]
        client.post("/v1/read", {"documents": rows}, Counter())
    return process, address, tokens, questions


def clients(place: Path, threads: int, documents: int, counts: list[int], seconds: int, long: int) -> list[Any]:
    """Latencies with several clients at a time, and what went wrong."""
    process, address, tokens, questions = homes(place / "clients", threads, documents)
    rows = [
        latencies(address, process.pid, tokens, questions, count, long if count == max(counts) else seconds)
        for count in sorted(counts)
    ]
    process.send_signal(signal.SIGTERM)
    process.wait()
    return rows


def together(place: Path, threads: int, documents: int, seconds: int, pairs: int) -> dict[str, Any]:
    """Answers a second of servers that write them one by one and together, and the medians of their ratios."""
    servers = {batch: homes(place / f"batch {batch}", threads, documents, "--batch", str(batch)) for batch in (1, 16)}
    results: dict[str, Any] = {"clients": MANY, "seconds": seconds, "pairs": pairs}
    for kind, story in (("questions", False), ("stories", True)):
        found: dict[int, list[dict[str, Any]]] = {batch: [] for batch in servers}
        for pair in range(pairs):
            for batch in sorted(servers, reverse=bool(pair % 2)):
                process, address, tokens, questions = servers[batch]
                found[batch].append(latencies(address, process.pid, tokens, questions, MANY, seconds, story))
        results[kind] = {
            f"batch {batch}": {
                "answers_per_second": round(median(one["answers_per_second"] for one in rows), 2),
                "ask_ms_p50": round(median(one["ms"]["ask"]["p50"] for one in rows), 1),
                "mixed_between_tenants": sum(one["mixed_between_tenants"] for one in rows),
                "errors_other_than_429": sum(one["errors_other_than_429"] for one in rows),
            }
            for batch, rows in found.items()
        }
        ratios = sorted(b["answers_per_second"] / a["answers_per_second"] for a, b in zip(*found.values(), strict=True))
        results[kind]["ratio"] = {"median": round(median(ratios), 2), "all": [round(one, 2) for one in ratios]}
    for process, *_ in servers.values():
        process.send_signal(signal.SIGTERM)
        process.wait()
    return results


def latencies(
    address: Any,
    pid: int,
    tokens: dict[str, str],
    questions: dict[str, list[str]],
    count: int,
    seconds: int,
    story: bool = False,
) -> dict[str, Any]:
    """Of so many clients for some seconds; none begins a request behind those. Those who want stories never read."""
    taken: dict[str, list[float]] = {"ask": [], "read": []}
    seen, mixed, memory = Counter[int](), list[str](), list[int]()
    began = time.perf_counter()

    def load(number: int) -> None:
        tenant = TENANTS[number % len(TENANTS)]
        client, others = Client(address, tokens[tenant]), [one for one in TENANTS if one != tenant]
        turn = number
        while time.perf_counter() < began + seconds:
            begins, turn = time.perf_counter(), turn + 1
            asks = story or turn % READ_EVERY > 0
            if asks:
                question = questions[tenant][turn % len(questions[tenant])]
                path, body = ("completions", told(question, turn)) if story else ("chat/completions", chat(question))
                reply = client.post(f"/v1/{path}", body, seen)
                whole = json.dumps(reply)
                foreign = any(not one["id"].startswith(f"{tenant} ") for one in reply.get("documents", ()))
                if foreign or any(mark_of(other) in whole for other in others):
                    mixed.append(whole)
            else:
                row = {"id": f"{tenant} of client {number}", "text": f"{mark_of(tenant)}: it rained {turn} days."}
                client.post("/v1/read", {"documents": [row]}, seen)
            taken["ask" if asks else "read"].append(time.perf_counter() - begins)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append(resident(pid))
        time.sleep(0.5)
    whole = time.perf_counter() - began
    warm = memory[len(memory) // 3 :]
    answers = sum(map(len, taken.values()))
    return {
        "clients": count,
        "seconds": round(whole, 1),
        "answers": answers,
        "answers_per_second": round(answers / whole, 2),
        "ms": {kind: percentiles(found) for kind, found in taken.items()},
        "statuses": {str(status): number for status, number in sorted(seen.items())},
        "errors_other_than_429": sum(number for status, number in seen.items() if status not in (200, 429)),
        "mixed_between_tenants": len(mixed),
        "resident_mib": {
            "begin": mib(memory[0]), "warm": mib(warm[0]), "most_when_warm": mib(max(warm)), "end": mib(memory[-1])
        },
    }  # fmt: skip


def percentiles(found: list[float]) -> dict[str, float]:
    """In milliseconds."""
    found = sorted(found)
    return {
        f"p{share}": round(1000 * found[min(len(found) - 1, len(found) * share // 100)], 1)
        for share in (50, 95, 99)
        if found
    }


def resident(pid: int) -> int:
    """Bytes of memory that a process has now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) * 1024


def mib(size: int) -> float:
    """In MiB."""
    return round(size / 2**20, 1)


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30, help="questions that are asked beside")
    parser.add_argument("--documents", type=int, default=64, help="that are read before questions are asked")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--long", type=int, default=60, help="seconds of the largest number of clients")
    parser.add_argument("--pairs", type=int, default=6, help="turns of both servers that are compared")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--note", default="", help="what else is to be known of the machine, for the file")
    parser.add_argument("--out", type=Path, help="file to keep the results in")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    results: dict[str, Any] = {
        "command": "python -m benchmarks.serving " + " ".join(shown_arguments(sys.argv[1:])),
        "note": arguments.note,
        "model": "bundled",
        "threads": arguments.threads,
        "machine": machine(),
        "versions": {"driftlm": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "fastapi", "uvicorn")},
    }
    with TemporaryDirectory() as folder:
        place = Path(folder)
        steps = {
            "beside": lambda: beside(place, arguments.threads, arguments.documents, arguments.rounds),
            "clients": lambda: clients(
                place, arguments.threads, arguments.documents, arguments.clients, arguments.seconds, arguments.long
            ),
            "together": lambda: together(place, arguments.threads, arguments.documents, 5, arguments.pairs),
            "kills": lambda: killed(place, arguments.threads, arguments.kills),
        }
        for name, step in steps.items():
            results[name] = step()
            print(json.dumps({name: results[name]}, indent=1), flush=True)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="ascii")


def shown_arguments(given: list[str]) -> list[str]:
    """Those that say what is measured."""
    skipped = {place + part for place, one in enumerate(given) if one in ("--note", "--out") for part in (0, 1)}
    return [one for place, one in enumerate(given) if place not in skipped]


if __name__ == "__main__":
    main()
