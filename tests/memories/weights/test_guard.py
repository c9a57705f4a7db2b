"""Divergence: totals stay finite, scores stand once made, the last good state comes back, and everything is counted."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from driftlm import DriftError, Learning, Step, WeightMemory, Windows, read_stream
from driftlm.memories.weights.last_good import LastGood
from driftlm.memories.weights.rules import flat
from driftlm.memories.weights.schedule import Schedule
from driftlm.memories.weights.statistics import gather
from driftlm.models.scoring import Forward
from driftlm.streams.windows import Window, split
from tests.support.build import (
    language_model,
    nats_of,
    numbers,
    read,
    reads_numbers,
    spelled,
    through_files,
    weight_memory,
)
from tests.support.families import VOCABULARY, random_ids

pytestmark = pytest.mark.long

DOCUMENTS = [spelled(random_ids(70, 1)[1:], "a"), spelled(random_ids(40, 2)[1:], "b")]
RULES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "adam": {"rule": "adam"},
    "rms": {"rule": "rms", "decay": 0.05, "epsilon": 1e-3},
    "accumulate": {"every": 3, "cadence": "accumulate"},
    "skip": {"every": 2},
    "reset": {"reset": "document"},
    "lora": {"learn": "lora", "rule": "adam"},
    "norms": {"learn": "norms"},
}
both_windows = pytest.mark.parametrize("window", ["overlapping", "cached"])
absurd = pytest.mark.parametrize("rate", [1e3, 1e10])


def memory_of(window: Any, folder: Path, rule: str, **more: Any) -> WeightMemory:
    grid, learning = Windows(window, 16, 8), RULES[rule] | more
    if rule == "rms":
        learning["statistics"] = str(folder / f"{window}.safetensors")
        if not Path(learning["statistics"]).exists():
            gather(reads_numbers(language_model("llama")), DOCUMENTS[1:], grid).save(learning["statistics"])
    return weight_memory("llama", grid, **learning)


def windows_of(memory: WeightMemory, index: int = 0) -> list[Window]:
    return list(split("d", *numbers(DOCUMENTS[index].text), memory.windows))


def kinds(steps: list[Step]) -> list[str]:
    return [event.kind for step in steps for event in step.events]


# -------------------------------------------------------------------------------------------------------- absurd rates


@both_windows
@absurd
@pytest.mark.parametrize("rule", RULES)
def test_absurd_rates_are_survived_and_told(tmp_path: Path, window: str, rate: float, rule: str) -> None:
    memory = memory_of(window, tmp_path, rule, learning_rate=rate)
    witness = weight_memory("llama", Windows("overlapping", 16, 8), learn="none")
    steps, kept, bad = [], [], 0
    for step in read_stream(memory, DOCUMENTS, baseline=memory.static()):
        steps.append(step)
        kept.append(step.nats.clone())
        assert memory.scored is not None and step.static_nats is not None
        finite = memory.scored.forward.finite
        # What is not finite is scored by the prior on the window's own inputs, no more and no less.
        assert torch.equal(step.nats[~finite], witness.score(step.window)[~finite])
        assert torch.equal(step.nats[finite], memory.scored.forward.nats.detach()[finite])
        assert ("prior_used" in [event.kind for event in step.events]) == bool((~finite).any())
        bad += int((~finite).sum())
    totals, counts = steps[-1].totals, memory.counts
    assert totals.tokens == 110 and math.isfinite(totals.nats) and math.isfinite(totals.bits_per_byte)
    assert counts.rollbacks >= 1 and counts.prior_used == bad
    # The last window's event was told before it was learned from: both are counted.
    assert kinds(steps).count("rollback") == counts.rollbacks
    assert all(torch.equal(step.nats, copy) for step, copy in zip(steps, kept, strict=True))  # a score stands
    assert all(bool(parameter.isfinite().all()) for parameter in memory.prior.values)
    if rule != "reset":
        assert memory.rate == rate / 2**counts.rollbacks


@absurd
@pytest.mark.parametrize("rule", ["sgd", "adam", "lora"])
def test_without_a_comparison_the_prior_is_asked_too(tmp_path: Path, rate: float, rule: str) -> None:
    compared = memory_of("overlapping", tmp_path, rule, learning_rate=rate)
    steps = list(read_stream(compared, DOCUMENTS, baseline=compared.static()))
    alone = memory_of("overlapping", tmp_path, rule, learning_rate=rate)
    assert torch.equal(read(alone, DOCUMENTS), nats_of(steps))


@both_windows
@pytest.mark.parametrize("rule", ["sgd", "adam", "rms"])
def test_the_largest_rate_there_is(tmp_path: Path, window: str, rule: str) -> None:
    memory = memory_of(window, tmp_path, rule, learning_rate=1e30)
    first = read(memory, DOCUMENTS)
    assert bool(first.isfinite().all()) and memory.counts.rollbacks >= 1
    memory.reset()  # still a fresh start, after all this
    assert torch.equal(read(memory, DOCUMENTS), first)
    with pytest.raises(DriftError, match=r"`Learning.learning_rate` was 1e\+31; give a number from 0 to 1e\+30"):
        memory_of(window, tmp_path, rule, learning_rate=1e31)


@both_windows
@pytest.mark.parametrize(("rule", "rate"), [("sgd", 1e3), ("adam", 30.0)])
def test_learning_recovers(tmp_path: Path, window: str, rule: str, rate: float) -> None:
    memory = memory_of(window, tmp_path, rule, learning_rate=rate)
    document = spelled([17, 4, 99, 23, 8, 250, 61, 4, 180, 35, 70] * 70)
    steps = list(read_stream(memory, [document], baseline=memory.static()))
    assert memory.counts.rollbacks >= 3
    last = steps[-12:]
    static = torch.cat([step.static_nats for step in last if step.static_nats is not None])
    assert nats_of(last).mean() < static.mean() - 1.0
    assert "rollback" not in kinds(last)


@both_windows
@absurd
@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam", "rms", "lora", "norms"])
def test_without_a_guard_divergence_is_an_error_and_no_number(
    tmp_path: Path, window: str, rate: float, rule: str
) -> None:
    memory = memory_of(window, tmp_path, rule, learning_rate=rate, guard="off")
    steps, sentence = [], None
    try:
        for step in read_stream(memory, DOCUMENTS):
            steps.append(step)
    except DriftError as error:
        sentence = str(error)
        assert "learning diverged: the score of " in sentence
        assert "start a new run with a lower `Learning.learning_rate`, or with `Learning.guard` on" in sentence
    # At 1e3 the scores may be bad numbers, and with LoRA at 1e10 those of a model that knows nothing any more.
    assert sentence is not None or rate == 1e3 or rule == "lora"
    assert memory.counts.rollbacks == memory.counts.prior_used == 0 and kinds(steps) == []
    assert bool(nats_of(steps).isfinite().all()) and len(steps) >= 1


@both_windows
@pytest.mark.parametrize("rule", RULES)
def test_a_guard_that_has_nothing_to_do_changes_nothing(tmp_path: Path, window: str, rule: str) -> None:
    rate = {"adam": 2e-3, "rms": 1e-3, "lora": 1e-2, "momentum": 0.01}.get(rule, 0.05)
    on, off = (memory_of(window, tmp_path, rule, learning_rate=rate, guard=guard) for guard in ("on", "off"))
    assert torch.equal(read(on, DOCUMENTS), read(off, DOCUMENTS))
    assert all(torch.equal(a, b) for a, b in zip(on.parameters, off.parameters, strict=True))
    assert on.counts == off.counts and on.counts.rollbacks == 0


# --------------------------------------------------------------------------------------- which state comes back, when


@both_windows
@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
def test_the_state_that_scored_the_last_good_window_comes_back(tmp_path: Path, window: str, rule: str) -> None:
    memory = memory_of(window, tmp_path, rule, learning_rate=1e-3)
    windows = windows_of(memory)
    for one in windows[:3]:
        memory.score(one)
        memory.learn(one)
    good = [parameter.detach().clone() for parameter in memory.parameters]
    good_rule = {key: value.clone() for key, value in flat(memory.rule_state).items()}
    assert memory.score(windows[3]).mean() < math.log(VOCABULARY) + 1
    memory.rate.fill_(500.0)  # the step after window 3 is the one that goes wrong
    memory.learn(windows[3])
    for one in windows[4:6]:
        assert memory.counts.rollbacks == 0
        memory.score(one)
        assert memory.scored is not None and memory.scored.bad
        memory.learn(one)
    assert memory.counts.rollbacks == 1 and memory.rate == 250.0
    assert all(torch.equal(a, b) for a, b in zip(memory.parameters, good, strict=True))
    state = flat(memory.rule_state)
    assert state.keys() == good_rule.keys() and all(torch.equal(state[key], good_rule[key]) for key in state)
    # The next window is scored by what came back, and nothing of the diverged keys is attended to.
    fresh = memory_of(window, tmp_path, rule)
    for parameter, value in zip(fresh.parameters, good, strict=True):
        parameter.data = value.clone()
    assert torch.equal(memory.score(windows[6]), fresh.score(windows[6]))


@both_windows
def test_a_model_that_died_of_its_own_size_is_noticed(tmp_path: Path, window: str) -> None:
    # Squares overflow, the norms divide by infinity, and every logit is 0: finite, and ln V for ever after.
    memory = memory_of(window, tmp_path, "sgd", learning_rate=1e6)
    static = weight_memory("llama", Windows("overlapping", 16, 8), learn="none")
    for index, one in enumerate(windows_of(memory)[:4]):
        expected = static.score(one)
        nats = memory.score(one)
        assert memory.scored is not None
        died = bool((memory.scored.forward.nats - math.log(VOCABULARY)).abs().max() < 1e-5)
        assert died == (index in (1, 2)) and (not died or torch.equal(nats, expected))
        memory.learn(one)
        static.learn(one)
    assert memory.counts.rollbacks == 1 and memory.counts.prior_used == 16


def test_gradients_that_wait_are_dropped_when_going_back(tmp_path: Path) -> None:
    memory = memory_of("cached", tmp_path, "accumulate", learning_rate=1e3)
    waited = False
    for one in windows_of(memory):
        memory.score(one)
        rollbacks = memory.counts.rollbacks
        memory.learn(one)
        if memory.counts.rollbacks > rollbacks:
            assert memory.schedule.waiting == 0 and all(parameter.grad is None for parameter in memory.parameters)
            waited = True
    assert waited


@pytest.mark.parametrize("rate", [1e3, 1e10])
@pytest.mark.parametrize("rule", ["momentum", "adam", "accumulate"])
def test_a_diverging_memory_is_restored_bit_equal_after_any_window(tmp_path: Path, rate: float, rule: str) -> None:
    memory = memory_of("cached", tmp_path, rule, learning_rate=rate)
    states, nats = [], []
    windows = windows_of(memory)
    for one in windows:
        states.append(through_files(memory.state()))
        nats.append(memory.score(one))
        memory.learn(one)
    again = memory_of("cached", tmp_path, rule, learning_rate=rate)
    for start, state in enumerate(states):
        again.restore(state)
        for one, expected in zip(windows[start : start + 4], nats[start:], strict=False):
            assert torch.equal(again.score(one), expected)
            again.learn(one)
    assert memory.counts.rollbacks >= 2


# -------------------------------------------------------------------------------------------------- the guard by itself


class Guarded:
    """A parameter with momentum that is moved by one at every step, and the schedule that guards it."""

    def __init__(self) -> None:
        self.schedule, self.last_good, self.rate = Schedule(Learning(), VOCABULARY), LastGood(), 1.0
        self.numbers = {"good/0": torch.zeros(2), "rule/velocity/0": torch.zeros(2)}

    @property
    def value(self) -> torch.Tensor:
        return self.numbers["good/0"].clone()

    def window(self, bad: bool, learns: bool = True) -> bool:
        """Read a window, and step where it does not go back; whether it went back."""
        decision = self.schedule.decide(bad, finite=True)
        if decision.go_back:
            if not self.schedule.unchanged:
                self.last_good.bring_back(self.numbers)
            self.rate /= 2
        self.schedule.take(decision, bad, tokens=1)
        if decision.step and learns:
            if self.schedule.stepped():
                self.last_good.keep(self.numbers)
            self.numbers["rule/velocity/0"].mul_(0.5).add_(1.0)
            self.numbers["good/0"].sub_(self.rate * self.numbers["rule/velocity/0"])
        return decision.go_back


def test_what_is_bad() -> None:
    schedule = Schedule(Learning(), VOCABULARY)
    window = split("d", list(range(3)), [1, 2], Windows("overlapping", 2, 2))
    one = next(iter(window))
    bar, fine = math.log(VOCABULARY) + 1, torch.ones(2, dtype=torch.bool)

    def is_bad(nats: list[float], finite: torch.Tensor = fine, prior: float = 2.0) -> bool:
        return schedule.judge(one, Forward(torch.tensor(nats), finite), lambda: torch.full((2,), prior)).bad

    assert not is_bad([bar - 0.5, bar + 0.4])
    assert is_bad([bar - 0.4, bar + 0.5])
    assert is_bad([bar + 3.0, bar + 3.0], prior=bar + 1.9)
    assert not is_bad([bar + 3.0, bar + 3.0], prior=bar + 2.1)  # hard for the prior too
    assert is_bad([1.0, 1.0], torch.tensor([True, False]))
    assert is_bad([1.0, math.nan]) and is_bad([1.0, math.inf])


def test_two_bad_windows_in_a_row_and_not_one_here_and_there() -> None:
    guarded = Guarded()
    assert [guarded.window(bad) for bad in (False, True, False, True, False)] == [False] * 5
    assert guarded.rate == 1.0
    scored_the_last_good = guarded.value
    # The step after the good window goes wrong; so does one more, made from a bad state.
    assert not guarded.window(False)
    assert [guarded.window(True), guarded.window(True)] == [False, True]
    assert torch.equal(guarded.value, scored_the_last_good) and guarded.rate == 0.5
    # A third bad window is the first of a new pair.
    assert [guarded.window(True) for _ in range(4)] == [False, True, False, True]
    assert guarded.rate == 0.125
    assert torch.equal(guarded.value, scored_the_last_good)


def test_a_state_is_good_for_as_long_as_nothing_changed_it() -> None:
    guarded = Guarded()
    # Learning on every other window: the state that scored two good windows well meets a bad one, and is changed.
    assert not guarded.window(False)
    assert not guarded.window(False, learns=False)
    good = guarded.value
    assert not guarded.window(True)
    assert not torch.equal(guarded.value, good)
    assert guarded.window(True)
    assert torch.equal(guarded.value, good)


def hopeless(window: Any, **learning: Any) -> WeightMemory:
    """A model that is sure of itself and wrong: its prior has more than ln V + 1 nats on every window."""
    language = language_model("llama")
    language.model.model.norm.weight.data.mul_(6)
    return reads_numbers(WeightMemory(language, Windows(window, 16, 8), Learning(rule="sgd", **learning)))


def test_rate_zero_is_static_where_the_static_model_is_worse_than_knowing_nothing() -> None:
    documents = [spelled(random_ids(100)[1:])]
    static = read(hopeless("overlapping", learn="none"), documents)
    assert torch.equal(read(hopeless("overlapping", learning_rate=0.0), documents), static)


def test_the_rate_is_not_halved_because_the_text_is_hard() -> None:
    memory = hopeless("overlapping", learning_rate=0.003)
    read(memory, [spelled(random_ids(300)[1:])])
    assert memory.counts.rollbacks == 0


def test_surprising_single_tokens_are_no_divergence() -> None:
    memory = weight_memory("llama", Windows("overlapping", 16, 1), learning_rate=1e-3)
    read(memory, [spelled(random_ids(100)[1:])])
    assert memory.counts.rollbacks == 0


@absurd
def test_a_score_does_not_depend_on_being_compared(rate: float) -> None:
    documents, grid = [spelled(random_ids(100)[1:])], Windows("cached", 16, 8)
    compared = weight_memory("llama", grid, learning_rate=rate)
    steps = list(read_stream(compared, documents, baseline=compared.static()))
    assert torch.equal(nats_of(steps), read(weight_memory("llama", grid, learning_rate=rate), documents))
