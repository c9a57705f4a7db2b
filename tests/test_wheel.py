"""The wheel, not the checkout: what it holds, and that it runs where there is nothing else."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "driftlm" / "models" / "bundled"


def run(*command: str | Path, cwd: Path) -> str:
    """The command's standard output; its standard error is the message when it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the checkout, without a network: hatchling is in the `dev` extra."""
    pytest.importorskip("hatchling", reason="hatchling is not installed; it is in the dev extra")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    run(*pip, "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh environment that holds the wheel and borrows its dependencies from this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    names = {"base": str(folder), "platbase": str(folder)}
    # A .pth line adds the packages installed here, but not what their own .pth files add: not the checkout.
    packages = Path(sysconfig.get_path("purelib", "venv", names))
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    scripts = Path(sysconfig.get_path("scripts", "venv", names))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", f"--python={scripts / 'python'}", "install"]
    run(*pip, "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    return scripts


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        notices = {name.split(".dist-info/")[1] for name in archive.namelist() if ".dist-info/" in name}
    sources = {path for path in (ROOT / "driftlm").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert held == {path.relative_to(ROOT).as_posix() for path in sources}
    assert "licenses/LICENSE" in notices


def test_the_wheel_holds_the_bundled_model(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        prefix = BUNDLED.relative_to(ROOT).as_posix() + "/"
        held = {name.removeprefix(prefix) for name in archive.namelist() if name.startswith(prefix)}
        assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= held
        for name in held:
            assert archive.read(prefix + name) == (BUNDLED / name).read_bytes()


def test_the_installed_program_runs_in_an_empty_folder(programs: Path, tmp_path: Path) -> None:
    where = run(programs / "python", "-c", "import driftlm; print(driftlm.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(programs.parent), "the checkout was imported, not the wheel"
    assert run(programs / "driftlm", "--version", cwd=tmp_path).strip() == "driftlm 0.1.0"
    assert run(programs / "python", "-m", "driftlm", "--version", cwd=tmp_path).strip() == "driftlm 0.1.0"

    folder = tmp_path / "run"
    run(programs / "driftlm", "demo", "--limit", "1500", "--run", folder, cwd=tmp_path)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["finished"]
    assert summary["tokens"] == 1500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["python-topics.jsonl", "run"]
