"""The formulas against the sizes of what torch is given to multiply, in every mode and family, and against a step's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from driftlm import WeightMemory, Windows, read_stream
from driftlm.core.errors import DriftError
from driftlm.cost.summary import summarized
from driftlm.cost.traffic import bytes_of, formula_of, step_of
from driftlm.memories.weights.learning import Learning
from driftlm.memories.weights.mixture import MixtureMemory
from driftlm.memories.weights.rules import flat, gradients_of
from driftlm.memories.weights.statistics import gather
from driftlm.models.head import KEPT_LOGITS
from driftlm.runs.folder import Run, line
from driftlm.streams.documents import Document
from tests.support.build import language_model, reads_numbers, spelled, weight_memory
from tests.support.counted_windows import MODES, TOKENS, eager, of_another_kind, shape_of, sink_of, weighing, windows_of
from tests.support.families import CACHED_FAMILIES, FAMILIES, random_ids
from tests.support.running import driftlm, tiny_model, words, written

TOLERANCE = 1e-3  # today the two agree to the last byte
CASES = [(name, "overlapping", mode) for name in FAMILIES for mode in ("static", "all", "lora", "norms")]
CASES += [(name, "cached", mode) for name in CACHED_FAMILIES for mode in ("all", "lora")]
aten = torch.ops.aten
PRODUCTS = {aten.mm, aten.bmm, aten.addmm, aten.addmm_, aten._addmm_activation, aten.baddbmm, aten.baddbmm_}


class Multiplied(TorchDispatchMode):
    """Bytes of what products are given, but for the place of their result, and of what they give."""

    bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket in PRODUCTS:
            tensors = [one for one in tree_leaves((args, result)) if isinstance(one, Tensor)]
            self.bytes += sum(one.numel() * one.element_size() for one in tensors)
        return result


class Used(TorchDispatchMode):
    """Numbers read, of tensors that were there before: each once, however many operations read it."""

    def __enter__(self) -> Self:
        self.made: list[Any] = []  # kept, so that no other tensor takes its place
        self.read: dict[int, int] = {}
        return super().__enter__()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = {one.untyped_storage().data_ptr() for one in self.made}
        for one in tree_leaves(args):
            if isinstance(one, Tensor) and one.ndim and one.untyped_storage().data_ptr() not in made:
                self.read[one.untyped_storage().data_ptr()] = one.numel()
        result = function(*args, **(kwargs or {}))
        given = {one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        new = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        self.made += [one for one in new if one.untyped_storage().data_ptr() not in given]
        return result


def agree(memory: WeightMemory, grid: Windows, change: Callable[[Any], None] = lambda model: None) -> None:
    """Every window's score and backward pass move what is multiplied there."""
    change(eager(memory).language_model.model)
    formula = formula_of(memory)
    for window in windows_of(grid):
        with Multiplied() as counter:
            memory.score(window)
            memory.learn(window)
        shape = shape_of(window, grid)
        expected = formula.score(shape) + formula.sink(sink_of(window, grid))
        expected += formula.learn(shape) if memory.parameters else 0
        assert expected == pytest.approx(counter.bytes, rel=TOLERANCE)


@pytest.mark.parametrize(("family", "kind", "mode"), CASES)
def test_a_window_moves_what_is_multiplied(family: str, kind: Any, mode: str) -> None:
    grid = Windows(kind, 32, 16)
    agree(weight_memory(family, grid, **MODES[mode]), grid)


@pytest.mark.parametrize("settings", [{"learn": "dora", "rank": 4}, {"learn": "lora", "target_modules": "v_proj"}])
def test_a_low_rank_moves_what_is_multiplied(settings: dict[str, Any]) -> None:
    grid = Windows("overlapping", 32, 16)
    agree(weight_memory("llama", grid, **settings), grid)


@pytest.mark.parametrize("settings", [{"learn": "none"}, {"learn": "norms"}, {}, {"salience": "tfidf"}])
def test_the_head_is_read_again_for_every_part(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("driftlm.models.head", "driftlm.cost.flops"):
        monkeypatch.setattr(f"{module}.KEPT_LOGITS", 300 * 6)
    assert KEPT_LOGITS > 300 * 16
    grid = Windows("overlapping", 16, 16)
    agree(weighing(weight_memory("llama", grid, **settings)), grid)


def test_half_the_numbers_long_is_half_the_bytes() -> None:
    grid = Windows("cached", 32, 16)
    agree(weight_memory("llama", grid, learn="none"), grid, lambda model: model.bfloat16())


# ---- updates --------------------------------------------------------------------------------------------------------

RULES: list[dict[str, Any]] = [
    {"rule": "sgd"},
    {"rule": "sgd", "momentum": 0.9},
    {"rule": "adam"},
    {"rule": "rms", "decay": 0.0},
    {"rule": "rms", "decay": 1e-3},
]


@pytest.mark.parametrize("settings", RULES)
def test_a_step_moves_what_a_rule_reads_and_changes(settings: dict[str, Any], tmp_path: Path) -> None:
    model, grid, statistics = language_model("llama"), Windows("overlapping", 32, 16), tmp_path / "statistics"
    gather(model, [Document("rain", "It rained.")], grid).save(statistics)
    learning = Learning(statistics=str(statistics), guard="off", **settings)
    memory = WeightMemory(model, grid, learning)
    first, second, _ = windows_of(grid)
    memory.learn(first)
    memory.score(second).sum()
    assert memory.scored is not None
    memory.scored.forward.nats.mean().backward()

    def held() -> list[Tensor]:
        return [
            one.clone() for one in (*(p.data for p in memory.parameters), *flat(memory.rule_state).values()) if one.ndim
        ]

    before = held()
    with Used() as used:
        memory.rule.update(gradients_of(memory.parameters), memory.rule_state, memory.values(), memory.rate)
    changed = sum(new.numel() for new, old in zip(held(), before, strict=True) if not torch.equal(new, old))
    parameters = sum(p.numel() for p in memory.parameters)
    assert sum(used.read.values()) + changed == step_of(learning) * parameters
    assert formula_of(memory).step == 4 * step_of(learning) * parameters


# ---- runs -----------------------------------------------------------------------------------------------------------


def logged(memory: Any, folder: Path) -> tuple[int, int, int]:
    """Read two documents; what the formula says of the run, what was multiplied in it, and its windows."""
    run, windows = Run(folder, {}), 0
    documents = [spelled(random_ids(TOKENS, seed)[1:], f"d{seed}") for seed in range(2)]
    with Multiplied() as counter:
        for step in read_stream(memory, documents):
            run.append(line(step, None))
            windows += 1
    run.close()
    return bytes_of(memory, folder / "windows.jsonl"), counter.bytes, windows


@pytest.mark.parametrize("kind", ["overlapping", "cached"])
@pytest.mark.parametrize("cadence", ["skip", "accumulate"])
def test_a_run_moves_what_is_multiplied_and_its_updates(kind: Any, cadence: str, tmp_path: Path) -> None:
    settings = {"every": 3, "cadence": cadence, "learning_rate": 0.01}
    memory = eager(weight_memory("llama", Windows(kind, 32, 16), **settings))
    moved, multiplied, windows = logged(memory, tmp_path)
    parameters, updates = 4 * sum(p.numel() for p in memory.parameters), memory.counts.updates
    update = 3 * updates
    if cadence == "accumulate":  # divided at every step; added, but for the first behind it
        update += 2 * updates + 3 * (windows - updates)
    assert 0 < updates < windows
    assert moved - update * parameters == pytest.approx(multiplied, rel=TOLERANCE)


def test_a_mixture_moves_what_its_experts_and_the_prior_do(tmp_path: Path) -> None:
    experts = [Learning(rule="sgd", learning_rate=rate) for rate in (0.0, 0.01)] + [Learning(learning_rate=1e-4)]
    memory = eager(reads_numbers(MixtureMemory(language_model("llama"), Windows("cached", 32, 16), experts)))
    moved, multiplied, windows = logged(memory, tmp_path)
    parameters = 4 * sum(p.numel() for p in memory.active[0].parameters)
    assert memory.counts.updates == 2 * windows
    assert moved - (3 + 7) * windows * parameters == pytest.approx(multiplied, rel=TOLERANCE)


def test_a_run_says_what_it_moved(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model, texts = tiny_model(tmp_path), written(tmp_path, a=words(40))
    command = ["read", *texts, "--model", model, "--rule", "sgd", "--context", 32, "--stride", 16]
    command += ["--threads", 1, "--no-report", "--no-live", "--json"]
    said = {
        learn: driftlm(capsys, *command, "--learn", learn, "--run", tmp_path / learn).summary
        for learn in ("none", "norms", "all")
    }
    assert 0 < said["none"]["bytes_moved"] < said["norms"]["bytes_moved"] < said["all"]["bytes_moved"]
    assert said["all"]["bytes_moved_per_token"] == said["all"]["bytes_moved"] / said["all"]["tokens"]


def test_what_is_unknown_is_said() -> None:
    with pytest.raises(DriftError, match="another package's, whose bytes"):
        step_of(Learning(rule="mine", learning_rate=1.0))
    memory = weight_memory("llama", Windows("overlapping", 32, 16))
    of_another_kind(memory)
    said = summarized(memory, Path("nowhere"), 1)
    assert said["bytes_moved"] is said["bytes_moved_per_token"] is None and "mixing" in said["flops_unknown"]
