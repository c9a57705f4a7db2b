"""The verb `report`."""

import sys
from pathlib import Path

import tyro

from driftlm.cli.output import tell
from driftlm.core.errors import DriftError


def report(run: tyro.conf.Positional[str]) -> int:
    """Write a run's HTML report and PNG charts again, or one page of the studies in a folder.

    Args:
        run: the run folder, or the --out of studies.
    """
    from driftlm.studies.page import write_again

    print(f"report: {write_again(Path(run))}", file=sys.stderr)
    return 0


def tell_report(run: str) -> None:
    """Write the report of a run that was just read; a missing extra is a line, as the run is whole without it."""
    from driftlm.report.write import write_report

    try:
        print(f"report: {write_report(Path(run))[0]}", file=sys.stderr)
    except DriftError as missing:
        tell(f"no report: {missing}")
