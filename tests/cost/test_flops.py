"""The formulas against torch's counter of what is multiplied, in every mode and family, and what a run says of them."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from torch.nn import Parameter
from torch.utils.flop_counter import FlopCounterMode

from driftlm import WeightMemory, Windows, read_stream
from driftlm.core.errors import DriftError
from driftlm.cost.flops import Flops, flops_of, formula_of, step_of
from driftlm.cost.products import Shape
from driftlm.cost.summary import counted_flops, summarized
from driftlm.memories.weights.learning import Learning
from driftlm.memories.weights.mixture import MixtureMemory
from driftlm.models import head
from driftlm.runs.folder import Run, line
from driftlm.streams.windows import Window
from tests.support.build import language_model, reads_numbers, spelled, weight_memory
from tests.support.counted_windows import MODES, TOKENS, eager, of_another_kind, shape_of, sink_of, weighing, windows_of
from tests.support.families import CACHED_FAMILIES, FAMILIES, random_ids
from tests.support.running import driftlm, tiny_model, words, written

pytestmark = pytest.mark.long

TOLERANCE = 1e-3  # today the two agree to the last operation
# What else decides how far a gradient goes; one family is enough.
FURTHER: dict[str, dict[str, Any]] = {
    "dora": {"learn": "dora", "rank": 4},
    "lora in one layer": {"learn": "lora", "layers": "1-1"},
    "lora of one map": {"learn": "lora", "target_modules": "q_proj"},
    "lora of values": {"learn": "lora", "target_modules": "v_proj"},
    "lora of the mlp": {"learn": "lora", "target_modules": "mlp"},
    "norms of one layer": {"learn": "norms", "layers": "1-1"},
    "frozen embeddings": {"freeze_embeddings": True},
}
CACHED = [(name, "cached", mode) for name in CACHED_FAMILIES for mode in MODES]
CASES = [(name, "overlapping", mode) for name in FAMILIES for mode in MODES] + CACHED


def agree(family: str, grid: Windows, settings: dict[str, Any]) -> None:
    memory = eager(weighing(weight_memory(family, grid, **settings)))
    formula, windows = formula_of(memory), windows_of(grid)
    for window, counted in zip(windows, counted_flops(memory, windows), strict=True):
        shape = shape_of(window, grid)
        expected = formula.score(shape) + formula.sink(sink_of(window, grid))
        expected += formula.learn(shape) if memory.parameters else 0
        assert expected == pytest.approx(counted, rel=TOLERANCE)


@pytest.mark.parametrize(("family", "kind", "mode"), CASES)
def test_a_window_costs_what_a_counter_sees(family: str, kind: Any, mode: str) -> None:
    agree(family, Windows(kind, 32, 16), MODES[mode])


@pytest.mark.parametrize("settings", FURTHER.values(), ids=FURTHER)
def test_no_gradient_is_counted_below_what_learns(settings: dict[str, Any]) -> None:
    agree("llama", Windows("overlapping", 32, 16), settings)


# Tokens that weigh differently have the logits made once more for the gradient of the head, if it learns.
@pytest.mark.parametrize("settings", [{}, {"salience": "tfidf"}, {"learn": "lora", "salience": "tfidf"}])
def test_the_head_is_counted_in_chunks(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("driftlm.models.head", "driftlm.cost.flops"):
        monkeypatch.setattr(f"{module}.KEPT_LOGITS", 300 * 6)
    assert head.KEPT_LOGITS < 300 * 16
    agree("llama", Windows("overlapping", 16, 16), settings)


# ---- runs -----------------------------------------------------------------------------------------------------------


def logged(memory: Any, folder: Path) -> tuple[Flops, int]:
    """Read two documents into a log; the formula's count of the run, and the counter's."""
    run = Run(folder, {})
    documents = [spelled(random_ids(TOKENS, seed)[1:], f"d{seed}") for seed in range(2)]
    with FlopCounterMode(display=False) as counter:
        for step in read_stream(memory, documents):
            run.append(line(step, None))
    run.close()
    return flops_of(memory, folder / "windows.jsonl"), counter.get_total_flops()


CADENCES = [
    (kind, {"every": 3, "cadence": cadence, "reset": reset})
    for kind, cadence, reset in product(("overlapping", "cached"), ("skip", "accumulate"), ("never", "document"))
]


@pytest.mark.parametrize(("kind", "settings"), CADENCES)
def test_a_run_costs_what_a_counter_sees(kind: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    memory = eager(weight_memory("llama", Windows(kind, 32, 16, sink=3), learning_rate=0.01, **settings))
    flops, counted = logged(memory, tmp_path)
    assert flops.products == pytest.approx(counted, rel=TOLERANCE)
    parameters = sum(p.numel() for p in memory.parameters)
    each = 2 + (settings["cadence"] == "accumulate")
    assert memory.counts.updates > 0 and flops.steps == each * parameters * memory.counts.updates


def test_a_run_that_went_back_costs_what_a_counter_sees(tmp_path: Path) -> None:
    memory = eager(weight_memory("llama", Windows("cached", 32, 8), learning_rate=1e4))
    formula, looks, look = formula_of(memory), [], memory.prior_nats

    def looking(window: Window, before: Any) -> Any:
        fed = len(window.sink[: window.start]) + len(window.inputs)
        looks.append(formula.score(Shape(fed, fed, window.new)))
        return look(window, before)

    memory.prior_nats = looking  # type: ignore[method-assign]
    flops, counted = logged(memory, tmp_path)
    assert memory.counts.rollbacks > 0 < len(looks)
    assert flops.products == pytest.approx(counted - sum(looks), rel=TOLERANCE)


def test_a_mixture_costs_its_experts_and_the_prior(tmp_path: Path) -> None:
    experts = [Learning(rule="sgd", learning_rate=rate) for rate in (0.0, 0.01)] + [Learning(learning_rate=1e-4)]
    memory = eager(reads_numbers(MixtureMemory(language_model("llama"), Windows("cached", 32, 16), experts)))
    flops, counted = logged(memory, tmp_path)
    assert flops.products == pytest.approx(counted, rel=TOLERANCE)
    parameters = sum(p.numel() for p in memory.parameters)
    assert flops.steps == (2 + 13) * parameters * memory.counts.updates // 2


def test_a_run_says_what_it_took(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model, texts = tiny_model(tmp_path), written(tmp_path, a=words(40))
    command = ["read", *texts, "--model", model, "--rule", "sgd", "--context", 32, "--stride", 16]
    command += ["--threads", 1, "--no-report", "--no-live", "--json"]
    said = {
        learn: driftlm(capsys, *command, "--learn", learn, "--run", tmp_path / learn).summary
        for learn in ("none", "norms", "all")
    }
    assert said["none"]["flops"] < said["norms"]["flops"] < said["all"]["flops"]
    assert said["none"]["flops_steps"] == 0 < said["norms"]["flops_steps"] < said["all"]["flops_steps"]
    assert said["all"]["flops_per_token"] == said["all"]["flops"] / said["all"]["tokens"]


# ---- the step, and what is unknown ----------------------------------------------------------------------------------


def test_steps_grow_with_what_a_rule_does() -> None:
    assert [step_of(Learning(rule=rule)) for rule in ("sgd", "rms", "adam")] == [2, 3, 13]
    assert step_of(Learning(rule="rms", decay=1e-3)) == 6
    assert step_of(Learning(rule="sgd", momentum=0.9, every=2, cadence="accumulate")) == 5


def nameless(memory: WeightMemory) -> None:
    memory.language_model.model.config.num_attention_heads = 2


def with_experts(memory: WeightMemory) -> None:
    up = memory.language_model.model.model.layers[0].mlp
    up.experts = Parameter(up.up_proj.weight.data[None])


@pytest.mark.parametrize(
    ("change", "said"),
    [(of_another_kind, "mixing"), (nameless, "heads"), (with_experts, "mlp")],
)
def test_an_unknown_model_is_refused(change: Callable[[WeightMemory], None], said: str) -> None:
    memory = weight_memory("llama", Windows("overlapping", 32, 16))
    change(memory)
    with pytest.raises(DriftError, match=f"operations of llama are unknown, because .*{said}"):
        formula_of(memory)
    said_of_it = summarized(memory, Path("nowhere"), 1)
    assert said_of_it["flops"] is None and said in said_of_it["flops_unknown"]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(DriftError, match="another package"):
        step_of(Learning(rule="mine", learning_rate=1.0))
