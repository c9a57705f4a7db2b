"""Stand-ins for `measure` that workers can import at once, and a study of them."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.studies.cells import Cell
from driftlm.studies.study import Chart, Conclusion, Scale, Study

CALLS = "calls.log"


def row_of(reading: Cell) -> dict[str, Any]:
    number = float(reading.setting)
    return {
        "setting": reading.setting,
        "text": reading.text,
        "seed": reading.seed,
        "bits_per_byte": 2.0 + number / 10,
        "static_bits_per_byte": 3.0,
        "seconds": 0.0,
    }


def noted(reading: Cell, data: Path) -> dict[str, Any]:
    """Leaves a line a call."""
    with (data / CALLS).open("a") as file:
        file.write(f"{reading.setting}\n")
    return row_of(reading)


def slow(reading: Cell, data: Path) -> dict[str, Any]:
    row = noted(reading, data)
    time.sleep(0.05)
    return row


def dying_once(reading: Cell, data: Path) -> dict[str, Any]:
    """The worker that gets reading 1 first is killed."""
    marker = data / "died"
    if reading.setting == "1" and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return noted(reading, data)


def dying(reading: Cell, data: Path) -> dict[str, Any]:
    noted(reading, data)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def failing_once(reading: Cell, data: Path) -> dict[str, Any]:
    row = noted(reading, data)
    if calls(data).count(reading.setting) == 1:
        raise MemoryError("too little")
    return row


def failing(reading: Cell, data: Path) -> dict[str, Any]:
    noted(reading, data)
    raise ValueError("a bug")


def refusing(reading: Cell, data: Path) -> dict[str, Any]:
    noted(reading, data)
    raise DriftError("this text is too short.")


def endless(reading: Cell, data: Path) -> dict[str, Any]:
    (data / "worker").write_text(str(os.getpid()))
    time.sleep(60)
    return row_of(reading)


def ended_then_endless(reading: Cell, data: Path) -> dict[str, Any]:
    return noted(reading, data) if reading.setting == "0" else endless(reading, data)


def measured_and_threads(reading: Cell, data: Path) -> dict[str, Any]:
    import torch

    from driftlm.studies.measuring import measure

    return measure(reading, data) | {"threads": torch.get_num_threads()}


def calls(data: Path) -> list[str]:
    """Settings that were measured, in order."""
    return (data / CALLS).read_text().split() if (data / CALLS).exists() else []


def many(count: int, model: str = "", texts: Sequence[str] = ("a.txt",)) -> list[Cell]:
    return [Cell(str(number), (text,), 10, model=model) for text in texts for number in range(count)]


def study(count: int, model: str, texts: Sequence[str] = ("a.txt",)) -> Study:
    """Readings 0 ... count - 1 of every text; the claim is that they are below 2.5 on average."""

    def readings(scale: Scale) -> list[Cell]:
        return many(count, model, texts)

    def conclude(rows: Sequence[dict[str, Any]]) -> Conclusion:
        if not rows:
            raise DriftError("there are no rows.")
        mean = sum(row["bits_per_byte"] for row in rows) / len(rows)
        good = mean < 2.5
        return Conclusion("supported" if good else "not supported", f"The mean is {mean:.3f}.", {"mean": mean})

    def charts(rows: Sequence[dict[str, Any]]) -> list[Chart]:
        values = [{"x": row["setting"], "y": row["bits_per_byte"]} for row in rows]
        encoding = {"x": {"field": "x", "type": "nominal"}, "y": {"field": "y", "type": "quantitative"}}
        spec = {"mark": "bar", "data": {"values": values}, "encoding": encoding}
        return [Chart("means", "Means", "Lower is better.", spec)]

    return Study("online", "They are below 2.5.", "nobody 2020, section 1", readings, conclude, charts)


def begin_endless(data: str) -> None:
    """One reading whose worker would outlive a killed parent."""
    from driftlm.studies.engines import local

    list(local(many(1), Path(data), 1, endless))


def begin(count: str, model: str, data: str, out: str) -> None:
    """A run that can be killed: by one worker, since a second might still be starting and measure what it was given."""
    from driftlm.studies.running import run
    from driftlm.studies.settings import ClaimStudy

    run(study(int(count), model), ClaimStudy(data, out, workers=1), measure=slow)
