"""What README, CONTRIBUTING and the pages of docs/ show is run as it stands there, and exists as they say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from driftlm.memories.weights.learning import DEFAULT_RATES
from driftlm.memories.weights.rules import RuleSettings
from tests.support.pages import commands_shown, missing_in

pytestmark = pytest.mark.command

ROOT = Path(__file__).resolve().parent.parent
SHOWN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LONGEST_README = 150  # lines

# Whose flags the tables and commands of a page may name.
VERBS = {
    "README.md": (
        *("read", "tune", "generate", "export", "statistics", "teach", "bank add", "bank ls", "bank export", "ask"),
        *("study qa", "study online", "serve", "train bank", "train salience", "train qa", "home new", "home read"),
    ),
    "models.md": ("model fetch", "model show", "read", "export"),
    "reading.md": ("read", "tune", "generate", "export", "statistics", "home read"),
    "weights.md": ("read", "tune", "export", "study controls"),
    "keep-a-bank.md": ("teach", "bank add", "bank ls", "bank export", "ask", "train bank", "study qa", "study bank"),
    "bank.md": ("bank add", "bank forget", "bank export", "bank verify", "ask", "train bank"),
    "context.md": ("study qa",),
    "homes.md": (
        "home new",
        "home read",
        "home ask",
        "home forget",
        "snapshot restore",
        "snapshot prune",
        "read",
        "export",
    ),
    "feed.md": ("home new", "home read", "home forget", "snapshot restore", "serve", "tune", "export"),
    "serving.md": ("serve",),
    "comparing.md": ("study qa", "study retention", "study forgetting", "read", "train salience"),
    "studies.md": ("study online", "study mixture", "read", "report"),
    "made-again.md": ("study online", "study qa", "read"),
    "quick-start.md": ("demo", "read", "generate", "export", "bank add", "ask"),
    "add-a-memory.md": ("read",),
    "index.md": ("teach", "bank forget"),
    "invariants.md": (),
    "words.md": (),
}


def python_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "The rain had not stopped for a week, and the river was in the streets. "
    Path("book.txt").write_text(words * 200)
    (reading,) = python_blocks("README.md")
    exec(compile(reading, "README.md", "exec"), {})
    static, adapted = map(float, capsys.readouterr().out.split())
    assert adapted < 0.9 * static  # a text that repeats itself is soon known
    (asking,) = (block for block in python_blocks("docs/python.md") if "BankMemory(load_networks()" in block)
    exec(compile(asking, "docs/python.md", "exec"), {})
    shown = re.search(r"```text\n(Answer.*)\n", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"))
    assert shown and capsys.readouterr().out.strip() == shown[1]


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= LONGEST_README
    links = re.findall(r"\]\(([^)\s]+)\)", readme)
    assert len(links) > 20
    for target in links:
        assert (ROOT / target).is_file(), target


def test_the_rule_of_contributing_is_a_rule() -> None:
    block, *_ = python_blocks("CONTRIBUTING.md")
    names: dict[str, object] = {}
    exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    parameter, gradient = torch.tensor([1.0, -1.0, 0.5]), torch.tensor([0.3, -2.0, 0.0])
    rule = names["SignSGD"](RuleSettings())  # type: ignore[operator]
    rate = torch.tensor(0.25, dtype=torch.float64)
    rule.update([gradient], rule.init([parameter], rate), [parameter], rate)
    assert parameter.tolist() == [0.75, -0.75, 0.5]


def test_the_results_in_the_documentation_are_those_that_were_measured() -> None:
    results = pytest.importorskip("recipes.results")
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    numbers = [row for row in results.table().splitlines() if row.startswith("| ")]
    assert len(numbers) == 13
    for row in numbers:
        assert row in page


def test_the_results_in_the_readme_are_those_of_the_rows() -> None:
    results = pytest.importorskip("recipes.results")
    cells = {tuple(row.split(" | ")[:3]): row.split(" | ") for row in results.table().splitlines()}
    static = cells["| overlapping", "nothing (static)", ""]
    lora = cells["| overlapping", "LoRA r=8", "adam 0.003"]
    books, minutes = 4, 6  # columns
    facts, squad = rows_of("rivals_facts.json"), rows_of("rivals_squad.json")
    measured = [
        (static[books], lora[books]),
        (static[minutes], lora[minutes]),
        *((f"{facts['none']['em']:.3f}", f"{facts[memory]['em']:.3f}") for memory in ("bank", "bm25", "uniform")),
        *((f"{squad['none']['nats']:.2f}", f"{squad[memory]['nats']:.2f}") for memory in ("uniform+bm25", "bank")),
        (static[books], cells["| overlapping", "LoRA r=8", "sgd 1"][books]),
    ]
    _, headline = results_of_readme()
    assert re.findall(r"^\|[^|]*\| ([\d.]+) \| ([\d.]+) \|.*\|$", headline, flags=re.MULTILINE) == measured


def results_of_readme() -> list[str]:
    """Its results with a real model, and those with the bundled one."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return [readme.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0] for name in ("real", "headline")]


def test_the_readings_in_the_readme_are_those_of_the_defaults_on_a_real_model() -> None:
    held = json.loads((ROOT / "recipes" / "read_defaults.json").read_bytes())
    real, _ = results_of_readme()
    for row in held["rows"]:
        change, low, high = (f"{100 * one:+.1f}".replace("-", "−") for one in (row["change"], *row["change_interval"]))
        bits = f"{row['static_bits_per_byte']:.3f} | {row['bits_per_byte']:.3f}"
        assert f"\n| {row['name']} | {bits} | {change} % ({low} to {high}) |\n" in real
        assert row["learning"] == {"learn": "all", "rule": "relative", "learning_rate": DEFAULT_RATES["relative"]}
        assert f"{row['tokens']:,} tokens" in real
    assert real.count("\n| ") == len(held["rows"]) + 1


def rows_of(name: str) -> dict[str, dict[str, Any]]:
    """Rows of a comparison by memory."""
    return {row["memory"]: row for row in json.loads((ROOT / "recipes" / name).read_bytes())["rows"]}


def test_numbers_about_facts_and_squad_are_those_of_the_rows() -> None:
    comparing = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    facts, squad = re.findall(r"^\| none \|.*?(?=\n\n)", comparing, flags=re.MULTILINE | re.DOTALL)
    for table, rows, columns in (
        (facts, rows_of("rivals_facts.json"), ("em", "nats")),
        (squad, rows_of("rivals_squad.json"), ("f1", "nats")),
    ):
        checked = 0
        for line in table.splitlines():
            name, *numbers = [cell.strip(" *") for cell in line.strip("|").split("|")]
            memory = name.split(" (")[0].strip("* ")
            if memory in rows and "all-MiniLM" not in name:
                for column, number in zip(columns, numbers, strict=False):
                    digits = len(number.partition(".")[2])
                    assert abs(rows[memory][column] - float(number)) <= 0.501 * 10**-digits, line
                    checked += 1
        assert checked == 20


def test_flags_of_the_documentation_exist() -> None:
    documentation = pytest.importorskip("recipes.documentation", reason="needs the extra serve")
    for page in SHOWN:
        # What a console shows is run by tests/test_site.py, and is not driftlm alone.
        lines = re.sub(r"```console\n.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL).splitlines()
        shown: set[str] = set()
        for line in lines:
            if "driftlm " in line or line.startswith("|"):
                shown |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", line))
        helps = "".join(documentation.help_text(verb) for verb in VERBS.get(page.name, ()))
        known = set(re.findall(r"--[a-z][a-z-]+", helps))
        assert shown or page.name not in ("README.md", "reading.md", "homes.md", "keep-a-bank.md")
        assert shown - {"--help"} <= known, page.name


def test_commands_of_the_documentation_exist() -> None:
    pytest.importorskip("fastapi", reason="needs the extra serve")
    shown = [(page.name, command) for page in SHOWN for command in commands_shown(page.read_text(encoding="utf-8"))]
    assert len(shown) > 100
    assert not [f"{name}: {command}: {wrong}" for name, command in shown if (wrong := missing_in(command))]


def test_a_command_that_does_not_exist_is_found_out() -> None:
    pytest.importorskip("fastapi", reason="needs the extra serve")
    assert not missing_in("driftlm bank add news.jsonl --bank bank/")
    for command in (
        "driftlm raed book.txt",
        "driftlm read book.txt --bank bank/",
        "driftlm bank wash",
        "python -m recipes.nothing",
        "make nothing",
    ):
        assert missing_in(command), command
