"""A study is run: readings that are not there yet go to an engine, every row is kept at once, a verdict follows.

OUT/NAME.jsonl    a line a reading: its key and its row
OUT/NAME.json     claim, verdict, figures, rows, and where they come from
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO

import torch

import driftlm
from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learning
from driftlm.models.loading import load
from driftlm.runs.folder import write_json
from driftlm.runs.reading import versions
from driftlm.storage.files import refuse_unwritable
from driftlm.studies.cells import Cell
from driftlm.studies.engines import Measure, cores, engine_of
from driftlm.studies.measuring import measure as measure_row
from driftlm.studies.page import write_page
from driftlm.studies.settings import ClaimStudy
from driftlm.studies.study import Conclusion, Row, Study, study_of
from driftlm.studies.texts import WHERE_THERE

Kept = dict[str, Row]  # by key
Tell = Callable[[str], object]
REPOSITORY = Path(__file__).resolve().parents[2]
CPU_FACTS = Path("/proc/cpuinfo")


def run(
    study: Study, claim: ClaimStudy, *, tell: Tell = lambda line: None, measure: Measure = measure_row
) -> dict[str, Any]:
    """Measure what is missing, conclude from all rows, and write both; returns what OUT/NAME.json holds.

    A reading that OUT holds is never measured again. One whose text or settings changed is another reading. A
    study that was stopped by its limit concludes from the texts that have all their readings.

    Args:
        study: which one.
        claim: how much of it, on what, and where it is kept.
        tell: gets a sentence for every reading that is finished.
        measure: makes a row.

    Raises:
        DriftError: where OUT holds readings of this study and was not to be resumed, or those of another model, or one
            cannot be measured.
    """
    deadline = time.monotonic() + 3600 * claim.limit_hours
    scale, data, out = claim.scale(study.scale), claim.data_folder(), Path(claim.out)
    lines = out / f"{study.name}.jsonl"
    if lines.exists() and not claim.resume:
        raise DriftError(
            f"{lines} holds readings of this study already; go on with `ClaimStudy.resume`, or give another "
            f"`ClaimStudy.out`."
        )
    refuse_unwritable(out)
    readings = chosen(study, claim, data)
    fingerprints = {model: load(model or None).fingerprint for model in {reading.model for reading in readings}}
    wanted = {reading.key(data, fingerprints[reading.model]): reading for reading in readings}
    with appended(lines) as (kept, keep):
        if not study.several:
            refuse_others(kept, fingerprints, lines)
        missing = {key: reading for key, reading in wanted.items() if key not in kept}
        tell(f"{study.name}: {len(wanted)} readings, {len(wanted) - len(missing)} of them there already")
        if missing:
            keys = {reading: key for key, reading in missing.items()}
            engine, still = engine_of(claim.engine), lambda: time.monotonic() < deadline
            found = engine(list(missing.values()), data, claim.workers, measure, still)
            for number, (reading, row) in enumerate(found, 1):
                keep(keys[reading], row)
                tell(f"{number}/{len(missing)} {said(row)}")
        rows, left = counted(wanted, kept)
    if left:
        tell(f"stopped with {left} readings left; go on with --resume")
    concluded = study.conclude(rows) if not left else unfinished(study, rows, wanted)
    result = {
        "study": study.name,
        "claim": study.claim,
        "source": study.source,
        "verdict": concluded.verdict,
        "sentence": concluded.sentence,
        "figures": concluded.figures,
        "rows": rows,
        "missing": left,
        "models": fingerprints,
        **provenance(),
        "scale": asdict(scale) | {"models": list(scale.models)},
        "seeds": sorted({reading.seed for reading in wanted.values()}),
        "engine": claim.engine,
        "data": claim.data,
    }
    write_json(out / f"{study.name}.json", result)
    return result


def run_and_show(name: str, claim: ClaimStudy, tell: Tell) -> dict[str, Any]:
    """Run the study of a name, and write the page of all results beside it where the `report` extra is installed.

    Arguments, result and errors are those of `run`.
    """
    result = run(study_of(name), claim, tell=tell)
    try:
        tell(f"report: {write_page(Path(claim.out))[0]}")
    except DriftError as missing:
        tell(f"no report: {missing}")
    return result


def chosen(study: Study, claim: ClaimStudy, data: Path) -> list[Cell]:
    """Return the readings that were asked for: by the model, in the settings and of the texts that are there.

    Raises:
        DriftError: for several models of a study of one, or patterns that no setting matches.
    """
    scale = claim.scale(study.scale)
    if len(scale.models) > 1 and not study.several:
        raise DriftError(
            f"`ClaimStudy.models` named {len(scale.models)}, and the study {study.name} reads with one; give "
            f"`ClaimStudy.model`, and every model an `ClaimStudy.out` of its own."
        )
    found = [
        replace(
            one,
            model=one.model or ("" if study.several else scale.model),
            dtype=claim.dtype,
            learning=settled(one.learning),
        )
        for one in study.readings(scale)
        if all(text not in WHERE_THERE or (data / text).exists() for text in one.texts)
    ]
    matched = [one for one in found if any(fnmatchcase(one.setting, pattern) for pattern in claim.settings or ("*",))]
    if not matched:
        names = ", ".join(dict.fromkeys(one.setting for one in found))
        raise DriftError(f"`ClaimStudy.settings` matched none of the settings of {study.name}; they are: {names}.")
    return matched


def settled(learning: Learning) -> Learning:
    """Return the learning with the default rate of the rule relative written out, so that rows by another are others.

    Those of the older rules stay open, as they are in the keys of earlier rows.
    """
    return learning.settled() if learning.rule == "relative" and learning.learn != "none" else learning


def refuse_others(kept: Kept, fingerprints: Mapping[str, str], lines: Path) -> None:
    """Refuse to put readings of one model beside those of another."""
    if {row["fingerprint"] for row in kept.values() if "fingerprint" in row} - set(fingerprints.values()):
        raise DriftError(f"{lines} holds readings of another model; give every model an `ClaimStudy.out` of its own.")


def counted(wanted: Mapping[str, Cell], kept: Kept) -> tuple[list[Row], int]:
    """Return the rows of the texts that have all their readings, and how many readings are not there."""
    lacking = [reading.text for key, reading in wanted.items() if key not in kept]
    return [kept[key] for key, reading in wanted.items() if reading.text not in lacking], len(lacking)


def unfinished(study: Study, rows: list[Row], wanted: Mapping[str, Cell]) -> Conclusion:
    """Return what follows from the texts that were finished, and that others were not; undecided where nothing does."""
    whole, all_ = len({row["text"] for row in rows}), len({reading.text for reading in wanted.values()})
    said = f"Unfinished, {whole} of {all_} texts: "
    try:
        found = study.conclude(rows)
    except DriftError:
        return Conclusion("undecided", f"{said}too few to conclude anything.", {})
    return replace(found, sentence=said + found.sentence)


def said(row: Row) -> str:
    """Return a finished reading in a line."""
    bits = f"{row['static_bits_per_byte']:.4f} static, {row['bits_per_byte']:.4f} bits per byte"
    return f"{row['setting']}: {row['text']} (seed {row['seed']}): {bits}, {row['seconds']:.0f} s"


# ---- rows on disk ---------------------------------------------------------------------------------------------------


@contextmanager
def appended(path: Path) -> Iterator[tuple[Kept, Callable[[str, Row], None]]]:
    """Yield the rows that a file of lines holds, and what adds one: it is on disk when the call returns.

    A last line that was not finished, because the writer was killed, is taken away.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, appended(Path(folder, "rows.jsonl")) as (kept, keep):
    ...     keep("a1", {"nats": 2.0})
    ...     kept
    {'a1': {'nats': 2.0}}
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        kept = read_lines(path, file)

        def keep(key: str, row: Row) -> None:
            line = json.dumps({"key": key} | row, allow_nan=False, ensure_ascii=False)
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            kept[key] = row_of(line)  # as it is when read again

        yield kept, keep


def read_lines(path: Path, file: BinaryIO) -> Kept:
    """Return the rows by key; the file ends behind its last whole line."""
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    file.truncate(whole)
    kept = {}
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            kept[json.loads(line)["key"]] = row_of(line)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DriftError(
                f"{path}, line {number} is no row of a study; take it out, or give another `ClaimStudy.out`."
            ) from error
    return kept


def row_of(line: str | bytes) -> Row:
    """Return the row of a line."""
    row: Row = json.loads(line)
    del row["key"]
    return row


# ---- where a result comes from --------------------------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """Return the version, commit, command, machine and time of a result."""
    return {
        "driftlm": driftlm.__version__,
        "commit": commit(),
        "command": shlex.join(["driftlm", *sys.argv[1:]]),
        "versions": versions(),
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit() -> str | None:
    """Return the commit this package runs from, with `+` where files differ from it; None where it is no checkout."""
    if not (REPOSITORY / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> dict[str, Any]:
    """Return the processor, its vector instructions as torch uses them, and the cores that this process may use."""
    names = [
        line.partition(":")[2].strip()
        for line in (CPU_FACTS.read_text(encoding="utf-8").splitlines() if CPU_FACTS.exists() else ())
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
    }
