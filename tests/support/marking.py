"""Markers read off the code of a test, so that none is forgotten: whole commands, and processes of its own."""

from collections.abc import Iterator
from inspect import unwrap
from types import CodeType, FunctionType
from typing import Any

COMMAND = "driftlm.cli.main.main"
PROCESS = {"tests.support.running.start", "tests.support.running.finish"}
STARTING = {"subprocess", "multiprocessing", "fork"}  # whatever is called by these names starts a process


def names_in(code: CodeType) -> Iterator[str]:
    """Every global and attribute that code names, in functions inside it as well."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from names_in(inner)


def markers_of(*functions: Any) -> set[str]:
    """Which of `command` and `process` functions deserve by what they call, directly or through others of the tests."""
    found, seen, waiting = set[str](), set[Any](), [unwrap(function) for function in functions]
    while waiting:
        function = waiting.pop()
        if function in seen or not isinstance(function, FunctionType):
            continue
        seen.add(function)
        name = f"{function.__module__}.{function.__qualname__}"
        if name == COMMAND:
            found.add("command")
        elif name in PROCESS:
            found.add("process")
        elif name.startswith("tests."):
            names = set(names_in(function.__code__))
            found |= {"process"} if names & STARTING else set()
            waiting += [unwrap(value) for name in names if callable(value := function.__globals__.get(name))]
    return found
