"""The command line as tests run it: in this process, or in processes of its own that can be killed.

`python -m tests.support.running` imports everything heavy once and forks a process for every command it is told
to start.
"""

import atexit
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from driftlm.cli.main import main
from driftlm.models.loading import load, no_progress_bar
from tests.support.families import FAMILIES, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--rule", "sgd", "--context", "32", "--stride", "16", "--threads", "1", "--no-report", "--no-live", "--json"]
WORDS = ["the", "and", "of", "in", "that", "thing", "was", "her", "here", "on", "sea", "ship", "storm", "red", "ring"]
ELSEWHERE = {"seconds", "peak_memory_bytes", "run", "saved"}  # what two equal runs differ in


def tiny_model(folder: Path, family: str = "llama") -> Path:
    """A family's tiny model with its tokenizer, as a HuggingFace folder; made once a folder."""
    place = folder / family
    if not place.exists():
        with no_progress_bar():
            FAMILIES[family]().save_pretrained(place)
        tiny_tokenizer().save_pretrained(place)
    return place


def words(count: int, seed: int = 0) -> str:
    """A text of a few words again and again: there is something to learn."""
    return " ".join(random.Random(seed).choices(WORDS, k=count)) + ".\n"


def written(folder: Path, **texts: str) -> list[str]:
    """Text files `a.txt`, `b.txt`, ...; their paths."""
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return [str(folder / f"{name}.txt") for name in texts]


class Outcome(NamedTuple):
    """What a command left: its exit code and its two streams."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The object that `--json` printed, and nothing besides."""
        assert self.code == 0, self.err
        (line,) = self.out.splitlines()
        return json.loads(line)


def driftlm(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Run a command in this process; torch keeps its number of threads."""
    threads = torch.get_num_threads()
    capsys.readouterr()
    try:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
    finally:
        torch.set_num_threads(threads)
    return Outcome(int(stopped.value.code or 0), *capsys.readouterr())


def refused(outcome: Outcome, *parts: str) -> None:
    """Bad input got one sentence on stderr that holds `parts`, and nothing on stdout."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("driftlm: ") and outcome.err.count("\n") == 1, outcome.err
    assert all(part in outcome.err for part in parts), outcome.err


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(run.glob("checkpoint-*"))


def ending(run: Path) -> dict[str, Any]:
    """All that a finished run says and has learned, besides the time it took: what two runs are compared by."""
    (last,) = checkpoints(run)
    values = json.loads((last / "values.json").read_bytes())
    del values["totals"]["seconds"]
    summary = json.loads((run / "summary.json").read_bytes())
    tensors = {
        f"{file.name}/{name}": (str(tensor.dtype), tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        for file in sorted(last.iterdir())
        if file.suffix != ".json"
        for name, tensor in load_file(file).items()
    }
    return {
        "summary": {key: value for key, value in summary.items() if key not in ELSEWHERE},
        "windows": (run / "windows.jsonl").read_bytes(),
        "values": values,
        "tensors": tensors,
    }


# ------------------------------------------------------------------------------------- processes that can be killed


@dataclass
class Process:
    """A started command."""

    pid: int
    out: Path
    err: Path

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def running(self) -> bool:
        return forking().ask(running=self.pid)

    def wait(self) -> Outcome:
        """Its end; a negative code is the signal that killed it. One that hangs is killed."""
        deadline = time.monotonic() + 60
        while self.running():
            if time.monotonic() > deadline:
                self.kill()
                break
            time.sleep(0.002)
        return Outcome(forking().ask(wait=self.pid), self.out.read_text(), self.err.read_text())

    def wait_until(self, seen: Any) -> bool:
        """Wait until `seen()`; False where the process ended before."""
        deadline = time.monotonic() + 60
        while not seen():
            if not self.running() or time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True


class Forking:
    """The process that forks; everything is imported in it, and it has no second thread."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.running"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.close)

    def ask(self, **order: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


@cache
def forking() -> Forking:
    return Forking()


def start(folder: Path, *arguments: object, stdin: Path | None = None, dies_at: int = 0, pause: float = 0.0) -> Process:
    """Start a command in `folder`.

    Args:
        folder: where it runs; its output is kept there.
        *arguments: of `driftlm`; or one, `module:function`, to call instead.
        stdin: file or named pipe to read from.
        dies_at: kill -9 before the so many-th change to a file below `folder`; 0 lets it live.
        pause: seconds to wait at every window, so that it is not over before somebody stops it.
    """
    out, err = folder / "stdout.log", folder / "stderr.log"
    command = [str(argument) for argument in arguments]
    order = {"folder": str(folder), "stdin": str(stdin or os.devnull), "dies_at": dies_at, "pause": pause}
    pid = forking().ask(start=command, **order)
    return Process(pid, out, err)


def finish(folder: Path, *arguments: object, stdin: Path | None = None, dies_at: int = 0) -> Outcome:
    """Run a command in a process of its own."""
    return start(folder, *arguments, stdin=stdin, dies_at=dies_at).wait()


CHANGES = {"open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.truncate"}


def die_at(change: int, folder: str) -> None:
    """Kill this process before its so many-th change to a file below `folder`."""
    left = [change]

    def count(path: object) -> None:
        if os.path.abspath(os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else "/").startswith(
            folder
        ):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES and not (event == "open" and arguments[1] in ("r", "rb", None)):
            count(arguments[0])

    sync = os.fsync

    def counted(descriptor: int) -> None:
        count(folder)
        sync(descriptor)

    os.fsync = counted
    sys.addaudithook(hook)


def wait_at_every_window(seconds: float) -> None:
    from driftlm.runs.folder import Run

    append = Run.append

    def slowly(run: Run, record: dict[str, Any]) -> None:
        append(run, record)
        time.sleep(seconds)

    Run.append = slowly  # type: ignore[method-assign]


def become(order: dict[str, Any]) -> None:
    """Run the ordered command in this process, which was forked for it, and end."""
    os.chdir(order["folder"])
    for descriptor, path, flags in (
        (0, order["stdin"], os.O_RDONLY),
        (1, "stdout.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, "stderr.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: Any = 1
    try:
        if order["dies_at"]:
            die_at(order["dies_at"], order["folder"])
        wait_at_every_window(order["pause"])
        first, *more = order["start"]
        if ":" in first:
            module, _, function = first.partition(":")
            getattr(import_module(module), function)(*more)
            code = 0
        else:
            main(order["start"])
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Fork a process for every order that comes in."""
    import peft  # noqa: F401 - so that no command has to

    import driftlm.runs.formats
    import driftlm.runs.reading  # noqa: F401

    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        load(tiny_model(Path(folder)))  # transformers compiles a thousand patterns for its first model
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal ends the tests, and they end this
    ended: dict[int, int] = {}
    for line in sys.stdin:
        order = json.loads(line)
        answer: Any
        if "start" in order:
            answer = os.fork()
            if answer == 0:
                become(order)
        elif "wait" in order:
            answer = ended.pop(order["wait"], None)
            if answer is None:
                answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        else:
            pid = order["running"]
            found, status = (pid, 0) if pid in ended else os.waitpid(pid, os.WNOHANG)
            if found and pid not in ended:
                ended[pid] = os.waitstatus_to_exitcode(status)
            answer = not found
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
