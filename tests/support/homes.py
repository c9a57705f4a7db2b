"""What tests of homes are built from: one tiny model for all, short documents, states compared bit by bit."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from driftlm import Document, Learning, Windows
from driftlm.homes.home import Home
from driftlm.memories.base import State
from driftlm.memories.build import memory_for
from driftlm.memories.settings import MemorySettings
from driftlm.models.loading import LanguageModel
from tests.support.build import language_model
from tests.support.running import words

GRID = Windows("cached", 32, 16)
ADAM = Learning(rule="adam", learning_rate=5e-3)
LORA = Learning("lora", rank=2, rule="sgd", learning_rate=0.1, momentum=0.5)
MIXTURE = Learning(rule="mixture", experts="0,5e-3,sgd:0.1")
FROZEN = Learning("none")
KINDS = {
    "all adam": MemorySettings(GRID, ADAM),
    "lora sgd": MemorySettings(GRID, LORA, compare="none"),
    "mixture": MemorySettings(GRID, MIXTURE),
    "words": MemorySettings(GRID, FROZEN, ("bm25", "dense"), budget=6),
    "learns behind words": MemorySettings(GRID, LORA, ("bm25",), budget=6),
}


@cache
def model() -> LanguageModel:
    """The one that all homes share."""
    return language_model("llama")


def documents(count: int, length: int = 12) -> list[Document]:
    """One a year, from 2000 on; no two are alike."""
    return [
        Document(f"d{number}", f"mark{number} {words(length, number)}", f"{2000 + number}-06-15")
        for number in range(count)
    ]


@contextmanager
def home_in(folder: Path, settings: MemorySettings = KINDS["all adam"], **more: Any) -> Iterator[Home]:
    """The home in a folder, made where there is none."""
    made = (
        Home.open(folder, model(), **more)
        if (folder / "home.json").exists()
        else Home.create(folder, model(), settings, **more)
    )
    with made as home:
        yield home


def straight(settings: MemorySettings, read: Iterable[Document]) -> State:
    """What a memory that lives in no folder has learned from some documents."""
    from driftlm import read_stream

    memory = memory_for(settings, model(), None)
    for _ in read_stream(memory, read):
        pass
    return memory.state()


def assert_same(one: State, other: State) -> None:
    """Bit by bit, values as well."""
    assert one.tensors.keys() == other.tensors.keys()
    for name, value in one.tensors.items():
        assert value.dtype == other.tensors[name].dtype and torch.equal(value, other.tensors[name]), name
    assert one.values == other.values


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
