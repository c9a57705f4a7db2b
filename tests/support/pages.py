"""Pages of the documentation, followed as a reader would: files written, commands run, what they print compared.

A page's blocks are steps of one session in an empty folder. A block with a `title` is a file to write; of a `console`
block the lines after `$` are commands and the others what they print; a `python` block is run, and a `text` block after
it is what it prints. In what is shown `…` stands for anything, and decimal numbers may differ by a fiftieth.

`python -m tests.support.pages SOCKET` imports everything heavy once and forks a process for every program of a
session, so that a command takes no seconds to start.
"""

import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', flags=re.MULTILINE | re.DOTALL)
DECIMAL = r"[-+−]?\d[\d,]*\.\d+"
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
asked = json.dumps({{"argv": [{program!r}, *sys.argv[1:]], "folder": os.getcwd(), "environment": dict(os.environ)}})
with socket.socket(socket.AF_UNIX) as server:
    server.connect({place!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(asked.encode() + b"\\n")
    answers = server.makefile()
    pid = int(answers.readline())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    sys.exit(int(answers.readline()))
"""


@dataclass(frozen=True)
class Step:
    """Something a reader does: write a file, or run a command.

    Attributes:
        command: for the shell; empty for a file.
        shown: what the page says that it prints.
        file: to write.
        text: of the file.
    """

    command: str
    shown: str = ""
    file: str = ""
    text: str = ""


def steps(page: str) -> list[Step]:
    """What a page tells its reader to do, in order."""
    found: list[Step] = []
    for kind, title, text in FENCE.findall(page):
        if title:
            found.append(Step("", file=title, text=text))
        elif kind == "console":
            found += commands(text)
        elif kind == "python":
            found.append(Step(f"python - <<'PAGE'\n{text}PAGE"))
        elif kind == "text" and found and found[-1].command.startswith("python - <<"):
            found[-1] = Step(found[-1].command, shown=text)
    return found


def commands(text: str) -> Iterator[Step]:
    """The commands of a console; one that ends its line with a backslash goes on in the next."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        while command.endswith("\\"):
            more, _, shown = shown.partition("\n")
            command += "\n" + more
        yield Step(command, shown)


def agrees(shown: str, printed: str) -> bool:
    """Whether something printed is what a page shows.

    >>> agrees("read … tokens: 1.80 bits", "read 2,000 tokens: 1.81 bits"), agrees("1.80 bits", "1.90 bits")
    (True, False)
    >>> agrees("first\\n…\\nlast", "first\\na\\nb\\nlast"), agrees("seq 1", "seq 2")
    (True, False)
    """
    if not shown.strip():
        return not printed.strip()
    pattern = ""
    for line in shown.strip().splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
            continue
        for part in re.split(f"(…|{DECIMAL})", line.rstrip()):
            pattern += ".*?" if part == "…" else f"({DECIMAL})" if re.fullmatch(DECIMAL, part) else re.escape(part)
        pattern += r"[ ]*\n"
    found = re.fullmatch(pattern, printed.strip() + "\n")
    expected = [one for line in shown.strip().splitlines() for one in re.findall(DECIMAL, line)]
    return found is not None and all(
        abs(number(one) - number(other)) <= abs(number(one)) / 50
        for one, other in zip(expected, found.groups(), strict=True)
    )


def number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def commands_shown(page: str) -> Iterator[str]:
    """The commands that a page names: lines of its `sh` blocks, and code that begins with a program."""
    for kind, _, text in FENCE.findall(page):
        if kind == "sh":
            for line in text.splitlines():
                yield from re.split(r" [|&] ", line.partition("  #")[0].partition(" # ")[0])
    for code in re.findall(r"`([^`\n]+)`", FENCE.sub("", page)):
        if re.match(r"(?:driftlm|make) \w|python -m ", code):
            yield code.replace("\\|", "|")


def missing_in(command: str) -> str:
    """What a command names that does not exist: a verb, a flag of that verb, a module, a target; empty where all do."""
    from driftlm.cli.main import GROUPS, VERBS
    from recipes.documentation import help_text

    program, *words = command.removeprefix(".venv/bin/").split()
    if program == "make":
        targets = (ROOT / "Makefile").read_text(encoding="utf-8")
        return "" if re.search(rf"^{words[0]}:", targets, re.MULTILINE) else "no such target"
    if words[:1] == ["-m"]:
        return "" if find_spec(words[1]) else "no such module"
    if program != "driftlm" or words[0] in ("VERB", "--help"):
        return ""
    verb = words[0]
    if verb not in VERBS:
        return "no such verb"
    if verb in GROUPS:
        if len(words) == 1 or words[1].isupper() or words[1] == "--help":  # any verb of the group
            return ""
        if words[1] not in GROUPS[verb]:
            return "no such verb"
        verb = f"{verb} {words[1]}"
    flags = {word.partition("=")[0] for word in words if word.startswith("--") and word != "--help"}
    return " ".join(sorted(flags - set(re.findall(r"--[a-z][a-z-]+", help_text(verb)))))


class Shell:
    """A shell in a folder; a command's output and exit code come back, and what it started in the background stays."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{command}\nprintf '\\036%s\\n' $?\n")
        self.process.stdin.flush()
        printed = ""
        for line in self.process.stdout:
            text, end, code = line.partition("\036")
            printed += text
            if end:
                return int(code), printed
        raise AssertionError(f"the shell ended: {printed}")

    def close(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        finally:
            self.process.communicate()


def follow(page: str, folder: Path, environment: dict[str, str]) -> list[str]:
    """Do what a page says; what did not come out as it shows, a text for each."""
    shell, wrong = Shell(folder, environment), []
    port = free_port()
    try:
        for step in steps(page):
            if step.file:
                (folder / step.file).parent.mkdir(parents=True, exist_ok=True)
                (folder / step.file).write_text(step.text, encoding="utf-8")
                continue
            code, printed = shell.run(re.sub(r"\b8000\b", port, step.command))
            printed = re.sub(rf"\b{port}\b", "8000", printed).replace(f"{ROOT}/", "")
            if code or not agrees(step.shown, printed):
                wrong.append(f"$ {step.command}\n[exit {code}] printed:\n{printed}\nbut the page shows:\n{step.shown}")
                if code:
                    break
    finally:
        shell.close()
    return wrong


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


# --------------------------------------------------------------------------------------------- programs of a session


def environment_of(programs: Path, folder: Path) -> dict[str, str]:
    """Of a session: these programs first, one thread, and packages that `pip` puts into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    place = os.pathsep.join([str(programs), os.environ["PATH"]])
    return os.environ | {"PATH": place, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def installing(folder: Path) -> str:
    """A `pip` that takes nothing from the network, and puts packages into `folder` instead of this environment."""
    flags = f"--quiet --disable-pip-version-check --no-deps --no-index --no-build-isolation --target {folder}"
    return f'#!/bin/sh\nverb=$1; shift\nexec {sys.executable} -m pip "$verb" {flags} "$@"\n'


@contextmanager
def real_programs(site: Path) -> Iterator[Path]:
    """The installed programs themselves."""
    with tempfile.TemporaryDirectory() as folder:
        program(Path(folder) / "pip", installing(site))
        for name in ("driftlm", "python"):  # no links: a python that is linked to leaves its environment
            program(Path(folder) / name, f'#!/bin/sh\nexec {Path(sysconfig.get_path("scripts")) / name} "$@"\n')
        yield Path(folder)


@contextmanager
def forked_programs(site: Path) -> Iterator[Path]:
    """Programs that ask a process which has imported everything to fork."""
    with tempfile.TemporaryDirectory() as name:  # short: a socket's path has at most 108 bytes
        folder = Path(name)
        program(folder / "pip", installing(site))
        for one in ("driftlm", "python"):
            program(folder / one, CLIENT.format(python=sys.executable, program=one, place=f"{folder}/s"))
        command = [sys.executable, "-m", "tests.support.pages", f"{folder}/s"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield folder
        finally:
            server.kill()
            server.communicate()


def serve(place: str) -> None:
    """Fork a process for every program that is asked for."""
    import peft  # noqa: F401 - so that no program has to
    import torch

    import driftlm.homes.home
    import driftlm.runs.formats
    import driftlm.runs.reading  # noqa: F401
    from driftlm.models.loading import load

    for extra in ("fastapi", "uvicorn"):
        if find_spec(extra):
            import_module(extra)
    torch.set_num_threads(1)
    load()  # transformers compiles a thousand patterns for its first model
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place)
        listening.listen()
        print("ready", flush=True)
        while True:
            client, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                watch(client)
            client.close()


def watch(client: socket.socket) -> None:
    """Fork the program that a client asks for, and tell it the exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, descriptors, *_ = socket.recv_fds(client, 1, 3)
    asked = json.loads(client.makefile().readline())
    pid = os.fork()
    if pid == 0:
        client.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        become(asked)
    for descriptor in descriptors:
        os.close(descriptor)
    client.sendall(f"{pid}\n".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    client.sendall(f"{code if code >= 0 else 128 - code}\n".encode())
    os._exit(0)


def become(asked: dict[str, Any]) -> None:
    """Run a program in this process, which was forked for it, and end."""
    import torch

    torch.set_num_threads(1)  # renews torch's pool, which did not survive the fork, before any thread needs it
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[:0] = ["", *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    name, *arguments = asked["argv"]
    code: Any = 0
    try:
        if name == "driftlm":
            from driftlm.cli.main import main

            main(arguments)
        elif arguments[0] == "-c":
            exec(compile(arguments[1], "page", "exec"), {"__name__": "__main__"})
        elif arguments[0] == "-m":  # tests must not find imported what they import
            os.execv(sys.executable, [sys.executable, *arguments])
        elif arguments[0] == "-":
            exec(compile(sys.stdin.read(), "page", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve(sys.argv[1])
