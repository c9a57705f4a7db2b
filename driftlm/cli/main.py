"""The command line: the verb that the arguments name is run, and errors become a sentence and an exit code."""

import os
import sys
import warnings
from collections.abc import Callable, Collection
from difflib import get_close_matches

import tyro

import driftlm
from driftlm.cli.ask import ask
from driftlm.cli.bank import BANK_VERBS, bank
from driftlm.cli.demo import demo
from driftlm.cli.doctor import doctor
from driftlm.cli.export import export
from driftlm.cli.generate import generate
from driftlm.cli.home import HOME_VERBS, home
from driftlm.cli.output import in_flags, tell
from driftlm.cli.read import read
from driftlm.cli.report import report
from driftlm.cli.serve import serve
from driftlm.cli.snapshot import SNAPSHOT_VERBS, snapshot
from driftlm.cli.statistics import statistics
from driftlm.cli.study import CLAIMS, STUDY_VERBS, study
from driftlm.cli.teach import teach
from driftlm.cli.train import TRAIN_VERBS, train
from driftlm.cli.tune import tune
from driftlm.core.errors import DriftError

VERBS: dict[str, Callable[..., int]] = {
    "read": read,
    "demo": demo,
    "teach": teach,
    "report": report,
    "statistics": statistics,
    "tune": tune,
    "generate": generate,
    "export": export,
    "train": train,
    "bank": bank,
    "ask": ask,
    "study": study,
    "home": home,
    "snapshot": snapshot,
    "serve": serve,
    "doctor": doctor,
}
CONFIG = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.SuppressFixed,  # a setting that is fixed is no flag
)
GROUPS = {  # verbs of verbs
    "bank": BANK_VERBS,
    "train": TRAIN_VERBS,
    "study": STUDY_VERBS,
    "home": HOME_VERBS,
    "snapshot": SNAPSHOT_VERBS,
}


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
    return arguments[:1] == ["read"] or arguments[:2] in [["study", name] for name in CLAIMS]


def called(arguments: list[str]) -> int:
    """Run the verb that the arguments name."""
    if arguments == ["--version"]:
        print(f"driftlm {driftlm.__version__}")
        return 0
    group = arguments[0] if arguments[:1] and arguments[0] in GROUPS else ""
    refuse_unknown(arguments[:1], VERBS, "driftlm")
    refuse_unknown(arguments[1:2], GROUPS.get(group, ()), f"driftlm {group}")
    if arguments == [group]:
        return VERBS[group]()  # says which verbs there are
    return tyro.extras.subcommand_cli_from_dict(
        GROUPS.get(group, VERBS),
        args=arguments[1:] if group else arguments,
        prog=f"driftlm {group}".rstrip(),
        description="A language model that keeps learning from the stream it reads.",
        config=CONFIG,
    )


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
