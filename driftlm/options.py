"""Settings of the command line that belong to no memory: the machine and the stream."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from driftlm.errors import DriftError

MOST_ROWS = 1024  # of a batch: each has its own weights and optimizer state, whether or not a document comes for it


@dataclass(frozen=True)
class Machine:
    """Which model, and what it runs on.

    Attributes:
        model: folder or hub name in the local cache; empty for the bundled model.
        dtype: `float32` or `bfloat16`.
        device: `cpu`, `cuda`, `cuda:1`, ...
        threads: CPU threads; 0 leaves torch's choice.
        bos: token that stands before a document, where the tokenizer declares neither BOS nor EOS.
        online: allow a download from the hub.
        bits: load the model's linear maps in `4` or `8` bit, frozen; `0` as they are.
    """

    model: str = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    threads: int = 0
    bos: str = ""
    online: bool = False
    bits: Literal[0, 4, 8] = 0

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise DriftError(f"--threads was {self.threads}; give a number of threads, or 0 for torch's choice.")

    def prepare(self) -> None:
        """Threads, and on CUDA algorithms whose results do not vary: what equal bits need."""
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        if self.device.startswith("cuda"):
            torch.use_deterministic_algorithms(True)

    def loading(self) -> dict[str, Any]:
        """The arguments of `driftlm.models.loading.load` besides the name."""
        return {
            "dtype": self.dtype,
            "device": self.device,
            "bos": self.bos or None,
            "online": self.online,
            "bits": self.bits,
        }


@dataclass(frozen=True)
class Stream:
    """What is read, and where the run is kept.

    Attributes:
        files: text files, folders, .jsonl, .jsonl.gz, .jsonl.xz, `dataset:NAME`, or - for standard input.
        limit: tokens to score in all.
        batch: documents that are read at a time, side by side; with --reset document and --learn lora. A stopped run
            reads again those that were under way.
        compare: score the `static` model on the same windows, or `none`.
        run: folder for the run; empty for one under `runs/`.
        resume: a stopped run to go on with, its settings included.
        start_from: a run or a PEFT or HuggingFace folder to start from.
        save: folder for the adapted weights: PEFT for LoRA and DoRA, HuggingFace otherwise.
        stdin: what standard input holds: one `text`, or `jsonl`.
        follow: go on with what comes into the files and folders: lines of .jsonl, paragraphs of other files, new files
            of folders. Ctrl-C ends the run in order.
        idle: seconds without a document after which --follow ends.
        piece: cut documents into pieces of at most so many bytes, each a document of its own.
        checkpoint: seconds between checkpoints.
        json: print the totals as one JSON object on stdout.
        live: show a live table (or lines, where stderr is no terminal).
        report: write report.html and PNG charts into the run.
    """

    files: tyro.conf.Positional[tuple[str, ...]] = ()
    limit: int | None = None
    batch: int = 1
    compare: Literal["static", "none"] = "static"
    run: str = ""
    resume: str = ""
    start_from: Annotated[str, tyro.conf.arg(name="from")] = ""
    save: str = ""
    stdin: Literal["text", "jsonl"] = "text"
    follow: bool = False
    idle: float | None = None
    piece: int | None = None
    checkpoint: float = 60.0
    json: bool = False
    live: bool = True
    report: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= MOST_ROWS:
            raise DriftError(
                f"--batch was {self.batch}; give the number of documents to read at a time, from 1 to {MOST_ROWS:,}."
            )
        if self.follow and self.batch > 1:
            raise DriftError(
                f"--batch was {self.batch}, but --follow reads documents as they come; leave one of them out."
            )
        refuse_idle(self.follow, self.idle)


def refuse_idle(follow: bool, idle: float | None) -> None:
    """Refuse a number of seconds that says nothing."""
    if idle is not None and not (follow and 0 <= idle < float("inf")):
        raise DriftError(f"--idle was {idle}; give seconds from 0 on, together with --follow.")
