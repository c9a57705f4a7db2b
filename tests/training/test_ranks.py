"""Training by two processes is training by one: the same losses, gradients and weights."""

import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.training.batches import Batches, fact_batches
from driftlm.training.ranks import Ranks, joined
from tests.support.made_trainings import FIXED, trainer
from tests.support.running import start

# Shares of unequal size, remembered modulations from the second step on, and every term of the loss.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "batches": fact_batches(3, 5, changed=0.5),
        "kept": 0.7,
        "accumulate": 2,
        "grow": -1.0,
        "bank": 4,
        "batch": 3,
        "distill": 0.5,
        "hierarchical": 0.5,
        "group": 2,
    },
}


def learned(ranks: Ranks, batches: Batches = lambda step: FIXED, **settings: Any) -> dict[str, Any]:
    """The gradient of the first batch; weights, losses and what is remembered after two steps."""
    one = trainer(batches, ranks=ranks, rate=1e-2, **settings)
    one.progress.bank = max(one.progress.bank, 3)
    loss, losses = one.losses(one.batches(0), random.Random(0))
    loss.backward()
    ranks.sum_gradients(one.networks.parameters())
    gradient = {name: weight.grad.clone() for name, weight in one.networks.named_parameters()}
    one.networks.zero_grad()
    one.memory = torch.zeros(0)
    for group in one.optimizer.param_groups:
        group["eps"] = 1e-2  # a gradient that is 0 but for rounding is not to become a step of the full rate
    several = [losses, *(one.step() for _ in range(2))]
    return {
        "gradient": gradient,
        "weights": one.networks.state_dict(),
        "memory": one.memory,
        "losses": [one.means for one in several],
        "kinds": [(one.asked, one.right) for one in several],
    }


def work(number: str, port: str, folder: str) -> None:
    """A process of two."""
    where = {"RANK": number, "WORLD_SIZE": 2, "LOCAL_RANK": number, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()})
    ranks, _ = joined("cpu")
    found = {name: learned(ranks, **case) for name, case in CASES.items()}
    torch.save(found, Path(folder, f"{number}.pt"))


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has in the end."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    two = []
    for number in range(2):
        (folder / str(number)).mkdir()
        two.append(start(folder / str(number), "tests.training.test_ranks:work", number, port, folder))
    outcomes = [one.wait() for one in two]
    assert [one.code for one in outcomes] == [0, 0], outcomes
    return [torch.load(folder / f"{number}.pt", weights_only=False) for number in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(case: str, of_two: list[dict[str, Any]]) -> None:
    alone = learned(Ranks(), **CASES[case])
    assert all((gradient != 0).any() for name, gradient in alone["gradient"].items() if name.endswith("weight"))
    for found in (one[case] for one in of_two):
        assert found["kinds"] == alone["kinds"]
        torch.testing.assert_close(found["losses"], alone["losses"], atol=1e-6, rtol=1e-5)
        for what in ("gradient", "weights"):
            torch.testing.assert_close(found[what], alone[what], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found["memory"], alone["memory"], atol=1e-5, rtol=1e-5)


def test_both_processes_have_the_same_weights_bit_for_bit(of_two: list[dict[str, Any]]) -> None:
    for case in CASES:
        first, second = (one[case]["weights"] for one in of_two)
        assert all(torch.equal(value, second[name]) for name, value in first.items())


class Elsewhere(Ranks):
    """The second of two processes whose first has sent only zeros."""

    def summed(self, value: Tensor) -> Tensor:
        return value


def test_fewer_questions_than_processes_are_refused() -> None:
    with pytest.raises(DriftError, match="4 questions a step are fewer than 5 processes; start fewer"):
        trainer(ranks=Elsewhere(4, 5)).step()


def test_a_process_without_a_gradient_is_refused() -> None:
    with pytest.raises(DriftError, match="leaves 2 of 4 document parts a gradient; .* keeps at least 3"):
        trainer(ranks=Elsewhere(2, 3), kept=0.5).step()


def test_alone_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "1"):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if value:
            monkeypatch.setenv("WORLD_SIZE", value)
        assert joined("cuda") == (Ranks(0, 1), "cuda")
        assert not torch.distributed.is_initialized()
