"""What a study is: a claim, the readings that test it, and the verdict that follows from their rows alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from driftlm.core.errors import DriftError
from driftlm.studies.cells import Cell

Verdict = Literal["supported", "not supported", "undecided"]
Row = dict[str, Any]  # of `driftlm.studies.measuring.measure`

STUDIES = {
    name: f"driftlm.studies.{name}:STUDY"
    for name in ("online", "windows", "cadence", "context", "lora", "finetuned", "drift", "size", "mixture", "controls")
}


@dataclass(frozen=True)
class Scale:
    """How much of a study is run.

    Attributes:
        tokens: read by one reading.
        seeds: of each setting that has any.
        texts: most of each kind; 0 for all.
        models: folders, GGUF files or names, of a study of several models; of any other study one at most.
    """

    tokens: int = 20_000
    seeds: int = 1
    texts: int = 0
    models: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """Return the model of a study of one; empty for the bundled one."""
        return self.models[0] if self.models else ""

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("seeds", 1), ("texts", 0)):
            if getattr(self, name) < least:
                raise DriftError(f"`Scale.{name}` was {getattr(self, name)}; give at least {least}.")


@dataclass(frozen=True)
class Conclusion:
    """What follows from the rows.

    Attributes:
        verdict: may well come out against the claim.
        sentence: says the verdict and the deciding numbers with their interval.
        figures: the numbers by name; JSON.
    """

    verdict: Verdict
    sentence: str
    figures: dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A chart of a study.

    Attributes:
        name: of its PNG, within the study.
        heading: what it shows.
        caption: how to read it.
        spec: Vega-Lite without a width, which the page and the PNG give it.
    """

    name: str
    heading: str
    caption: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A published claim and how it is tested.

    Attributes:
        name: as on the command line.
        claim: one falsifiable sentence.
        source: paper and section.
        readings: what is measured at a scale; never the same setting, text and seed twice.
        conclude: from rows alone, so that stored rows give the same verdict again.
        charts: of the rows.
        scale: what is run where the command line says nothing else.
        several: whether it compares models, and its readings name their own.
    """

    name: str
    claim: str
    source: str
    readings: Callable[[Scale], list[Cell]]
    conclude: Callable[[Sequence[Row]], Conclusion]
    charts: Callable[[Sequence[Row]], list[Chart]]
    scale: Scale = field(default_factory=Scale)
    several: bool = False


def study_of(name: str) -> Study:
    """Return the study of a name.

    Raises:
        DriftError: where there is none.
    """
    if name not in STUDIES:
        raise DriftError(f"there is no study {name!r}; give one of {', '.join(STUDIES)}.")
    module, attribute = STUDIES[name].split(":")
    study: Study = getattr(import_module(module), attribute)
    return study
