"""Put trained bank networks into the package, in 16 bits, and measure what ships.

    python -m recipes.ship_bank build/bank --threads 2

BUILD is the folder that `driftlm train bank` filled. Every row is about names that never occurred in training
(`facts(..., seed=0)`, greedy answers, strict exact match) and is added to recipes/bank_results.jsonl.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from driftlm.bank.networks import ADAPTER, BankNetworks, load_networks
from driftlm.banking import BUNDLED
from driftlm.evaluation.study import question_answering, retention_curve
from driftlm.models.loading import load
from driftlm.streams.facts import facts

RESULTS = Path(__file__).parent / "bank_results.jsonl"


def measured(networks: BankNetworks) -> Iterator[dict[str, Any]]:
    """The ceiling, a bank of one, then whole banks of 64 and 1,665 documents, then retention."""
    stream = facts(1665)
    for memory in ("none", "context", "one"):
        yield from question_answering(networks, stream, [memory], stream.questions[:200])
    for seed in range(4):
        small = facts(64, seed=seed)
        for row in question_answering(networks, small, ["bank"], small.questions):
            yield {"seed": seed, **row}
    yield from question_answering(networks, stream, ["bank"], stream.questions)
    for row in retention_curve(networks, stream):
        yield {"study": "retention", **row}


def card(log: list[dict[str, Any]], networks: BankNetworks) -> str:
    """What the shipped folder is."""
    parameters = sum(p.numel() for p in networks.parameters())
    return f"""# The bundled bank networks

{parameters / 1e6:.2f} M parameters around the bundled language model, in float16, and a LoRA of rank 32 that taught
that model to answer from a document in its context. Trained on the world of facts (`driftlm.streams.facts`) for
{log[-1]["step"]:,} steps; they know how to remember such facts, and no other text. Made by `recipes.tune_reader`,
`driftlm train bank` and `recipes.ship_bank`; measured in recipes/bank_results.jsonl; licence Apache-2.0.
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("build", type=Path)
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    trained = load_networks(options.build, load())
    trained.save(BUNDLED, dtype=torch.float16)
    shutil.copytree(options.build / ADAPTER, BUNDLED / ADAPTER, dirs_exist_ok=True)
    log = [json.loads(line) for line in (options.build / "log.jsonl").read_text().splitlines()]
    shutil.copy(options.build / "log.jsonl", Path(__file__).parent / "bank_log.jsonl")
    (BUNDLED / "README.md").write_text(card(log, trained))
    size = sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file())
    print(f"{BUNDLED}: {size / 2**20:.1f} MiB")
    networks = load_networks(BUNDLED, load())
    RESULTS.write_text("")
    for row in measured(networks):
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print({name: value for name, value in row.items() if name != "kinds"}, flush=True)


if __name__ == "__main__":
    main()
