"""The verb `read`."""

from driftlm.cli.output import show, tell
from driftlm.cli.report import tell_report
from driftlm.memories.settings import MemorySettings
from driftlm.models.machine import Machine
from driftlm.runs.settings import Stream


def read(memory: MemorySettings, machine: Machine, stream: Stream) -> int:
    """Read text: score every token, then learn from it; keep a run folder.

    Ctrl-C saves the run; `driftlm read --resume RUN` goes on with it.
    """
    from driftlm.evaluation.controls import controls
    from driftlm.report.tables import show_rows
    from driftlm.runs.driver import Interrupted
    from driftlm.runs.reading import read as read_into_run

    steps = controls(memory, machine, stream) if stream.controls else []
    try:
        summary = read_into_run(memory, machine, stream)
    except Interrupted as stopped:
        tell(f"stopped and saved; go on with: driftlm read --resume {stopped}")
        return 130
    if stream.report:
        tell_report(summary["run"])
    if stream.json:
        show(summary | ({"controls": steps} if steps else {}))
    else:
        show_rows(steps)
        print(verdict(summary))
        for one in summary.get("experts", ()):
            print(f"expert {one['name']}: {one['nats_per_token']:.4f} nats per token, weight {one['weight']:.3f}")
        print(f"run: {summary['run']}")
    return 0


def verdict(summary: dict[str, float]) -> str:
    """Say the totals in one sentence."""
    from driftlm.report.tally import too_short

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
    said = (
        f"{read_what}: {static:.4f} bits per byte by the static model, {adapted:.4f} learning as it read, "
        f"{abs(change):.1f} % {word}"
    )
    short = too_short(int(summary["windows"]))
    return f"{said}; {short[0].lower()}{short[1:-1]}" if short else said
