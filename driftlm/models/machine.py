"""Which model, and what it runs on; no heavy import before a model is loaded."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from driftlm.core.errors import DriftError

if TYPE_CHECKING:
    from driftlm.models.loading import LanguageModel


@dataclass(frozen=True)
class Machine:
    """Which model, and what it runs on.

    Attributes:
        model: Load the model from this folder or GGUF file, by the name of one that `driftlm model fetch` fetched, or
            by its hub name from the local cache; empty for the bundled model.
        dtype: Compute in `float32` or `bfloat16`.
        device: Compute on `cpu`, `cuda`, `cuda:1`, ...
        threads: Use so many CPU threads; 0 measures whether 1, half or all of them are fastest now.
        bos: Put this token before a document, where the tokenizer declares neither BOS nor EOS.
        online: Allow a download from the hub.
        bits: Load the model's linear maps in `4` or `8` bit, frozen; `0` as they are.
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
            raise DriftError(
                f"`Machine.threads` was {self.threads}; give a number of threads, or 0 to have it measured."
            )

    def load(self) -> "LanguageModel":
        """Load the model, on the threads that were asked for and so that the same input gives the same bits.

        Where none were asked for, the number is measured and said on stderr; `torch.get_num_threads()` has it then.

        Raises:
            DriftError: for a model or a device that is not to be had.
        """
        import torch

        from driftlm.models import threads
        from driftlm.models.loading import load

        if self.threads:
            torch.set_num_threads(self.threads)
        if self.device.startswith("cuda"):
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products refuse to run without
            torch.use_deterministic_algorithms(True)
        language_model = load(
            self.model or None,
            dtype=self.dtype,
            device=self.device,
            bos=self.bos or None,
            online=self.online,
            bits=self.bits,
        )
        found = None if self.threads else threads.measure(language_model, torch.get_num_threads())
        if found is not None:
            sys.stderr.write(f"driftlm: {found}\n")
        return language_model


def available_bytes(device: Any) -> int:
    """Return the memory that is free for a process on a device, in bytes: of a container at most what it is allowed.

    Where the system does not tell, half of what it has.

    Example:
        >>> available_bytes("cpu") > 1 << 20
        True
    """
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = Path("/proc/meminfo")
    told = re.search(r"MemAvailable:\s+(\d+) kB", known.read_text()) if known.exists() else None
    if told is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    free, group = int(told[1]) * 1024, Path("/sys/fs/cgroup")
    limit, used, parts = (group / name for name in ("memory.max", "memory.current", "memory.stat"))
    if limit.exists() and used.exists() and (allowed := limit.read_text().strip()).isdigit():
        files = re.search(r"^inactive_file (\d+)", parts.read_text(), re.MULTILINE)  # that are given up when asked for
        free = min(free, max(0, int(allowed) - int(used.read_text()) + (int(files[1]) if files else 0)))
    return free
