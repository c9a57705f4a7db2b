"""The loop of every training: it goes on on the threads that it stopped on, unless others were asked for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from driftlm.models.threads import on_threads
from driftlm.training.loop import Loop


class Counting:
    """Counts its steps, and notes on how many threads each was taken."""

    def __init__(self, steps: int) -> None:
        self.settings, self.progress = SimpleNamespace(steps=steps), SimpleNamespace(step=0)
        self.seen: list[int] = []

    def step(self) -> float:
        self.progress.step += 1
        self.seen.append(torch.get_num_threads())
        return 1.0

    def state(self) -> dict[str, Any]:
        return {"step": self.progress.step}

    def restore(self, state: dict[str, Any]) -> None:
        self.progress.step = state["step"]


def trained(out: Path, steps: int, threads: int = 0) -> list[int]:
    trainer = Counting(steps)
    loop = Loop(trainer, out, 1, 1, lambda losses: {"nats": 1.0}, dict, str, threads=threads)
    loop.resume(torch.device("cpu"))
    loop.run()
    return trainer.seen


@pytest.mark.parametrize(("asked", "then"), [(0, 2), (1, 1)])
def test_a_training_goes_on_on_the_threads_that_it_stopped_on(asked: int, then: int, tmp_path: Path) -> None:
    with on_threads(2):
        assert trained(tmp_path, 2) == [2, 2]
    with on_threads(1):
        assert trained(tmp_path, 4, asked) == [then, then]


def test_a_checkpoint_of_before_says_nothing_of_threads(tmp_path: Path) -> None:
    torch.save({"step": 1}, tmp_path / "checkpoint.pt")
    assert trained(tmp_path, 2) == [1]
