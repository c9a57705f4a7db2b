"""What README and CONTRIBUTING show is run as it stands there."""

import re
from pathlib import Path

import pytest
import torch

from driftlm.memories.weights.rules import RuleSettings

pytestmark = pytest.mark.command

ROOT = Path(__file__).resolve().parent.parent


def python_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "The rain had not stopped for a week, and the river was in the streets. "
    Path("book.txt").write_text(words * 200)
    reading, asking = python_blocks("README.md")
    exec(compile(reading, "README.md", "exec"), {})
    static, adapted = map(float, capsys.readouterr().out.split())
    assert adapted < 0.9 * static  # a text that repeats itself is soon known
    exec(compile(asking, "README.md", "exec"), {})
    shown = re.search(r"\)\)  # (Answer.*)", asking)
    assert shown and capsys.readouterr().out.strip() == shown[1]


def test_the_rule_of_contributing_is_a_rule() -> None:
    block, *_ = python_blocks("CONTRIBUTING.md")
    names: dict[str, object] = {}
    exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    parameter = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.5]))
    parameter.grad = torch.tensor([0.3, -2.0, 0.0])
    rule = names["SignSGD"]([parameter], [], RuleSettings(learning_rate=0.25))  # type: ignore[operator]
    before = rule.step()
    assert before[0].tolist() == [1.0, -1.0, 0.5]
    assert parameter.tolist() == [0.75, -0.75, 0.5]
    assert parameter.grad is None


def test_the_results_in_the_readme_are_those_that_were_measured() -> None:
    results = pytest.importorskip("recipes.results")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    numbers = [row for row in results.table().splitlines() if row.startswith("| ")]
    assert len(numbers) == 13
    for row in numbers:
        assert row in readme


def test_flags_of_the_readme_exist(capsys: pytest.CaptureFixture[str]) -> None:
    from driftlm.cli.main import main

    verbs = (
        "read",
        "tune",
        "generate",
        "export",
        "statistics",
        "teach",
        "bank add",
        "bank ls",
        "bank export",
        "ask",
        "study qa",
        "study online",
        "serve",
    )
    for verb in (*verbs, "train bank", "train salience", "train qa"):
        with pytest.raises(SystemExit):
            main([*verb.split(), "--help"])
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    shown: set[str] = set()
    for line in lines:
        if "driftlm " in line or line.startswith("|"):
            shown |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", line))
    assert shown
    assert shown <= known
