"""Update rules against torch.optim and against arithmetic done by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from driftlm import DriftError, Windows, read_stream
from driftlm.memories.weights import rules
from driftlm.memories.weights.relative import Relative
from driftlm.memories.weights.rules import (
    RMS,
    RULES,
    SGD,
    Adam,
    Rule,
    RuleSettings,
    fill,
    gradients_of,
    named,
    rule_class,
)
from driftlm.memories.weights.statistics import gather
from tests.support.build import language_model, read, reads_numbers, spelled, weight_memory
from tests.support.families import CACHED_FAMILIES, FAMILIES, random_ids

SHAPES = [(3,), (2, 4), (5, 1)]


def parameters(seed: int = 0) -> list[Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def loss(values: list[Any]) -> Tensor:
    a, b, c = values
    return (a.sin() ** 2).sum() + (b @ c[:4]).exp().sum() + (c**2 * a.sum()).sum()


def settings(values: list[Parameter], **more: Any) -> RuleSettings:
    rms = tuple(p.detach().abs() for p in parameters(9))
    return RuleSettings(prior=copies(values), rms=rms, normalizer=0.7, **more)


MAKERS: dict[str, Callable[[list[Parameter]], Rule]] = {
    "sgd": lambda values: SGD(settings(values)),
    "momentum": lambda values: SGD(settings(values, momentum=0.9)),
    "adam": lambda values: Adam(settings(values)),
    "rms": lambda values: RMS(settings(values, decay=0.3, epsilon=0.1)),
}


class Stepping:
    """A rule with the parameters and the state that it changes."""

    def __init__(self, rule: Rule, values: list[Parameter], rate: float = 0.02) -> None:
        self.rule, self.values, self.rate = rule, values, torch.tensor(rate, dtype=torch.float64)
        self.state = rule.init(copies(values), self.rate)

    def step(self) -> None:
        storage = [value.data for value in self.values]
        self.rule.update(gradients_of(self.values), self.state, storage, self.rate)
        for value in self.values:
            value.grad = None


def copies(values: list[Parameter]) -> list[Tensor]:
    return [value.detach().clone() for value in values]


def backward(values: list[Parameter]) -> None:
    for value in values:
        value.grad = None
    loss(values).backward()


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("sgd", lambda values: torch.optim.SGD(values, lr=0.02)),
        ("momentum", lambda values: torch.optim.SGD(values, lr=0.02, momentum=0.9)),
        ("adam", lambda values: torch.optim.Adam(values, lr=0.02)),
    ],
)
def test_sgd_and_adam_are_those_of_torch(name: str, optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
    ours, theirs = parameters(), parameters()
    rule, theirs_rule = Stepping(MAKERS[name](ours), ours), optimizer(theirs)
    for step in range(12):
        if step == 8:  # the guard lowers the rate between steps
            theirs_rule.param_groups[0]["lr"] = 0.005
            rule.rate.fill_(0.005)
        backward(ours)
        backward(theirs)
        rule.step()
        theirs_rule.step()
        assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(ours, theirs, strict=True))
    assert all((a - b).abs().max() > 1e-2 for a, b in zip(ours, parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adam_steps_alike_over_a_large_model(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    first, found = [torch.randn(30, 70).to(dtype), torch.randn(7).to(dtype)], []
    for least in (rules.LARGE, 1):
        monkeypatch.setattr(rules, "LARGE", least)
        values, rate = [one.clone() for one in first], torch.tensor(1e-2, dtype=torch.float64)
        adam = Adam(RuleSettings())
        state, draw = adam.init(values, rate), torch.Generator().manual_seed(1)
        for _ in range(5):
            adam.update([torch.randn(one.shape, generator=draw).to(dtype) for one in values], state, values, rate)
        found.append([*values, *(one for several in state.values() for one in several)])
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found[1], found[0], rtol=tolerance, atol=tolerance)


def rms_step(
    values: list[float], prior: list[float], rms: list[float], gradients: list[float], rate: float, **more: Any
) -> Tensor:
    parameter = Parameter(torch.tensor(values))
    parameter.grad = torch.tensor(gradients)
    made = RMS(RuleSettings(prior=[torch.tensor(prior)], rms=(torch.tensor(rms),), **more))
    Stepping(made, [parameter], rate).step()
    return parameter.data


def test_rms_by_hand() -> None:
    # R = RMS / 2 = (0.5, 1.5, 2); λ R = (0.15, 0.45, 0.6); steps 0.1 g / (RMS + 1) = (0.1, -0.1, 0.1).
    moved = rms_step(
        [1.0, 2.0, 5.0], [0.0, 4.0, 3.0], [1.0, 3.0, 4.0], [2.0, -4.0, 5.0],
        rate=0.1, decay=0.3, epsilon=1.0, normalizer=2.0,
    )  # fmt: skip
    assert torch.allclose(moved, torch.tensor([1 - 0.15 - 0.1, 2 + 0.45 * 2 + 0.1, 5 - 0.6 * 2 - 0.1]))


def test_rms_is_clipped_at_one_over_lambda() -> None:
    # R = (0.5, 1.25, 3) and 1/λ = 1.25: the pull is 0.4, exactly 1, and exactly 1 where it would have been 2.4.
    pulled = rms_step(
        [2.0, 2.0, 2.0], [1.0, 1.0, 1.0], [0.5, 1.25, 3.0], [0.0, 0.0, 0.0],
        rate=7.0, decay=0.8, normalizer=1.0,
    )  # fmt: skip
    assert torch.allclose(pulled, torch.tensor([1.6, 1.0, 1.0]))
    # The pull starts from where the parameter was, and the gradient's step comes on top.
    both = rms_step([2.0], [1.0], [3.0], [1.0], rate=0.4, decay=0.8, epsilon=1.0, normalizer=1.0)
    assert torch.allclose(both, torch.tensor([1.0 - 0.1]))


def test_rms_without_decay_is_a_scaled_step_and_epsilon_stands_outside_the_root() -> None:
    assert torch.allclose(
        rms_step([1.0, 1.0], [9.0, 9.0], [0.0, 0.2], [1.0, 1.0], rate=0.1, epsilon=0.3),
        torch.tensor([1 - 0.1 / 0.3, 1 - 0.1 / 0.5]),
    )


@pytest.mark.parametrize("name", MAKERS)
def test_a_step_is_written_into_the_storage_there_is(name: str) -> None:
    values = parameters()
    stepping = Stepping(MAKERS[name](values), values)
    held = [*(value.data for value in values), *(one for several in stepping.state.values() for one in several)]
    where = [one.data_ptr() for one in held]
    for _ in range(3):
        before = copies(values)
        backward(values)
        stepping.step()
        now = [*(value.data for value in values), *(one for several in stepping.state.values() for one in several)]
        assert [one.data_ptr() for one in now] == where
        assert all(not torch.equal(a, b) for a, b in zip(values, before, strict=True))


@pytest.mark.parametrize("name", MAKERS)
def test_a_parameter_without_gradient_has_gradient_zero(name: str) -> None:
    first, second = parameters(), parameters()
    with_zero, without = (Stepping(MAKERS[name](values), values) for values in (first, second))
    for rule, values, zero in ((with_zero, first, True), (without, second, False)):
        (values[0] ** 2).sum().backward()
        for value in values[1:]:
            value.grad = torch.zeros_like(value) if zero else None
        rule.step()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_restored_rule_goes_on_bit_equal(name: str, steps: int) -> None:
    values = parameters()
    rule = Stepping(MAKERS[name](values), values)
    for _ in range(steps):
        backward(values)
        rule.step()
    state = {key: value.clone() for key, value in named(rule.state).items()}
    assert steps or state == {}
    again = [Parameter(value.detach().clone()) for value in values]
    other = Stepping(rule.rule, again)
    fill(other.state, state)
    for _ in range(3):
        for one, held in ((rule, values), (other, again)):
            backward(held)
            one.step()
        assert all(torch.equal(a, b) for a, b in zip(values, again, strict=True))


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_state_of_another_rule_is_refused(name: str) -> None:
    values = parameters()
    rule, other = (
        Stepping(MAKERS[one](values), values) for one in (name, "adam" if name == "momentum" else "momentum")
    )
    backward(values)
    rule.step()
    with pytest.raises(DriftError, match="holds other statistics than the update rule keeps"):
        fill(other.state, named(rule.state))
    assert named(other.state) == {}


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_every_row_steps_as_torchs_own_optimizer(name: str) -> None:
    count, numbers = 4, 7
    rule, values = MAKERS[name](parameters()), torch.randn(count, numbers)
    rates = torch.tensor([[1e-3], [1e-1], [0.03], [0.0]], dtype=torch.float64)
    state = rule.init([values], rates)
    alone = [Parameter(row.clone()) for row in values]
    optimizers = [
        torch.optim.Adam([one], lr=float(rate))
        if name == "adam"
        else torch.optim.SGD([one], lr=float(rate), momentum=0.9 if name == "momentum" else 0.0)
        for one, rate in zip(alone, rates, strict=True)
    ]
    for turn in range(12):
        stepping = [row for row in range(count) if turn % (row + 1) == 0]  # counts of steps differ
        gradients, some = torch.randn(count, numbers), values[stepping]
        theirs = {key: [one[stepping] for one in several] for key, several in state.items()}
        rule.update([gradients[stepping]], theirs, [some], rates[stepping])
        values[stepping] = some
        for key, several in state.items():
            several[0][stepping] = theirs[key][0]
        for row in stepping:
            alone[row].grad = gradients[row].clone()
            optimizers[row].step()
        torch.testing.assert_close(values, torch.stack([one.data for one in alone]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", MAKERS)
def test_a_step_compiles_without_a_break(name: str) -> None:
    values, again = parameters(), parameters()
    rule = MAKERS[name](values)
    eager, whole = (Stepping(rule, one) for one in (values, again))
    compiled = torch.compile(rule.update, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        backward(values)
        backward(again)
        eager.step()
        compiled(gradients_of(again), whole.state, [one.data for one in again], whole.rate)
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(values, again, strict=True))


def test_rules_are_found_by_name() -> None:
    assert {name: rule_class(name) for name in RULES.own} == {
        "sgd": SGD,
        "adam": Adam,
        "rms": RMS,
        "relative": Relative,
    }
    with pytest.raises(DriftError, match="`Learning.rule` was 'sdg'; give one of adam, relative, rms, sgd"):
        rule_class("sdg")
    with pytest.raises(DriftError, match="`Learning.rule` rms needs gradient statistics"):
        RMS(RuleSettings())


# ------------------------------------------------------------------------------------------------- rules in a memory


@pytest.mark.parametrize(
    ("family", "window"),
    [(family, "overlapping") for family in FAMILIES] + [(family, "cached") for family in CACHED_FAMILIES],
)
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "rms", "lora"])
def test_rate_zero_is_the_static_model_bit_equal(tmp_path: Path, family: str, window: Any, name: str) -> None:
    grid, document = Windows(window, 16, 8), spelled(random_ids(45)[1:])
    learning: dict[str, Any] = {"rule": {"momentum": "sgd", "lora": "adam"}.get(name, name)}
    learning |= {"momentum": {"momentum": 0.9}, "lora": {"learn": "lora"}}.get(name, {})
    if name == "rms":
        statistics = gather(reads_numbers(language_model(family)), [document], grid)
        statistics.save(tmp_path / "statistics.safetensors")
        learning |= {"statistics": str(tmp_path / "statistics.safetensors"), "decay": 0.1}
    static = read(weight_memory(family, grid, learn="none"), [document])
    memory = weight_memory(family, grid, learning_rate=0.0, **learning)
    steps = list(read_stream(memory, [document], baseline=memory.static()))
    assert memory.counts.updates == 6
    for nats in ([step.nats for step in steps], [step.static_nats for step in steps]):
        assert torch.equal(torch.cat(nats), static)  # type: ignore[arg-type]


def test_what_is_compared_with_stays_the_prior_while_the_memory_learns() -> None:
    document = spelled(random_ids(45)[1:])
    for learning in ({"learning_rate": 0.1}, {"learn": "lora", "rule": "adam", "learning_rate": 1e-2}):
        for window in ("overlapping", "cached"):
            grid = Windows(window, 16, 8)  # type: ignore[arg-type]
            static = read(weight_memory("llama", grid, learn="none"), [document] * 2)
            memory = weight_memory("llama", grid, **learning)
            steps = list(read_stream(memory, [document] * 2, baseline=memory.static()))
            assert torch.equal(torch.cat([step.static_nats for step in steps]), static)  # type: ignore[misc]
            # Comparing changes nothing of what is compared.
            alone = weight_memory("llama", grid, **learning)
            assert torch.equal(read(alone, [document] * 2), torch.cat([step.nats for step in steps]))


def test_a_memory_learns_inside_no_grad() -> None:
    document, grid = spelled(random_ids(30)[1:]), Windows("cached", 16, 8)
    expected = read(weight_memory("llama", grid), [document])
    with torch.no_grad():
        assert torch.equal(read(weight_memory("llama", grid), [document]), expected)


def test_a_state_of_other_settings_is_refused_and_nothing_is_lost() -> None:
    document, grid = spelled(random_ids(20)[1:]), Windows("cached", 16, 8)
    memory = weight_memory("llama", grid, learn="lora", rank=4)
    read(memory, [document])
    before = memory.state().tensors
    for other in ({"learn": "norms"}, {"learn": "lora", "rank": 3}, {"learn": "none"}):
        with pytest.raises(DriftError, match="holds other parameters than are learned here"):
            memory.restore(weight_memory("llama", grid, **other).state())
    assert all(torch.equal(value, before[name]) for name, value in memory.state().tensors.items())
