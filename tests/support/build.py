"""What tests of memories are built from: tiny language models, documents spelled in token ids, and a reader."""

import json
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from driftlm import Document, Step, WeightMemory, Windows, read_stream
from driftlm.memories.base import Memory, State
from driftlm.memories.weights.learning import Learning
from driftlm.models.loading import LanguageModel
from tests.support.families import BOS, FAMILIES, tiny_tokenizer

Reads = TypeVar("Reads", bound=Memory | LanguageModel)
TOKENIZER = tiny_tokenizer()


def language_model(family: str) -> LanguageModel:
    """A family's tiny model, the same weights at every call."""
    return LanguageModel(FAMILIES[family](), TOKENIZER, f"tiny-{family}", BOS, f"fingerprint of {family}")


def weight_memory(family: str, windows: Windows, **learning: object) -> WeightMemory:
    """A memory in weights that reads documents of `spelled` tokens."""
    return reads_numbers(WeightMemory(language_model(family), windows, Learning(**{"rule": "sgd"} | learning)))  # type: ignore[arg-type]


def spelled(tokens: Sequence[int], name: str = "d") -> Document:
    """A document whose text is its token ids in decimal, so that one token can be changed without its neighbours."""
    return Document(name, " ".join(map(str, tokens)))


def numbers(text: str) -> tuple[list[int], list[int]]:
    """`encode` of such a text: a token ends before the space that follows it."""
    words = text.split(" ")
    ends = torch.tensor([len(word) + 1 for word in words]).cumsum(0) - 1
    return [BOS, *map(int, words)], ends.tolist()


def reads_numbers(what: Reads) -> Reads:
    """A memory or a model, with `numbers` in place of its tokenizer."""
    what.encode = numbers  # type: ignore[method-assign]
    return what


def read(memory: Memory, documents: Iterable[Document]) -> Tensor:
    """Nats of every token of a stream."""
    return nats_of(read_stream(memory, documents))


def nats_of(steps: Iterable[Step]) -> Tensor:
    """The scores of the given steps, one after the other."""
    return torch.cat([torch.empty(0), *(step.nats for step in steps)])


def through_files(state: State) -> State:
    """What is left of a state after it was written to a safetensors and a JSON file."""
    return State(load(save(state.tensors)), json.loads(json.dumps(state.values, allow_nan=False)))
