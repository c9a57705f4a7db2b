"""A package in a folder whose memory, rule, salience, parametrisation and protection are choices of every verb."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import ROOT, tiny_model, words

pytestmark = pytest.mark.process

SETTINGS = '''
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Cache:
    """Make tokens likelier that were read before.

    Attributes:
        share: Give their counts this share of every probability.
    """

    implementation: ClassVar[str] = "kitchen.memory:CacheMemory"
    share: float = 0.2


@dataclass(frozen=True)
class Sign:
    """Step by the sign of the gradient.

    Attributes:
        scale: Multiply the step by this.
    """

    implementation: ClassVar[str] = "kitchen.parts:SignSGD"
    scale: float = 1.0


@dataclass(frozen=True)
class Pull:
    """Pull to the prior after every step.

    Attributes:
        strength: Take back this share of the way.
    """

    implementation: ClassVar[str] = "kitchen.parts:Pulled"
    strength: float = 0.5
'''
PARTS = """
import torch

from driftlm.models.trainable import Trainable


class SignSGD:
    def __init__(self, settings):
        self.scale = settings.own.scale

    def init(self, parameters, rate):
        return {}

    def update(self, gradients, state, parameters, rate):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(self.scale * rate * gradient.sign())


class Pulled:
    def __init__(self, learning, own, prior):
        self.strength, self.prior = own.strength, prior

    def term(self, window):
        return 0.0

    def change(self, gradients):
        pass

    def after(self, parameters):
        for parameter, value in zip(parameters, self.prior.values, strict=True):
            parameter.lerp_(value, self.strength)
        self.steps += 1

    def reset(self):
        self.steps = torch.zeros(())

    def state(self):
        return {"steps": self.steps}

    def restore(self, state):
        self.steps.copy_(state["steps"])


class FirstToken:
    def __init__(self, learning, own, language_model, prior, context):
        pass

    def read(self, window):
        pass

    def weights(self, window):
        return torch.arange(window.new).eq(0).float()

    def finish(self):
        pass

    def reset(self):
        pass

    def state(self):
        return {}

    def restore(self, state):
        pass


def head(learning, own, language_model):
    weight = language_model.model.get_output_embeddings().weight.requires_grad_(True)
    return Trainable({"head": weight})
"""
MEMORY = """
import math
from collections import Counter

import torch

from driftlm import Learning, WeightMemory
from driftlm.memories.base import Counts, Memory, State


class CacheMemory(Memory):
    kind = "cache"

    def __init__(self, language_model, windows, share):
        self.model = WeightMemory(language_model, windows, Learning(learn="none"))
        self.language_model, self.windows, self.share = self.model.language_model, windows, share
        self.counts, self.seen = Counts(), Counter()

    @classmethod
    def build(cls, language_model, settings, own, shared):
        return cls(language_model, settings.windows, own.share)

    def static(self):
        return self.model.static()

    def score(self, window):
        nats = self.model.score(window)
        if not self.seen or not self.share:
            return nats
        cached = torch.tensor([self.share * self.seen[token] / self.seen.total() for token in window.targets])
        return -torch.logaddexp(math.log(1 - self.share) - nats, cached.log()).clamp(max=0)

    def learn(self, window):
        self.model.learn(window)
        self.seen.update(window.targets)
        self.counts.updates += 1

    def finish(self, document):
        self.model.finish(document)

    def reset(self):
        self.model.reset()
        self.seen = Counter()

    def forget(self, document):
        raise NotImplementedError

    def state(self):
        inner = self.model.state()
        seen = [[*pair] for pair in self.seen.items()]
        values = {"model": inner.values, "seen": seen, "updates": self.counts.updates}
        return State(inner.tensors, values)

    def restore(self, state):
        self.model.restore(State(state.tensors, state.values["model"]))
        self.seen, self.counts.updates = Counter(dict(state.values["seen"])), state.values["updates"]

    @staticmethod
    def examples():
        return {}
"""
ENTRIES = """
[driftlm.memories]
cache = kitchen.settings:Cache
[driftlm.rules]
sign = kitchen.settings:Sign
[driftlm.protections]
pull = kitchen.settings:Pull
[driftlm.saliences]
first = kitchen.parts:FirstToken
[driftlm.parametrisations]
head = kitchen.parts:head
lost = kitchen.nosuch:lost
"""
RUN = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from driftlm.cli.main import main

found = []
for arguments in json.loads(sys.stdin.read()):
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as stopped:
            code = stopped.code
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is installed, beside a tiny model and a text."""
    place = tmp_path_factory.mktemp("site")
    about = place / "kitchen-0.1.dist-info"
    for path, text in (
        (place / "kitchen" / "settings.py", SETTINGS),
        (place / "kitchen" / "parts.py", PARTS),
        (place / "kitchen" / "memory.py", MEMORY),
        (about / "METADATA", "Metadata-Version: 2.1\nName: kitchen\nVersion: 0.1\n"),
        (about / "entry_points.txt", ENTRIES),
        (place / "text.txt", words(400)),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    tiny_model(place)
    return place


def run(folder: Path, *commands: list[Any]) -> list[list[Any]]:
    """Exit code, output and errors of some commands, run one after another by one process that has the package."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1"}
    orders = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=folder,
        env=environment,
        input=orders,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[Any]] = json.loads(done.stdout)
    lost = [line for _, _, err in found for line in err.splitlines() if "it is left out" in line]
    assert len(lost) == 1 and "the entry 'lost' of driftlm.parametrisations" in lost[0]
    return found


def test_an_entry_of_another_package_is_the_same_to_every_verb_as_ours(folder: Path) -> None:
    grid = ["--context", 32, "--stride", 16, "--threads", 1]
    model = ["--model", "llama"]
    quick = [*model, *grid, "--no-report", "--no-live", "--json"]
    read = ["read", "text.txt", *quick]
    results = run(
        folder,
        ["read", "--help"],
        ["home", "new", "--help"],
        ["serve", "--help"],
        ["tune", "--help"],
        [*read, "--memory", "cache", "--cache-share", 0.3, "--run", "cached"],
        [*read, "--memory", "cache", "--cache-share", 0.0, "--run", "idle"],
        [*read, "--rule", "sign", "--sign-scale", 0.0, "--learning-rate", 0.01, "--run", "still"],
        [*read, "--rule", "sign", "--learning-rate", 0.001, "--run", "signed"],
        [*read, "--rule", "sgd", "--protect", "pull", "--pull-strength", 1.0, "--run", "pulled"],
        [*read, "--rule", "sgd", "--salience", "first", "--run", "first"],
        [*read, "--rule", "sgd", "--learn", "head", "--run", "head"],
        ["home", "new", "home", *model, *grid, "--memory", "cache", "--json"],
        ["home", "read", "home", "text.txt", "--json"],
        ["home", "ls", "home", "--json"],
        [
            "tune",
            "text.txt",
            *model,
            "--memory",
            "cache",
            "--unit",
            "seconds",
            "--budget",
            1000,
            "--limit",
            1024,
            "--json",
        ],
        [*read, "--memory", "cache", "--cache-share", "much"],
        [*read, "--memory", "cash"],
    )
    *helps, cached, idle, still, signed, pulled, first, head, new, told, ls, tuned, wrong, unknown = results
    for code, out, _ in helps:
        assert code == 0 and "cache" in out
    for code, out, _ in helps[:3]:
        assert code == 0 and "--cache-share" in out and "--sign-scale" in out and "--pull-strength" in out
        assert "Give their counts this share of every" in " ".join(out.split())

    def summary(result: list[Any]) -> dict[str, Any]:
        assert result[0] == 0, result
        values: dict[str, Any] = json.loads(result[1])
        return values

    assert summary(cached)["nats"] < 0.98 * summary(cached)["static_nats"] and summary(cached)["updates"] > 0
    assert summary(idle)["nats"] == summary(idle)["static_nats"]
    assert summary(still)["nats"] == summary(still)["static_nats"] and summary(still)["updates"] > 0
    assert summary(signed)["nats"] != summary(signed)["static_nats"]
    assert summary(pulled)["nats"] == pytest.approx(summary(pulled)["static_nats"], rel=1e-5)
    assert summary(first)["updates"] > 0 and summary(head)["updates"] > 0
    config = json.loads((folder / "cached" / "config.json").read_text())
    assert config["memory"]["memory"] == "cache" and config["memory"]["options"] == {"cache_share": 0.3}
    assert summary(new)["home"] == "home" and summary(told)["tokens"] == summary(cached)["tokens"]
    assert [one["id"] for one in summary(ls)["documents"]] == ["text.txt"]
    assert any(row.get("memory") == "cache" for row in summary(tuned)["tried"])
    assert wrong[0] == 2 and unknown[0] == 2 and "weights" in unknown[1] + unknown[2]


def test_a_study_compares_it(folder: Path) -> None:
    made = ["study", "qa", "--memories", "none", "cache", "--documents", 3, "--questions", 2, "--json"]
    ((code, out, err),) = run(folder, made)
    assert code == 0, err
    assert [row["memory"] for row in json.loads(out)["rows"]] == ["none", "cache"]
