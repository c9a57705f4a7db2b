"""Windows whose operations and traffic are counted, and memories that a counter sees into."""

from typing import Any

import torch
from torch import nn

from driftlm import WeightMemory, Windows
from driftlm.cost.products import Shape
from driftlm.streams.windows import Window, split
from tests.support.families import random_ids

MODES: dict[str, dict[str, Any]] = {
    "static": {"learn": "none"},
    "all": {},
    "lora": {"learn": "lora", "rank": 4},
    "norms": {"learn": "norms"},
    "layers": {"layers": "1-1"},
}
TOKENS = 41  # two whole windows, the first of which has nothing before it, and a short one


def eager(memory: Any) -> Any:
    """A memory whose attention the counter sees into."""
    for one in (memory, getattr(memory, "frozen", memory), *getattr(memory, "active", ())):
        one.language_model.model.set_attn_implementation("eager")
        assert not getattr(one, "rotary", None) or one.rotary.turns  # is tried once, in passes of its own
    return memory


def windows_of(grid: Windows, tokens: int = TOKENS) -> list[Window]:
    """A document's windows."""
    ids = random_ids(tokens)
    return list(split("d", ids, range(1, len(ids)), grid))


def shape_of(window: Window, grid: Windows) -> Shape:
    """Fed, attended to and new, from the window itself."""
    sink = len(window.sink[: window.start])
    if grid.window == "overlapping":
        return Shape(sink + len(window.inputs), sink + len(window.inputs), window.new)
    return Shape(window.new, sink + min(len(window.inputs), grid.kept + window.new), window.new)


def sink_of(window: Window, grid: Windows) -> int:
    """Tokens of the sink in a pass of their own, where weights have changed since the window before."""
    return len(window.sink[: window.start]) if grid.window == "cached" else 0


def weighing(memory: WeightMemory) -> WeightMemory:
    """A memory whose salience gives every token another weight."""
    if memory.salience is not None:
        memory.salience.weights = lambda window: torch.arange(1.0, window.new + 1)  # type: ignore[method-assign]
    return memory


def of_another_kind(memory: WeightMemory) -> None:
    """Give its model a layer that no formula knows."""
    memory.language_model.model.model.layers[0].mixing = nn.Conv1d(1, 1, 3)
