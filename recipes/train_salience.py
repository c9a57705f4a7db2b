"""Meta-train token weights for the bundled model on the world of facts, and show what they weigh; resumes by itself.

    python -m recipes.train_salience --out build/salience --steps 150 --threads 2

This is `driftlm train salience` on the bundled model with the bank's adapter, which taught it to answer. Afterwards
the mean weight of the tokens of names, of values (the answers) and of all else is printed, on documents about unseen
names, and a few of these documents with the weight of every token. `--ship` puts the network into the package.
"""

import argparse
import json
import random
import shutil
from collections import defaultdict
from pathlib import Path

import torch

from driftlm.memories.bank.networks import BUNDLED as READER
from driftlm.memories.weights.camels import BUNDLED, FACTS, WEIGHTS, SalienceNetwork, hidden_states, load_network
from driftlm.memories.weights.spelling import Spelling
from driftlm.models.loading import LanguageModel, load
from driftlm.models.machine import Machine
from driftlm.streams.facts import Subject, World
from driftlm.training.salience import train
from driftlm.training.settings import SalienceRun, SalienceTraining

DOCUMENTS, SHOWN = 200, 3


def weighed(network: SalienceNetwork, reader: LanguageModel, text: str) -> list[tuple[int, int, float]]:
    """Where each token of a text begins and ends, and its weight."""
    ids, _ = reader.encode(text)
    with torch.no_grad():
        weights = network(hidden_states(reader, torch.tensor(ids))[1:]).tolist()
    return [(*place, weight) for place, weight in zip(Spelling(reader)(ids)[1][1:], weights, strict=True)]


def part_of(subject: Subject, text: str, start: int, end: int) -> str:
    """Whether a token belongs to a value, to a name, or to neither."""
    parts = {"values": subject.values.values(), "names": [subject.name]}
    for part, wanted in parts.items():
        for one in wanted:
            first = text.find(one)
            while first >= 0:
                if start < first + len(one) and first < end:
                    return part
                first = text.find(one, first + 1)
    return "other words"


def card(steps: int, means: dict[str, float]) -> str:
    """What the shipped folder is."""
    weighed = ", ".join(f"{mean:.2f} of {part}" for part, mean in means.items())
    return f"""# The bundled salience network

Weighs tokens for `--salience camels`: one hidden layer on the bundled model's last hidden states, meta-trained for
{steps} steps on the world of facts (`driftlm.streams.facts`), which is all that it knows. Mean weights on documents
about unseen names, where a value is what can be asked for: {weighed}.
Made by `recipes.train_salience`; licence Apache-2.0.
"""


def ship(folder: Path, text: str) -> None:
    """Put the network into the package; its facts name the bundled model by no place of this machine."""
    BUNDLED.mkdir(exist_ok=True)
    shutil.copyfile(folder / WEIGHTS, BUNDLED / WEIGHTS)
    facts = json.loads((folder / FACTS).read_text()) | {"name": "driftlm/models/bundled"}
    (BUNDLED / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
    (BUNDLED / "README.md").write_text(text)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--steps", type=int, default=150)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--ship", action="store_true")
    options = arguments.parse_args()

    training = SalienceTraining(steps=options.steps, seed=options.seed)
    machine = Machine(threads=options.threads)
    train(machine, training, SalienceRun(str(options.out), reader=str(READER)))

    network, reader = load_network(options.out)[0], load()
    world = World("validation", random.Random(1))
    by_part = defaultdict(list)
    for number in range(DOCUMENTS):
        subject = world.subject()
        text = world.told(subject)
        found = weighed(network, reader, text)
        for start, end, weight in found:
            by_part[part_of(subject, text, start, end)].append(weight)
        if number < SHOWN:
            print(" ".join(f"{text[start:end].strip()}:{weight:.2f}" for start, end, weight in found))
    means = {part: sum(weights) / len(weights) for part, weights in sorted(by_part.items(), reverse=True)}
    for part, mean in means.items():
        print(f"{part}: mean weight {mean:.3f} over {len(by_part[part]):,} tokens")
    if options.ship:
        ship(options.out, card(options.steps, means))


if __name__ == "__main__":
    main()
