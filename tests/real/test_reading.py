"""Reading with SmolLM2-135M, as commands: options in pairs, side by side, followed, killed and gone on with."""

import json
import signal
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any, get_args

import pytest

from driftlm import load
from driftlm.memories.registries import PARAMETRISATIONS, RULES
from driftlm.models.machine import Machine
from driftlm.streams.windows import Windows
from tests.support.growing_files import append, line
from tests.support.pretrained import GRID, SMALL, SMOLLM2
from tests.support.running import checkpoints, driftlm, ending, start

READ = ["--model", SMOLLM2, *SMALL, *GRID]
# Every pair of values, in the fewest readings: one for each pair of what learns and a rule.
READINGS = [
    ("overlapping", "float32", "all", "relative"),
    ("cached", "bfloat16", "all", "adam"),
    ("overlapping", "bfloat16", "all", "sgd"),
    ("cached", "bfloat16", "lora", "relative"),
    ("overlapping", "float32", "lora", "adam"),
    ("cached", "float32", "lora", "sgd"),
    ("overlapping", "bfloat16", "dora", "relative"),
    ("cached", "bfloat16", "dora", "adam"),
    ("cached", "float32", "dora", "sgd"),
    ("cached", "float32", "norms", "relative"),
    ("overlapping", "float32", "norms", "adam"),
    ("overlapping", "bfloat16", "norms", "sgd"),
]
RATES = {
    "all": {"adam": "1e-5", "sgd": "1e-3"},
    "norms": {"adam": "1e-3", "sgd": "1e-2"},
    "lora": {"adam": "1e-3", "sgd": "1e-2"},
    "dora": {"adam": "1e-3", "sgd": "1e-2"},
}


def on_smollm2(test: Callable[..., None]) -> Callable[..., None]:
    """A test that runs commands on the model for many seconds."""
    return pytest.mark.slow(pytest.mark.usefixtures("folder", "in_an_empty_folder")(test))


def test_every_pair_of_options_is_read() -> None:
    window, dtype = (
        set(get_args(one)) for one in (Windows.__annotations__["window"], Machine.__annotations__["dtype"])
    )
    values = [window, dtype, set(PARAMETRISATIONS.names) - {"none"}, set(RULES.names) - {"rms"}]  # of no statistics
    assert [set(column) for column in zip(*READINGS)] == values
    for one, other in combinations(range(len(values)), 2):
        read = {(reading[one], reading[other]) for reading in READINGS}
        assert set(product(values[one], values[other])) <= read
    assert len(READINGS) == len(values[2]) * len(values[3])


@on_smollm2
@pytest.mark.parametrize(("window", "dtype", "learn", "rule"), READINGS)
def test_it_learns(capsys: pytest.CaptureFixture[str], window: str, dtype: str, learn: str, rule: str) -> None:
    command = ["read", "text.txt", *READ, "--window", window, "--dtype", dtype, "--learn", learn, "--rule", rule]
    rate = RATES[learn].get(rule)  # the relative rule's default is one for all
    summary = driftlm(capsys, *command, *(["--learning-rate", rate] if rate else []), "--run", "run").summary
    assert summary["tokens"] > 300 and summary["updates"] > 8 and summary["rollbacks"] == 0
    assert 0 < summary["bits_per_byte"] < summary["static_bits_per_byte"] * 1.03
    assert summary["nats"] != summary["static_nats"]
    held = json.loads(Path("run/config.json").read_bytes())["model"]
    assert held["fingerprint"] == load(SMOLLM2).fingerprint and held["sha256"].startswith("b179c952")


@on_smollm2
def test_a_mixture_loses_little_to_its_best(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["read", "text.txt", *READ, "--window", "cached", "--learn", "lora", "--rule", "mixture"]
    summary = driftlm(capsys, *command, "--experts", "0,1e-3", "--run", "mixed").summary
    assert summary["nats"] <= summary["static_nats"] + 0.7  # ln 2


def news(text: str, count: int) -> list[str]:
    """Lines of a .jsonl file: the text in parts of growing length."""
    ends = [0]
    while len(ends) <= count:
        ends.append(ends[-1] + 200 + 90 * len(ends))
    return [line(id=f"part {number}", text=text[slice(*ends[number : number + 2])]) for number in range(count)]


@on_smollm2
@pytest.mark.parametrize(("window", "dtype"), [("cached", "float32"), ("overlapping", "bfloat16")])
def test_documents_side_by_side_are_read_as_one_after_the_other(
    capsys: pytest.CaptureFixture[str], text: str, window: str, dtype: str
) -> None:
    Path("news.jsonl").write_text("".join(news(text, 5)), encoding="utf-8")
    command = ["read", "news.jsonl", *READ, "--window", window, "--dtype", dtype, "--learn", "lora", "--rule", "adam"]
    command += ["--learning-rate", "1e-3", "--reset", "document", "--run"]
    alone = driftlm(capsys, *command, "alone").summary
    beside = driftlm(capsys, *command, "beside", "--batch", "3").summary
    assert beside["documents"] == alone["documents"] == 5 and beside["tokens"] == alone["tokens"]
    assert beside["updates"] == alone["updates"] > 10
    close = {"float32": 1e-4, "bfloat16": 1e-2}[dtype]
    assert beside["static_nats"] == pytest.approx(alone["static_nats"], rel=close)
    assert beside["nats"] == pytest.approx(alone["nats"], rel=close)
    assert abs(alone["nats"] - alone["static_nats"]) > (10 * close if dtype == "float32" else 0) * alone["nats"]


@on_smollm2
def test_what_comes_while_it_is_followed_is_read_as_if_it_had_been_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    lines = news(text, 3)
    Path("feed.jsonl").write_text("".join(lines[:2]), encoding="utf-8")
    command: list[Any] = ["read", "feed.jsonl", *READ, "--window", "cached", "--learn", "lora", "--run"]
    process = start(tmp_path, *command, "followed", "--follow")

    def came(count: int) -> bool:
        log = Path("followed/followed.jsonl")
        return log.exists() and log.read_bytes().count(b"\n") == count

    assert process.wait_until(lambda: came(2)), process.wait()
    append(Path("feed.jsonl"), lines[2][:-20])
    append(Path("feed.jsonl"), lines[2][-20:])
    assert process.wait_until(lambda: came(3)), process.wait()
    process.kill(signal.SIGTERM)
    followed = process.wait().summary
    plain = driftlm(capsys, *command, "plain").summary
    assert followed["documents"] == 3 and followed["nats"] == plain["nats"]


@on_smollm2
def test_a_reading_that_was_killed_ends_as_if_it_had_not_been(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["read", "text.txt", *READ, "--window", "cached", "--learn", "lora", "--checkpoint", "0", "--run"]
    assert driftlm(capsys, *command, "whole").code == 0
    process = start(tmp_path, *command, "killed", pause=0.2)
    assert process.wait_until(lambda: checkpoints(Path("killed")))
    process.kill()
    assert process.wait().code == -signal.SIGKILL
    assert driftlm(capsys, "read", "--resume", "killed", "--no-live", "--json").code == 0
    first, second = ending(Path("whole")), ending(Path("killed"))
    assert first["windows"] == second["windows"] and first["tensors"] == second["tensors"]
