"""Put trained bank networks into the package, in 16 bits, and measure what ships.

    python -m recipes.ship_bank build/bank1 build/bank2 --threads 2

The folders are those that `driftlm train bank` filled, one a stage; each began with what the one before left, and the
last is shipped. Every row is about names that never occurred in training (`split="test"`, greedy answers, strict exact
match) and is added to recipes/bank_results.jsonl. Seed 2 had not been looked at when the training and its settings were
chosen, on streams of `split="validation"`.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from driftlm.evaluation.study import question_answering, retention_curve
from driftlm.memories.bank.networks import ADAPTER, BUNDLED, BankNetworks, load_networks
from driftlm.models.loading import load
from driftlm.streams.facts import facts

SEED = 2
LOG = Path(__file__).parent / "bank_log.jsonl"
RESULTS = Path(__file__).parent / "bank_results.jsonl"


def measured(networks: BankNetworks) -> Iterator[dict[str, Any]]:
    """The ceiling, a bank of one, then whole banks of 64 and 1,665 documents, then retention."""
    stream = facts(1665, seed=SEED)
    for memory in ("none", "context", "one"):
        for row in question_answering(networks, stream, [memory], stream.questions[:400]):
            yield {"seed": SEED, **row}
    for seed in range(SEED, SEED + 8):
        small = facts(64, seed=seed)
        for row in question_answering(networks, small, ["bank"], small.questions):
            yield {"seed": seed, **row}
    for row in question_answering(networks, stream, ["bank"], stream.questions):
        yield {"seed": SEED, **row}
    for row in retention_curve(networks, stream):
        yield {"seed": SEED, "study": "retention", **row}


def card(log: list[dict[str, Any]], networks: BankNetworks) -> str:
    """What the shipped folder is."""
    steps = sum({line["stage"]: line["step"] for line in log}.values())
    parameters = sum(p.numel() for p in networks.parameters())
    return f"""# The bundled bank networks

{parameters / 1e6:.2f} M parameters around the bundled language model, in float16, and a LoRA of rank 32 that taught
that model to answer from a document in its context. Trained on the world of facts (`driftlm.streams.facts`) for
{steps:,} steps; they know how to remember such facts, and no other text. Made by `recipes.tune_reader`,
`driftlm train bank` and `recipes.ship_bank`; measured in recipes/bank_results.jsonl; licence Apache-2.0.
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("stages", type=Path, nargs="+")
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    trained = load_networks(options.stages[-1], load())
    trained.save(BUNDLED, dtype=torch.float16)
    shutil.copytree(options.stages[-1] / ADAPTER, BUNDLED / ADAPTER, dirs_exist_ok=True)
    log = [
        {"stage": number} | json.loads(line)
        for number, stage in enumerate(options.stages, 1)
        for line in (stage / "log.jsonl").read_text().splitlines()
    ]
    LOG.write_text("".join(json.dumps(line) + "\n" for line in log))
    (BUNDLED / "README.md").write_text(card(log, trained))
    size = sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file())
    print(f"{BUNDLED}: {size / 2**20:.1f} MiB")
    networks = load_networks()
    RESULTS.write_text("")
    for row in measured(networks):
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print({name: value for name, value in row.items() if name != "kinds"}, flush=True)


if __name__ == "__main__":
    main()
