"""The verb `train bank`: what it writes, and that it goes on where it stopped."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from driftlm.core.errors import DriftError
from driftlm.memories.bank.networks import BankNetworks, load_networks
from driftlm.memories.bank.settings import BankTraining, NetworksSettings
from driftlm.models.loading import load
from driftlm.models.machine import Machine
from driftlm.training import bank as training
from driftlm.training.ranks import Ranks
from driftlm.training.settings import BankRun
from tests.support.made_trainings import SMALL

pytestmark = pytest.mark.long

DRAW = training.draw


def trained(out: Path, steps: int, networks: NetworksSettings = SMALL, start: str = "") -> dict[str, Any] | None:
    settings = BankTraining(steps=steps, batch=4, warm_up=1, remembered=8)
    machine = Machine(threads=1)
    return training.train(machine, networks, settings, BankRun(str(out), start=start, log=1, check=2))


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Little is asked, and of drawing only remembered where."""
    folders: list[Path] = []
    monkeypatch.setattr(training, "draw", folders.append)
    monkeypatch.setattr(training, "BANKS", (4,))
    monkeypatch.setattr(training, "WATCHED", 2)
    return folders


def test_a_training_is_logged_drawn_kept_and_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn: list[Path]
) -> None:
    last = trained(tmp_path, 2)
    trained(tmp_path, 3)
    lines = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [one["step"] for one in lines] == [1, 2, 3] and last == lines[1]
    assert [len(one.get("banks", ())) for one in lines] == [0, 1, 1] and lines[1]["banks"][0]["documents"] == 4
    for one in lines:
        assert one["kinds"] and set(one["kinds"].values()) <= {
            round(share / n, 3) for n in range(1, 5) for share in range(n + 1)
        }
        assert list(one["kinds"].values()) == sorted(one["kinds"].values())
    said = capsys.readouterr().err
    assert "going on at step 2 of 3" in said and f"worst: {next(iter(lines[2]['kinds']))}" in said
    assert drawn == [tmp_path] * 2
    DRAW(tmp_path)
    assert (tmp_path / "training.html").exists() == bool(find_spec("altair") and find_spec("vl_convert"))
    assert load_networks(tmp_path, load()).settings == SMALL


def test_other_processes_than_the_first_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second of two; what the first would send is left out."""
    monkeypatch.setattr(Ranks, "summed", lambda self, value: value)
    monkeypatch.setattr(Ranks, "sum_gradients", lambda self, parameters: None)
    monkeypatch.setattr(training, "joined", lambda device: (Ranks(1, 2), device))
    assert trained(tmp_path / "out", 1) is None
    assert not (tmp_path / "out").exists() and capsys.readouterr().err == ""


def test_a_training_starts_from_networks_saved_before_a_setting_existed(tmp_path: Path) -> None:
    BankNetworks(load(), SMALL).save(tmp_path / "start")
    path = tmp_path / "start" / "networks.json"
    facts = json.loads(path.read_text())
    del facts["settings"]["modulation"]
    path.write_text(json.dumps(facts))
    start = str(tmp_path / "start")
    with pytest.raises(DriftError, match="have other shapes than were asked for"):
        trained(tmp_path / "other", 1, replace(SMALL, blocks=2), start)
    assert trained(tmp_path / "out", 1, SMALL, start)
