"""What a memory forgets of plain prose while it reads something else, scored by lm-eval through the server.

    pip install "lm-eval[api]==0.4.13"
    python -m recipes.lm_eval_forgetting --out recipes/results/lm_eval.json

A server of the bundled model keeps a snapshot, reads documents, and keeps another. Before, after, and taken back to the
first snapshot, lm-eval asks it as its `local-completions` model: prompts as tokens, echoed with log-probabilities,
from which nothing is learned. Nothing needs a network: the tasks are in `recipes/lm_eval_tasks/`, the text is Python's
own documentation unless --text names another. To be run in the root of the repository.
"""

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

from driftlm.models.catalogue import BUNDLED
from driftlm.streams.demonstration import library_documentation
from driftlm.streams.documents import Document, read_documents

TASKS = Path(__file__).parent / "lm_eval_tasks"
NAMES = ("driftlm_prose_choice", "driftlm_prose_bits")
LEARNING = ("--learn", "all", "--compare", "none")


@contextmanager
def serving(folder: Path, model: str, learning: list[str]) -> Iterator[str]:
    """The address of a server over homes in a folder, on a free port; stopped at the end."""
    log = folder / "server.log"
    command = [sys.executable, "-m", "driftlm", "serve", "--home-folder", str(folder / "homes"), "--port", "0"]
    with log.open("wb") as file:
        server = subprocess.Popen([*command, "--model", model, *learning], stderr=file)
    try:
        while not (found := re.search(r"serving on (http://\S+)\n", log.read_text())):
            if server.poll() is not None:
                sys.exit(log.read_text())
            time.sleep(0.1)
        yield found[1]
    finally:
        server.terminate()
        server.wait()


def posted(address: str, path: str, body: Any) -> Any:
    """The answer to a request."""
    request = Request(f"{address}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    with urlopen(request) as answer:
        return json.load(answer)


def some(text: str, room: int, folder: Path) -> list[Document]:
    """Documents that have so many bytes together, the last of them cut."""
    chosen = list[Document]()
    for document in read_documents([text or str(library_documentation(folder))]):
        cut = document.text.encode()[:room].decode(errors="ignore")
        if cut:
            chosen.append(Document(document.id, cut, document.time))
        room -= len(cut.encode())
        if room < 4:
            break
    return chosen


def evaluated(address: str, model: str, limit: int | None) -> dict[str, float]:
    """What lm-eval says of the state that the server is in."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    name = Path(model).name
    place = f"base_url={address}/v1/completions,tokenizer_backend=huggingface,tokenizer={model},max_length=1024"
    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=f"model={name},{place}",
        tasks=list(NAMES),
        task_manager=TaskManager(include_path=str(TASKS), include_defaults=False),
        limit=limit,
        bootstrap_iters=0,
    )
    choice, bits = (found["results"][name] for name in NAMES)
    return {"accuracy": choice["acc,none"], "bits_per_byte": bits["bits_per_byte,none"]}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, help="file for the result")
    arguments.add_argument("--model", default=str(BUNDLED))
    arguments.add_argument("--text", default="", help="file or folder to read")
    arguments.add_argument("--bytes", type=int, default=60_000, help="of it")
    arguments.add_argument("--limit", type=int, help="items of a task")
    arguments.add_argument("--learning", default=shlex.join(LEARNING), help="flags of the server")
    options = arguments.parse_args()

    with TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_CACHE=str(folder / "cache"))
        rows = dict[str, dict[str, float]]()
        with serving(folder, options.model, shlex.split(options.learning)) as address:
            posted(address, "/v1/snapshots", {"name": "before"})
            rows["before"] = evaluated(address, options.model, options.limit)
            read = [
                posted(address, "/v1/read", {"documents": [{"id": one.id, "text": one.text}]})["data"][0]
                for one in some(options.text, options.bytes, folder)
            ]
            posted(address, "/v1/snapshots", {"name": "after"})
            rows["after"] = evaluated(address, options.model, options.limit)
            posted(address, "/v1/snapshots/restore", {"snapshot": "before"})
            rows["restored"] = evaluated(address, options.model, options.limit)
    result = {
        "command": shlex.join(["python", "-m", "recipes.lm_eval_forgetting", *sys.argv[1:]]),
        "model": "the bundled model" if options.model == str(BUNDLED) else Path(options.model).name,
        "read": {"documents": len(read), "tokens": sum(one["tokens"] for one in read), "learning": options.learning},
        "items": sum(1 for _ in (TASKS / "prose.jsonl").open()) if options.limit is None else options.limit,
        "rows": rows,
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("driftlm", "lm_eval", "datasets", "torch", "transformers")},
        },
    }
    print("| state | accuracy | bits per byte |\n|---|---:|---:|")
    for state, row in rows.items():
        print(f"| {state} | {row['accuracy']:.3f} | {row['bits_per_byte']:.3f} |")
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if rows["before"] != rows["restored"]:
        sys.exit("the restored snapshot does not score as it did")


if __name__ == "__main__":
    main()
