"""Teach the bundled model to answer from a document in its context, by a LoRA; resumes by itself.

    python -m recipes.tune_reader --out build/reader --steps 1200 --threads 2

This is `driftlm train qa` with the settings of the adapter that ships: sequences are documents of the world of facts,
each with four questions and answers after it; one in five has none. The loss is the answers' mean nats plus 0.2 times
the text's. Afterwards 1,000 questions about unseen names are asked with the document in the context, and the adapter
is rounded to 16 bits.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from driftlm.memories.bank.networks import ADAPTER, with_adapter
from driftlm.models.loading import load
from driftlm.models.machine import Machine
from driftlm.streams.facts import World
from driftlm.training.qa import asked, fact_lesson, train
from driftlm.training.settings import AnswerRun, AnswerTraining

LENGTH = 144
QUESTIONS = 1000


def ship(adapter: Path) -> None:
    """Round the factors to bfloat16, and leave nothing else in the folder that names a place of this machine."""
    weights, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    save_file({name: value.to(torch.bfloat16) for name, value in load_file(weights).items()}, weights)
    facts = json.loads(config.read_text()) | {"base_model_name_or_path": None}
    config.write_text(json.dumps(facts, indent=2) + "\n")
    for other in set(adapter.iterdir()) - {weights, config}:
        other.unlink()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--steps", type=int, default=1200)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--rank", type=int, default=32)
    arguments.add_argument("--rate", type=float, default=2e-3)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--log", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()

    training = AnswerTraining(
        steps=options.steps,
        batch=options.batch,
        text=0.2,
        rank=options.rank,
        rate=options.rate,
        longest=LENGTH,
        patience=0,
        seed=options.seed,
    )
    machine = Machine(threads=options.threads)
    train(machine, training, AnswerRun(str(options.out), log=options.log, check=options.log, autocast=True))
    ship(options.out / ADAPTER)
    world = World("validation", random.Random(1))
    lessons = [fact_lesson(world, context=1.0) for _ in range(QUESTIONS)]
    print(asked(with_adapter(load(), options.out / ADAPTER), lessons, LENGTH))


if __name__ == "__main__":
    main()
