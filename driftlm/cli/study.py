"""The verb `study`: of memories that answer questions, and of published claims."""

from collections.abc import Callable
from pathlib import Path

from driftlm.cli.output import show, tell
from driftlm.core.errors import DriftError
from driftlm.evaluation.settings import QuestionStudy
from driftlm.models.machine import Machine
from driftlm.studies.settings import ClaimStudy

ANSWERS = {
    "qa": "Memories that answer, on one table: adapt each to a whole stream, then ask.",
    "retention": "What is kept of the first 200 documents' answers as more arrive.",
    "forgetting": "Bits per byte on unrelated text before and after adapting.",
    "bank": "A bank's ways of aggregation, and what it does for running text, for one or several networks.",
    "cost": "Seconds and bytes of banks of growing size.",
}
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
    "controls": "What a gain is made of: sink, context, static windows of the same cost, learning.",
}


def of_answers(name: str) -> Callable[..., int]:
    """The verb of a study of memories that answer."""

    def run(machine: Machine, study: QuestionStudy, *, json: bool = False) -> int:
        from driftlm.evaluation.question_studies import studied
        from driftlm.report.tables import show_rows

        rows = studied(name, machine, study)
        show({"rows": rows}) if json else show_rows(rows)
        return 0

    run.__doc__ = f"""{ANSWERS[name]}

    Args:
        machine: which model.
        study: what is measured.
        json: one JSON object on stdout.
    """
    return run


def of_claim(name: str) -> Callable[..., int]:
    """The verb of a study of a published claim."""

    def run(claim: ClaimStudy, *, json: bool = False) -> int:
        from driftlm.studies.running import run_and_show

        result = run_and_show(name, claim, tell)
        if json:
            show(result)
        else:
            print(f"claim: {result['claim']}")
            print(result["sentence"])
            print(f"result: {Path(claim.out) / name}.json")
        return 0

    run.__doc__ = f"""{CLAIMS[name]}

    Args:
        claim: how much of it, on what, and where it is kept.
        json: one JSON object on stdout: claim, verdict, figures, rows, and where they come from.
    """
    return run


def study() -> int:
    """Run a study: of memories that answer, or of a published claim (see `driftlm study --help`)."""
    raise DriftError(
        f"there is {', '.join(STUDY_VERBS)} to study; say which: driftlm study online --data DIR --out DIR."
    )


STUDY_VERBS: dict[str, Callable[..., int]] = {
    **{name: of_answers(name) for name in ANSWERS},
    **{name: of_claim(name) for name in CLAIMS},
}
