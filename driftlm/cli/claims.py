"""The command line of studies that run published claims again, beside those of answers; heavy imports inside."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Literal

from driftlm.cli.bank import show
from driftlm.cli.study import study
from driftlm.core.errors import DriftError

CLAIMS = {
    "online": "Static against learning on every text, with and without resets, by position, and regret to hindsight.",
    "windows": "Overlapping against cached windows over contexts and strides: bits per byte against FLOPs.",
    "cadence": "Updates every 1, 2, 4, 8, 16 windows, skipped or accumulated.",
    "context": "A longer static context against a shorter one that learns, in-domain and under shift.",
    "lora": "Ranks, modules, layers, DoRA and norms: gain against memory and FLOPs.",
    "finetuned": "The gain before and after the prior was trained on the target domain.",
    "drift": "The same documents in date order, shuffled, and interleaved: sensitivity to drift.",
    "size": "The gain by the size of the model.",
    "mixture": "A mixture against the best of a finer grid of rates, and against the static model.",
}
Answers = Literal["qa", "retention", "forgetting", "bank", "cost"]
ANSWERS: dict[Answers, str] = {
    "qa": "Memories that answer, on one table: adapt each to a whole stream, then ask.",
    "retention": "What is kept of the first 200 documents' answers as more arrive.",
    "forgetting": "Bits per byte on unrelated text before and after adapting.",
    "bank": "A bank's ways of aggregation, and what it does for running text, for one or several networks.",
    "cost": "Seconds and bytes of banks of growing size.",
}
HELP = """{}

    Args:
        data: folder with books/, drift/ and shift/.
        out: folder: every row as it comes in NAME.jsonl, the result in NAME.json, all results there in studies.html.
        models: folders of models, for a study of several; the bundled one by default.
        tokens: read by one reading; the study's own number by default, like the next two.
        texts: most of each kind; 0 for all.
        seeds: of each setting that has any.
        engine: `local`: processes on this machine; `ray`: the cluster that RAY_ADDRESS names, or a local one.
        workers: readings at a time; 0 for one a core.
        resume: go on with the readings that OUT holds.
        json: one JSON object on stdout: claim, verdict, figures, rows, and where they come from.
    """


def claim(name: str) -> Callable[..., int]:
    """The verb of a study."""

    def run_study(
        *,
        data: str,
        out: str,
        models: tuple[str, ...] = (),
        tokens: int | None = None,
        texts: int | None = None,
        seeds: int | None = None,
        engine: Literal["local", "ray"] = "local",
        workers: int = 0,
        resume: bool = False,
        json: bool = False,
    ) -> int:
        from driftlm.studies.page import write_page
        from driftlm.studies.running import run
        from driftlm.studies.study import study_of

        given = {"tokens": tokens, "seeds": seeds, "texts": texts}
        found = study_of(name)
        result = run(
            found,
            replace(found.scale, models=models, **{key: value for key, value in given.items() if value is not None}),
            Path(data),
            Path(out),
            engine=engine,
            workers=workers,
            resume=resume,
            tell=tell,
        )
        try:
            tell(f"report: {write_page(Path(out))[0]}")
        except DriftError as missing:
            tell(f"no report: {missing}")
        if json:
            show(result)
        else:
            print(f"claim: {result['claim']}")
            print(result["sentence"])
            print(f"result: {Path(out) / name}.json")
        return 0

    run_study.__doc__ = HELP.format(CLAIMS[name])
    return run_study


def of_answers(name: Answers) -> Callable[..., int]:
    """The verb of a study of memories that answer."""

    @wraps(study)
    def run_study(*given: Any, **named: Any) -> int:
        return study(name, *given, **named)

    signature = inspect.signature(study)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "what"]
    run_study.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    _, _, options = str(study.__doc__).partition("\n")
    run_study.__doc__ = f"{ANSWERS[name]}\n{options}"
    return run_study


def tell(line: str) -> None:
    """Progress, on stderr."""
    print(f"driftlm: {line}", file=sys.stderr, flush=True)


def studies() -> int:
    """Run a study: of memories that answer, or of a published claim (see `driftlm study --help`)."""
    raise DriftError(
        f"there is {', '.join(STUDY_VERBS)} to study; say which: driftlm study online --data DIR --out DIR."
    )


STUDY_VERBS: dict[str, Callable[..., int]] = {
    **{name: of_answers(name) for name in ANSWERS},
    **{name: claim(name) for name in CLAIMS},
}
