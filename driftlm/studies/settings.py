"""Settings of a study of a published claim; no heavy import, so that the command line can show them."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from driftlm.core.errors import DriftError
from driftlm.studies.study import Scale


@dataclass(frozen=True)
class ClaimStudy:
    """How much of a study is run, where, and on what.

    Attributes:
        data: folder with books/, drift/ and shift/.
        out: folder: every row as it comes in NAME.jsonl, the result in NAME.json, all results there in studies.html.
        model: read with the model of this folder, GGUF file, or name of one that `driftlm model fetch` fetched; empty
            for the bundled one.
        models: several of them, for a study that compares models; an empty name for the bundled one.
        dtype: compute in `float32` or `bfloat16`.
        tokens: read by one reading; the study's own number by default, like the next two.
        texts: most of each kind; 0 for all.
        seeds: of each setting that has any.
        settings: measure only those that a pattern matches, such as `rank *`; all by default.
        engine: `local`: processes on this machine; `ray`: the cluster that RAY_ADDRESS names, or a local one.
        workers: readings at a time; 0 for one a core.
        resume: go on with the readings that OUT holds.
        limit_hours: begin no reading after so many hours, and conclude from the texts that are whole by then.

    Raises:
        DriftError: for a number of workers below 0, no time at all, or both `model` and `models`.
    """

    data: str
    out: str
    model: str = ""
    models: tuple[str, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    tokens: int | None = None
    texts: int | None = None
    seeds: int | None = None
    settings: tuple[str, ...] = ()
    engine: Literal["local", "ray"] = "local"
    workers: int = 0
    resume: bool = False
    limit_hours: float = math.inf

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise DriftError(
                f"`ClaimStudy.workers` was {self.workers}; give a number of readings at a time, or 0 for one a core."
            )
        if not self.limit_hours > 0:
            raise DriftError(
                f"`ClaimStudy.limit_hours` was {self.limit_hours}; give a number of hours above 0, or leave it out."
            )
        if self.model and self.models:
            raise DriftError("`ClaimStudy.model` names one model and `ClaimStudy.models` several; give one of the two.")

    def scale(self, usual: Scale) -> Scale:
        """The scale that was asked for, with a study's usual numbers where none was.

        >>> ClaimStudy("data", "out", seeds=3).scale(Scale(tokens=10_000))
        Scale(tokens=10000, seeds=3, texts=0, models=())
        """
        given = {"tokens": self.tokens, "seeds": self.seeds, "texts": self.texts}
        models = self.models or ((self.model,) if self.model else ())
        return replace(usual, models=models, **{name: one for name, one in given.items() if one is not None})

    def data_folder(self) -> Path:
        """The folder of the texts.

        Raises:
            DriftError: where there is none.
        """
        if not Path(self.data).is_dir():
            raise DriftError(
                f"`ClaimStudy.data` {self.data} is no folder; give the one that holds books/, drift/ and shift/."
            )
        return Path(self.data)
