"""SmolLM2-135M and Gemma 3 270M for the tests here, each loaded once by a test process; and an English text."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from driftlm import load
from driftlm.models.fingerprint import fingerprint
from driftlm.models.loading import LanguageModel
from tests.support.pretrained import GEMMA, SMOLLM2, file_of, folder_of


@contextmanager
def left_alone(loaded: LanguageModel) -> Iterator[LanguageModel]:
    """A model that is as it was afterwards."""
    yield loaded
    assert fingerprint(loaded.model, loaded.tokenizer) == loaded.fingerprint
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.fixture(scope="session")
def folder() -> Path:
    """SmolLM2 in HuggingFace format."""
    return folder_of(SMOLLM2)


@pytest.fixture(scope="session")
def file() -> Path:
    """The GGUF file that it is made of."""
    return file_of(SMOLLM2)


@pytest.fixture(scope="session")
def loaded(folder: Path) -> LanguageModel:
    """SmolLM2 in float32, loaded once."""
    return load(folder)


@pytest.fixture
def smollm2(loaded: LanguageModel) -> Iterator[LanguageModel]:
    """SmolLM2 in float32, which a test leaves as it was."""
    with left_alone(loaded) as held:
        yield held


@pytest.fixture
def own(loaded: LanguageModel) -> LanguageModel:
    """A copy of SmolLM2 in float32, to learn."""
    return copy.deepcopy(loaded)


@pytest.fixture(scope="session")
def loaded_gemma() -> LanguageModel:
    """Gemma in float32, loaded once."""
    return load(folder_of(GEMMA))


@pytest.fixture
def gemma(loaded_gemma: LanguageModel) -> Iterator[LanguageModel]:
    """Gemma in float32, which a test leaves as it was."""
    with left_alone(loaded_gemma) as held:
        yield held


@pytest.fixture(scope="session")
def text() -> str:
    """English that is on every machine: of the standard library's own documentation."""
    return topics["formatstrings"]


@pytest.fixture
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A folder to work in, which holds the beginning of the text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(text[:1500], encoding="utf-8")
