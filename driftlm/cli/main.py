"""The command line: one typed function a verb; heavy imports inside."""

import json
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Annotated

import tyro

import driftlm
from driftlm.cli.bank import BANK_VERBS, ask, bank
from driftlm.cli.claims import CLAIMS, STUDY_VERBS, studies
from driftlm.cli.export import export
from driftlm.cli.home import HOME_VERBS, home
from driftlm.cli.serve import serve
from driftlm.cli.snapshot import SNAPSHOT_VERBS, snapshot
from driftlm.cli.train import TRAIN_VERBS, train
from driftlm.cli.tune import tune
from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learning
from driftlm.models.machine import Machine
from driftlm.runs.settings import Stream
from driftlm.streams.windows import Windows

Text = tyro.conf.Positional[tuple[str, ...]]


def read(windows: Windows, learning: Learning, machine: Machine, stream: Stream) -> int:
    """Read text: score every token, then learn from it; keep a run folder.

    Ctrl-C saves the run; `driftlm read --resume RUN` goes on with it.
    """
    from driftlm.runs.driver import Interrupted
    from driftlm.runs.reading import read as read_into_run

    try:
        summary = read_into_run(windows, learning, machine, stream)
    except Interrupted as stopped:
        print(f"driftlm: stopped and saved; go on with: driftlm read --resume {stopped}", file=sys.stderr)
        return 130
    if stream.report:
        write_report(Path(summary["run"]), asked=False)
    if stream.json:
        print(json.dumps(summary, allow_nan=False))
    else:
        print(verdict(summary))
        for one in summary.get("experts", ()):
            print(f"expert {one['name']}: {one['nats_per_token']:.4f} nats per token, weight {one['weight']:.3f}")
        print(f"run: {summary['run']}")
    return 0


def demo(limit: int = 60_000, run: str = "", threads: int = 0) -> int:
    """Watch the bundled model read the documentation of Python's standard library and get better as it goes.

    Args:
        limit: tokens to score.
        run: folder for the run; empty for one under `runs/`.
        threads: CPU threads; 0 leaves torch's choice.
    """
    from driftlm.streams.demonstration import library_documentation

    text = library_documentation(Path(run).parent if run else Path("runs"))
    stream = Stream(files=(str(text),), limit=limit, run=run)
    return read(Windows(), Learning(), Machine(threads=threads), stream)


def teach(bank: str, seed: int = 0, threads: int = 0) -> int:
    """Watch a bank learn ten documents about invented people, places and firms, and answer about them at once.

    Args:
        bank: folder for the bank, which must be new.
        seed: of what is invented.
        threads: CPU threads; 0 leaves torch's choice.
    """
    from driftlm.homes.bank_folder import add, ask
    from driftlm.streams.demonstration import invented

    if Path(bank).exists():
        raise DriftError(f"--bank {bank} exists already; give a new folder.")
    written, questions = invented(Path(bank), seed)
    machine = Machine(threads=threads)
    for ids in add((str(written),), Path(bank), machine, "", stdin="text", half=False):
        print(f"taught {len(ids)} documents from {written}")
    for asked, found in zip(questions, ask(tuple(one.text for one in questions), Path(bank), machine, "", 24)):
        right = (
            "right" if found["answer"].lower() == asked.answers[0].lower() else f"the document says {asked.answers[0]}"
        )
        best = found["documents"][0]
        print(f"{asked.text}  {found['answer']}  ({right}; {best['weight']:.0%} of the attention on {best['id']})")
    return 0


def report(run: tyro.conf.Positional[str]) -> int:
    """Write a run's HTML report and PNG charts again, or one page of the studies in a folder.

    Args:
        run: the run folder, or the --out of studies.
    """
    from driftlm.runs.folder import read_config
    from driftlm.studies.page import results, write_page

    if results(Path(run)):
        print(f"report: {write_page(Path(run))[0]}", file=sys.stderr)
        return 0
    read_config(Path(run))
    write_report(Path(run), asked=True)
    return 0


def statistics(text: Text, windows: Windows, machine: Machine, *, out: str, limit: int | None = None) -> int:
    """Gather the gradient statistics that `--rule rms` needs.

    Args:
        text: files or folders like the ones the model was trained on.
        windows: how documents are cut.
        machine: which model.
        out: file to write.
        limit: tokens to read.
    """
    from driftlm.memories.weights.statistics import gather
    from driftlm.runs.formats import refuse_unwritable
    from driftlm.streams.documents import read_documents

    if Path(out).exists():
        raise DriftError(f"--out {out} exists already; give another file, or remove it.")
    if limit is not None and limit < 1:
        raise DriftError(f"--limit was {limit}; give the number of tokens to read, at least 1.")
    refuse_unwritable(Path(out))
    language_model = machine.load()
    gathered = gather(language_model, read_documents(text), windows, limit)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    gathered.save(out)
    print(f"{out}: statistics of {gathered.facts['windows']} windows, {gathered.facts['tokens']:,} tokens")
    return 0


def generate(
    prompt: tyro.conf.Positional[str],
    machine: Machine,
    start_from: Annotated[str, tyro.conf.arg(name="from")] = "",
    tokens: int = 100,
    temperature: float = 0.8,
    seed: int = 0,
) -> int:
    """Continue a prompt, with what a run learned.

    Args:
        prompt: text to continue.
        machine: which model.
        start_from: a run or a PEFT or HuggingFace folder to start from.
        tokens: most tokens to add.
        temperature: of the sampling; 0 takes the likeliest token every time.
        seed: of the sampling.
    """
    from driftlm.runs.generation import continuation

    print(continuation(prompt, machine, start_from, tokens=tokens, temperature=temperature, seed=seed))
    return 0


def doctor() -> int:
    """Say what is installed and which path will run."""
    from driftlm.cli.doctor import findings

    for line in findings():
        print(line)
    return 0


VERBS = {
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
    "study": studies,
    "home": home,
    "snapshot": snapshot,
    "serve": serve,
    "doctor": doctor,
}
SETTING = re.compile(r"`\w+\.(?!jsonl?`|py`|sqlite`)([a-z_]+)`")  # a field of settings, and no name of a file
FLAGS = {"start_from": "from", "kind": "as", "way": "aggregation"}  # fields whose flags have other names
GROUPS = {  # verbs of verbs
    "bank": BANK_VERBS,
    "train": TRAIN_VERBS,
    "study": STUDY_VERBS,
    "home": HOME_VERBS,
    "snapshot": SNAPSHOT_VERBS,
}


def write_report(run: Path, asked: bool) -> None:
    """The report, where its extra is installed; a missing one is an error only when the report was asked for."""
    from driftlm.report.write import write_report as write

    try:
        written = write(run)
    except DriftError as missing:
        if asked:
            raise
        print(f"driftlm: no report: {missing}", file=sys.stderr)
        return
    print(f"report: {written[0]}", file=sys.stderr)


def verdict(summary: dict[str, float]) -> str:
    """The totals in one sentence."""
    read_what = f"read {summary['tokens']:,} tokens ({summary['bytes']:,} bytes) in {summary['seconds']:.0f} s"
    static, adapted = summary["static_bits_per_byte"], summary["bits_per_byte"]
    if static is None or summary["updates"] == 0:
        return f"{read_what}: {adapted:.4f} bits per byte"
    change = 100 * (1 - adapted / static)
    word = "fewer" if change >= 0 else "MORE"
    if summary["rollbacks"] and "experts" not in summary:
        word += (
            f"; learning diverged and the guard went back {summary['rollbacks']} times: give a lower --learning-rate"
        )
    return (
        f"{read_what}: {static:.4f} bits per byte by the static model, {adapted:.4f} learning as it read, "
        f"{abs(change):.1f} % {word}"
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
        print(f"driftlm: {in_flags(str(error))}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("driftlm: stopped", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:  # a full disk, a folder that went away
        place = f" ({error.filename})" if error.filename else ""
        then = "go on with --resume" if resumes(arguments) else "try again"
        print(f"driftlm: the system refused: {error.strerror}{place}; mend that, then {then}.", file=sys.stderr)
        code = 2
    sys.exit(code)


def in_flags(sentence: str) -> str:
    """An error that names settings by their fields, with the flags of the command line in their place.

    Example:
        >>> in_flags("`Learning.rank` was 0; give at least 1, or go on from a folder with `Stream.start_from`.")
        '--rank was 0; give at least 1, or go on from a folder with --from.'
    """

    def flag(setting: re.Match[str]) -> str:
        return "--" + FLAGS.get(setting[1], setting[1]).replace("_", "-")

    return SETTING.sub(flag, sentence)


def resumes(arguments: list[str]) -> bool:
    """Whether the verb that the arguments name can go on with what it was stopped in."""
    return arguments[:1] == ["read"] or arguments[:2] in [["study", name] for name in CLAIMS]


def called(arguments: list[str]) -> int:
    """Run the verb that the arguments name."""
    if arguments == ["--version"]:
        print(f"driftlm {driftlm.__version__}")
        return 0
    group = arguments[0] if len(arguments) > 1 and arguments[0] in GROUPS else ""
    return tyro.extras.subcommand_cli_from_dict(
        GROUPS.get(group, VERBS),  # type: ignore[arg-type]  # tyro's overloads leave the verbs' return type unsolved
        args=arguments[1:] if group else arguments,
        prog=f"driftlm {group}".rstrip(),
        description="A language model that keeps learning from the stream it reads.",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )
