"""Where a model is: a folder, a GGUF file, a fetched model or a hub name."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.models.catalogue import BUNDLED, PUBLISHED, SOURCE, place_of
from driftlm.models.gguf_files import gguf_of
from driftlm.storage.files import sha256_of


@dataclass(frozen=True)
class Source:
    """Where a model is loaded from.

    Attributes:
        name: as it was named; a full path for a fetched one.
        folder: or hub name, as transformers is given it.
        gguf: name of the file in the folder, where it is one.
    """

    name: str
    folder: str
    gguf: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """Return what `from_pretrained` is given besides."""
        return {"gguf_file": self.gguf} if self.gguf else {}

    @property
    def file(self) -> Path:
        """Return the GGUF file."""
        return Path(self.folder, self.gguf)

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the GGUF file, or of that which a fetched folder was made from; else nothing."""
        if self.gguf:
            return sha256_of(self.file)
        try:
            return str(json.loads(Path(self.folder, SOURCE).read_bytes())["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def source_of(name: str | Path | None) -> Source:
    """Return where the model of a name is; refuses files and folders that hold none."""
    folder = Path(name) if name is not None else BUNDLED
    if not folder.exists() and folder.parts[-3:] == BUNDLED.parts[-3:]:
        name, folder = None, BUNDLED  # what was learned on the bundled model of another installation
    if name is None and not (BUNDLED / "config.json").exists():
        raise DriftError(
            "the bundled model is missing from this installation; reinstall driftlm or give `Machine.model` DIR."
        )
    # A folder of the same name that holds no model, such as one for results, does not hide the one that was fetched.
    if str(name) in PUBLISHED and not (folder / "config.json").exists() and not (folder.exists() and gguf_of(folder)):
        folder = place_of(str(name))
        if not folder.exists():
            raise DriftError(f"the model {name} is not here yet; get it with `driftlm model fetch {name}`.")
    if not folder.exists():
        return Source(str(name), str(name))
    file = gguf_of(folder)
    if file is not None:
        return Source(str(file), str(file.absolute().parent), file.name)
    if not (folder / "config.json").exists():
        if (folder / "adapter_config.json").exists():
            raise DriftError(
                f"the folder {folder} is an adapter, no model; merge it into its base with `driftlm export {folder} "
                f"--to MERGED --as huggingface`, and give MERGED."
            )
        raise DriftError(f"the folder {folder} has no config.json; give a folder in HuggingFace format.")
    return Source(str(folder), str(folder))
