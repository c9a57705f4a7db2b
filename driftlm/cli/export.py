"""The verb `export`."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from driftlm.cli.output import show
from driftlm.models.machine import Machine
from driftlm.streams.windows import Windows


def export(
    source: tyro.conf.Positional[str],
    machine: Machine,
    windows: Windows,
    *,
    to: str,
    kind: Annotated[Literal["peft", "huggingface", "low-rank"], tyro.conf.arg(name="as")],
    rank: int = 8,
    text: tuple[str, ...] = (),
    limit: int = 8000,
    json: bool = False,
) -> int:
    """Write what was learned as a folder that transformers and peft load.

    Args:
        source: a run, a home, or a PEFT or HuggingFace folder.
        machine: where; its model is the base of a HuggingFace folder, for `low-rank`.
        windows: how --text is cut.
        to: the folder, which must be new.
        kind: the adapter as it was learned, a whole model, or the change of all weights cut to a rank, as a LoRA whose
            error is stated.
        rank: of `low-rank`, at most.
        text: files on which `low-rank` is measured against what was learned.
        limit: tokens of the text, at most.
        json: one JSON object on stdout.
    """
    from driftlm.homes.export import export as export_state

    facts = export_state(Path(source), Path(to), kind, machine, windows, rank=rank, text=text, limit=limit)
    if json:
        show(facts)
        return 0
    if kind == "low-rank":
        left_out = [one["name"] for one in facts["tensors"] if one["left_out"]]
        for one in facts["tensors"]:
            print(f"{one['relative_error']:8.2%} missed of {one['name']}" + (", left out" * one["left_out"]))
        print(
            f"rank {facts['rank']} misses {facts['relative_error']:.2%} of the change (Frobenius norm); "
            f"{len(left_out)} tensors that no LoRA of linear maps holds are left out, "
            f"{facts['left_out_share']:.2%} of its square"
        )
        if text:
            print(
                f"nats per token of {facts['tokens']:,}: {facts['prior_nats_per_token']:.5f} by the base, "
                f"{facts['exact_nats_per_token']:.5f} learned, {facts['exported_nats_per_token']:.5f} exported"
            )
    print(to)
    return 0
