"""The command line: which verb is called, and what errors become."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import driftlm as package
from driftlm.cli.main import GROUPS
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.learning import Learning
from driftlm.serving.settings import SHORT
from tests.support.running import QUICK, ROOT, driftlm, refused, tiny_model, words, written

Capture = pytest.CaptureFixture[str]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m driftlm` in an interpreter of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    whole = [sys.executable, "-m", "driftlm", *arguments]
    return subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=120, check=False)


# ---------------------------------------------------------------------------------------- in an interpreter of its own


@pytest.mark.parametrize("arguments", [["--help"], ["read", "--help"], ["--version"], ["read", "--every", "0"]])
def test_before_a_verb_runs_nothing_heavy_is_imported(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from driftlm.cli.main import main\n"
        "try:\n"
        f"    main({arguments})\n"
        "finally:\n"
        "    heavy = {'torch', 'transformers', 'peft', 'safetensors', 'numpy', 'altair'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    bad = "--every" in arguments
    assert (done.returncode, bool(done.stdout), bool(done.stderr)) == (2 if bad else 0, not bad, bad), done.stderr
    assert "Traceback" not in done.stderr


def test_a_fresh_interpreter_reads_and_refuses(tmp_path: Path) -> None:
    written(tmp_path, a=words(20))
    (tmp_path / "bad.txt").write_bytes(b"good, then \xff")
    model = str(tiny_model(tmp_path))
    bad = command("read", "bad.txt", "--model", model, *QUICK, "--run", "run")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("driftlm: bad.txt: not UTF-8 at byte offset 11;") and bad.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    good = command("read", "a.txt", "--model", model, *QUICK[:-2], "--run", "run", "--json")
    assert good.returncode == 0 and json.loads(good.stdout)["run"] == "run"
    assert "tokens" in good.stderr and "Traceback" not in good.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["read", "--help"]])
def test_a_reader_that_went_away_is_no_error(arguments: list[str]) -> None:
    gone, end = os.pipe()
    os.close(gone)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    whole = [sys.executable, "-m", "driftlm", *arguments]
    done = subprocess.run(whole, env=environment, stdout=end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(end)
    assert done.returncode == 141 and done.stderr == ""


# ------------------------------------------------------------------------------------------------------------- parsing


@pytest.mark.parametrize(
    "line", ["--window sliding", "--limit many", "--nonsense 3", "--context", "--learning-rate fast", "--learn"]
)
def test_what_cannot_be_parsed_goes_to_stderr(line: str, capsys: Capture) -> None:
    outcome = driftlm(capsys, "read", "a.txt", *line.split())
    assert outcome.code == 2 and outcome.out == "" and line.split()[0] in outcome.err


@pytest.mark.parametrize(
    ("line", "then"),
    [
        ("read book.txt", "go on with --resume"),
        ("study online --data d --out o", "go on with --resume"),
        ("study forgetting", "try again"),
        ("home new place", "try again"),
        ("serve --home-folder read", "try again"),
    ],
)
def test_who_cannot_resume_is_not_told_to(
    line: str, then: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(arguments: list[str]) -> int:
        raise OSError(28, "No space left on device", "place")

    monkeypatch.setattr("driftlm.cli.main.called", full)
    refused(driftlm(capsys, *line.split()), f"No space left on device (place); mend that, then {then}.")


def test_without_a_verb_the_verbs_are_named(capsys: Capture) -> None:
    outcome = driftlm(capsys)
    assert outcome.code == 2 and outcome.out == ""
    outcome = driftlm(capsys, "--help")
    assert outcome.code == 0 and all(verb in outcome.out for verb in ("read", "demo", "report", "generate", "doctor"))
    assert driftlm(capsys, "--version") == (0, f"driftlm {package.__version__}\n", "")


@pytest.mark.parametrize("behind", [[], ["--help"], ["a.txt", "--json"]])
@pytest.mark.parametrize(
    ("verbs", "nearest"),
    [
        ("reed", "driftlm read"),
        ("stats", "driftlm statistics"),
        ("nosuch", "driftlm "),
        ("bank ad", "driftlm bank add"),
        ("home asks", "driftlm home ask"),
        ("study onlin", "driftlm study online"),
        ("snapshot mkae", "driftlm snapshot make"),
        ("train salient", "driftlm train salience"),
    ],
)
def test_an_unknown_verb_names_the_nearest(verbs: str, nearest: str, behind: list[str], capsys: Capture) -> None:
    refused(driftlm(capsys, *verbs.split(), *behind), f"no verb `driftlm {verbs}`; the nearest is `{nearest}")


@pytest.mark.parametrize("group", GROUPS)
def test_a_verb_of_verbs_alone_says_which_there_are(group: str, capsys: Capture) -> None:
    refused(driftlm(capsys, group), *GROUPS[group], "say which")
    outcome = driftlm(capsys, group, "--help")
    assert outcome.code == 0 and all(verb in outcome.out for verb in GROUPS[group])


def test_a_rate_alone_is_adams_of_a_server_too(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    starting = pytest.importorskip("driftlm.serving.starting", reason="needs the extra serve")
    seen: list[MemorySettings] = []
    monkeypatch.setattr(starting, "start", lambda memory, *_: seen.append(memory))
    assert driftlm(capsys, "serve", "--home-folder", "homes", "--learning-rate", "1e-3").code == 0
    assert driftlm(capsys, "serve", "--home-folder", "homes").code == 0
    assert seen == [MemorySettings(SHORT, Learning(learning_rate=1e-3)), MemorySettings(SHORT)]
