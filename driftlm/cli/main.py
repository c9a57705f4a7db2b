"""The command line: the verb that the arguments name is run, and errors become a sentence and an exit code."""

import ast
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import tyro

import driftlm
from driftlm.cli.output import in_flags, tell
from driftlm.core.errors import DriftError


class Loaded(Mapping[str, Any]):
    """Names in modules of this package, each imported when it is asked for, so that a verb waits for no other."""

    def __init__(self, **places: str) -> None:
        self.places = places

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = self.places[name].partition(":")
        return getattr(import_module(f"driftlm.cli.{module}"), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


VERBS = Loaded(
    read="read:read",
    demo="demo:demo",
    teach="teach:teach",
    report="report:report",
    statistics="statistics:statistics",
    tune="tune:tune",
    generate="generate:generate",
    export="export:export",
    train="train:train",
    bank="bank:bank",
    ask="ask:ask",
    study="study:study",
    home="home:home",
    snapshot="snapshot:snapshot",
    serve="serve:serve",
    model="model:model",
    doctor="doctor:doctor",
)
GROUPS = Loaded(  # verbs of verbs
    bank="bank:BANK_VERBS",
    train="train:TRAIN_VERBS",
    study="study:STUDY_VERBS",
    home="home:HOME_VERBS",
    snapshot="snapshot:SNAPSHOT_VERBS",
    model="model:MODEL_VERBS",
)
CONFIG = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.SuppressFixed,  # a setting that is fixed is no flag
)


def main(arguments: list[str] | None = None) -> None:
    """Run a verb and exit: 0 done, 2 bad input (one sentence on stderr), 130 stopped by Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "--online" not in arguments:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore", module="transformers|peft")
    code: int
    try:
        try:
            code = called(arguments)
        finally:
            sys.stdout.flush()  # here, where a reader that has gone away is no error
    except DriftError as error:
        tell(in_flags(str(error)))
        code = 2
    except KeyboardInterrupt:
        tell("stopped")
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:  # a full disk, a folder that went away
        place = f" ({error.filename})" if error.filename else ""
        then = "go on with --resume" if resumes(arguments) else "try again"
        tell(f"the system refused: {error.strerror}{place}; mend that, then {then}.")
        code = 2
    sys.exit(code)


def resumes(arguments: list[str]) -> bool:
    """Whether the verb that the arguments name can go on with what it was stopped in."""
    from driftlm.cli.study import CLAIMS

    return arguments[:1] == ["read"] or arguments[:2] in [["study", name] for name in CLAIMS]


def called(arguments: list[str]) -> int:
    """Run the verb that the arguments name."""
    if arguments == ["--version"]:
        print(f"driftlm {driftlm.__version__}")
        return 0
    refuse_unknown(arguments[:1], VERBS, "driftlm")
    verb = arguments[0] if arguments[:1] and arguments[0] in VERBS else ""
    if verb in GROUPS:
        verbs = GROUPS[verb]
        refuse_unknown(arguments[1:2], verbs, f"driftlm {verb}")
        if arguments == [verb]:
            return int(VERBS[verb]())  # says which verbs there are
        return one_of(verbs, arguments[1:], f"driftlm {verb}")
    if verb:
        return int(tyro.cli(VERBS[verb], args=arguments[1:], prog=f"driftlm {verb}", config=CONFIG))
    return one_of({name: in_outline(name) for name in VERBS}, arguments, "driftlm")


def one_of(verbs: Mapping[str, Callable[..., int]], arguments: list[str], program: str) -> int:
    """Run the one of some verbs that the arguments name, or show all."""
    return tyro.extras.subcommand_cli_from_dict(
        dict(verbs),
        args=arguments,
        prog=program,
        description="A language model that keeps learning from the stream it reads.",
        config=CONFIG,
    )


def in_outline(verb: str) -> Callable[..., int]:
    """Return a function with a verb's docstring, read off its source: enough to list it, and nothing is imported."""
    module, _, name = VERBS.places[verb].partition(":")
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)

    def outline() -> int:
        return 0

    outline.__doc__, outline.__name__ = ast.get_docstring(found), verb
    return outline


def refuse_unknown(first: list[str], verbs: Collection[str], program: str) -> None:
    """Refuse a verb that there is not, and name the nearest one.

    Example:
        >>> refuse_unknown(["reed"], ["read", "report"], "driftlm")
        Traceback (most recent call last):
        driftlm.core.errors.DriftError: there is no verb `driftlm reed`; the nearest is `driftlm read`, and ...
    """
    for verb in first:
        if verbs and verb not in verbs and not verb.startswith("-"):
            (nearest,) = get_close_matches(verb, verbs, n=1, cutoff=0.0)
            raise DriftError(
                f"there is no verb `{program} {verb}`; the nearest is `{program} {nearest}`, and `{program} --help` "
                f"lists all."
            )
