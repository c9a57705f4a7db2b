"""Settings of a study of a published claim; no heavy import, so that the command line can show them."""

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
        models: folders of models, for a study of several, an empty name for the bundled one; that alone by default.
        tokens: read by one reading; the study's own number by default, like the next two.
        texts: most of each kind; 0 for all.
        seeds: of each setting that has any.
        engine: `local`: processes on this machine; `ray`: the cluster that RAY_ADDRESS names, or a local one.
        workers: readings at a time; 0 for one a core.
        resume: go on with the readings that OUT holds.

    Raises:
        DriftError: for a number of workers below 0.
    """

    data: str
    out: str
    models: tuple[str, ...] = ()
    tokens: int | None = None
    texts: int | None = None
    seeds: int | None = None
    engine: Literal["local", "ray"] = "local"
    workers: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise DriftError(
                f"`ClaimStudy.workers` was {self.workers}; give a number of readings at a time, or 0 for one a core."
            )

    def scale(self, usual: Scale) -> Scale:
        """The scale that was asked for, with a study's usual numbers where none was.

        >>> ClaimStudy("data", "out", seeds=3).scale(Scale(tokens=10_000))
        Scale(tokens=10000, seeds=3, texts=0, models=())
        """
        given = {"tokens": self.tokens, "seeds": self.seeds, "texts": self.texts}
        return replace(usual, models=self.models, **{name: one for name, one in given.items() if one is not None})

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
