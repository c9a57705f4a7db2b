"""A memory in weights, verb by verb: when it learns, what it keeps and for how long, and what stays frozen."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from driftlm import DriftError, Learning, WeightMemory, Windows
from driftlm.memories.weights.one_pass import one_pass
from driftlm.models.trainable import Trainable, choose
from tests.support.build import language_model, reads_numbers, through_files
from tests.support.by_hand import (
    NOT_A_NUMBER,
    RATE,
    RULES,
    close,
    group,
    kinds,
    memory_of,
    passes,
    read,
    same,
    scale_last_norm,
    stepped,
    stepping,
    windows_of,
)

both_windows = pytest.mark.parametrize("window", ["overlapping", "cached"])


# -------------------------------------------------------------------------------------------------------------- cadence


@both_windows
@pytest.mark.parametrize("every", [1, 2, 3])
def test_skipping_learns_on_windows_k_2k_of_the_stream_and_builds_no_other_graph(window: str, every: int) -> None:
    memory = memory_of(window, every=every)
    seen, moved = passes(memory), []
    for name, length in (("a", 27), ("b", 13), ("c", 20)):  # 4, 2 and 3 windows
        moved += stepping(memory, windows_of(memory, length, name))
        memory.finish(name)
    assert moved == seen == [(number + 1) % every == 0 for number in range(9)]
    assert memory.counts.updates == 9 // every


def test_skipping_steps_by_the_mean_of_its_own_window_alone() -> None:
    memory = memory_of(every=3)
    windows = windows_of(memory, 19)  # the third has 3 new tokens
    prior = group(memory, "parameters")
    read(memory, windows)
    learned = group(memory, "parameters")
    assert windows[2].new == 3 and close(learned, stepped(prior, windows[2:]))
    memory.finish("d")  # nothing waits
    assert same(group(memory, "parameters"), learned) and memory.counts.updates == 1


@pytest.mark.parametrize("every", [3, 4])
def test_accumulating_steps_by_the_mean_over_all_tokens_of_k_windows_or_of_what_is_left(every: int) -> None:
    memory = memory_of(every=every, cadence="accumulate")
    seen, windows, prior = passes(memory), windows_of(memory, 19), group(memory, "parameters")
    assert stepping(memory, windows) == [False, False, every == 3]
    memory.finish("d")
    assert seen == [True] * 3 and memory.counts.updates == 1
    learned = group(memory, "parameters")
    assert close(learned, stepped(prior, windows))
    means = [stepped(prior, [window]) for window in windows]
    assert not close(learned, {name: sum(one[name] for one in means) / 3 for name in prior})  # type: ignore[misc]
    memory.finish("d")
    assert same(group(memory, "parameters"), learned) and memory.counts.updates == 1
    assert group(memory, "gradients") == {} and memory.state().values["waiting"] == 0


def test_the_count_of_accumulated_windows_goes_on_behind_leftovers() -> None:
    memory = memory_of(every=4, cadence="accumulate")
    read(memory, windows_of(memory, 19, "a"))
    memory.finish("a")
    second, before = windows_of(memory, 44, "b", 1), group(memory, "parameters")
    assert stepping(memory, second[:1]) == [True]  # the fourth window, the first of its document
    assert close(group(memory, "parameters"), stepped(before, second[:1]))
    assert stepping(memory, second[1:5]) == [False, False, False, True]
    assert memory.counts.updates == 3


def test_accumulating_one_window_is_skipping_none() -> None:
    skips, accumulates = memory_of(every=1), memory_of(every=1, cadence="accumulate")
    windows = windows_of(skips, 60)
    assert torch.equal(read(skips, windows), read(accumulates, windows))
    assert same(group(skips, "parameters"), group(accumulates, "parameters"))


@pytest.mark.parametrize("cadence", ["skip", "accumulate"])
def test_a_reset_restarts_the_count_and_drops_what_waits(cadence: str) -> None:
    memory, fresh = (memory_of("cached", every=3, cadence=cadence) for _ in range(2))
    prior, windows = group(memory, "parameters"), windows_of(memory, 40)
    read(memory, windows)
    memory.score(windows[0])
    memory.reset()
    assert same(group(memory, "parameters"), prior) and kinds(memory) == []
    assert group(memory, "cache") == {} and memory.state().values["waiting"] == 0
    assert memory.counts.updates == 1  # what a stream cost stays counted
    assert stepping(memory, windows[:3]) == [False, False, True]
    read(fresh, windows[:3])
    assert same(group(memory, "parameters"), group(fresh, "parameters"))


def test_a_reset_at_every_document_steps_leftovers_first_and_restarts_the_count() -> None:
    memory = memory_of(every=3, cadence="accumulate", reset="document")
    prior = group(memory, "parameters")
    for name in ("a", "b"):
        assert stepping(memory, windows_of(memory, 27, name)) == [False, False, True, False]
        memory.finish(name)
        assert same(group(memory, "parameters"), prior)
    assert memory.counts.updates == 4


# ---------------------------------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize("stride", [4, 6, 16])
def test_cached_windows_keep_c_minus_s_positions_until_the_document_ends(family: str, stride: int) -> None:
    memory = memory_of("cached", family, stride)
    windows, kept = windows_of(memory, 39), 16 - stride
    for window in windows:
        read(memory, [window])
        cache = group(memory, "cache")
        expected = min(window.position + window.new - 1, kept)
        assert {tensor.shape[-2] for tensor in cache.values()} == ({expected} if kept else set())
        assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in cache.values())
    memory.finish("d")
    assert group(memory, "cache") == {}


def test_overlapping_windows_keep_nothing() -> None:
    memory = memory_of()
    read(memory, windows_of(memory, 30))
    assert group(memory, "cache") == {}


@pytest.mark.parametrize("room", [0, 5])
def test_a_document_is_kept_right_behind_the_room_before_it(room: int) -> None:
    # Without a guard, which would ask the prior about short windows.
    memory, plain = (memory_of("cached", stride=4, guard="off") for _ in range(2))
    windows, starts = windows_of(memory, 40), list[int]()

    def told(module: object, inputs: object, given: dict[str, Any]) -> None:
        starts.append(int(given["position_ids"][0, 0]) - given["past_key_values"].get_seq_length())

    memory.language_model.model.base_model.register_forward_pre_hook(told, with_kwargs=True)
    memory.room = room
    nats = read(memory, windows)
    memory.finish("d")
    again = read(memory, windows)
    if room:
        checked = starts.index(0)  # two passes that try the rotation
        assert starts[:checked] + starts[checked + 2 :] == [room] * 2 * len(windows)
    expected = read(plain, windows)
    plain.finish("d")
    # Rotary distances stay, whatever stands before.
    assert torch.allclose(nats, expected, atol=1e-4) and torch.allclose(again, read(plain, windows), atol=1e-4)


@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_a_state_in_mid_document_holds_all_and_nothing_of_it_is_shared(rule: str) -> None:
    learning = RULES[rule] | {"every": 3, "cadence": "accumulate"}
    memory, other = memory_of("cached", **learning), memory_of("cached", **learning)
    windows = windows_of(memory, 90)
    read(memory, windows[:5])
    state = memory.state()
    parts = {key.split("/")[0] for key in state.tensors}
    assert parts == {"parameters", "gradients", "rule", "cache"}
    assert state.values["waiting"] == 16 and state.values["windows_read"] == 5
    written = through_files(state)
    nats = read(memory, windows[5:])
    memory.finish("d")
    assert same(written.tensors, state.tensors)  # going on changes no state that was taken
    read(other, windows_of(other, 20, "another", 3))
    for given in (state, written):
        other.restore(given)
        assert same(other.state().tensors, written.tensors) and other.state().values == written.values
        assert torch.equal(read(other, windows[5:]), nats)
        other.finish("d")
        assert same(other.state().tensors, memory.state().tensors) and other.counts == memory.counts
        assert same(given.tensors, through_files(written).tensors)
    fresh = memory_of("cached", **learning)
    read(other, windows[:1])
    other.restore(fresh.state())  # nothing waits there, and what waited here is gone
    assert group(other, "gradients") == group(other, "cache") == group(other, "rule") == {}
    assert torch.equal(read(other, windows[:5]), read(fresh, windows[:5]))


def test_a_state_of_other_layers_is_refused_and_the_memory_goes_on() -> None:
    memory, untouched = (memory_of(layers="0-0", every=2, cadence="accumulate") for _ in range(2))
    windows = windows_of(memory, 40)
    for one in (memory, untouched):
        read(one, windows[:3])
    with pytest.raises(DriftError) as refusal:
        memory.restore(memory_of(layers="1-1").state())
    assert str(refusal.value) == (
        "the state holds other parameters than are learned here; "
        "give the settings it was learned with (`Learning.learn`, `Learning.layers`, `Learning.rank`, "
        "`Learning.target_modules`)."
    )
    assert torch.equal(read(memory, windows[3:]), read(untouched, windows[3:]))


# ----------------------------------------------------------------------------------------------- score, and then learn


@both_windows
def test_a_window_costs_one_forward_pass_however_often_it_is_scored(window: str) -> None:
    memory, twin = memory_of(window), memory_of(window)
    first, second, third = windows_of(memory, 24)
    seen = passes(memory)
    nats = memory.score(first)
    assert torch.equal(memory.score(first), nats) and not nats.requires_grad and len(seen) == 1
    memory.learn(first)
    assert len(seen) == 1
    twin.learn(first)  # scores by itself
    assert same(group(memory, "parameters"), group(twin, "parameters"))
    assert not torch.equal(memory.score(first), nats) and len(seen) == 2  # by what was learned
    memory.score(second)
    assert len(seen) == 3
    memory.learn(second)
    memory.learn(third)
    assert len(seen) == 4 and memory.counts.updates == 3
    twin.learn(second)
    twin.learn(third)
    assert same(group(memory, "parameters"), group(twin, "parameters"))
    memory.score(first)
    memory.finish("d")
    memory.score(first)
    assert len(seen) == 6  # what was scored belongs to the document


def test_a_bad_window_is_judged_once() -> None:
    memory = memory_of()
    (window,), seen = windows_of(memory, 8), passes(memory)
    scale_last_norm(memory, NOT_A_NUMBER)
    nats = memory.score(window)
    judged = len(seen)
    assert torch.equal(memory.score(window), nats) and kinds(memory) == ["prior_used"]
    memory.learn(window)
    assert len(seen) == judged == 2 and seen == [True, False]


@both_windows
def test_the_static_reader_has_a_cache_of_its_own_and_never_learns(window: str) -> None:
    memory, nothing = memory_of(window, learning_rate=0.2), memory_of(window, learn="none")
    static, windows = memory.static(), windows_of(memory, 40)
    read(memory, windows)
    seen, learned, expected = passes(memory), group(memory, "parameters"), read(nothing, windows)
    found = []
    for number, one in enumerate(windows):
        found.append(static.score(one))
        assert torch.equal(static.score(one), found[-1])
        static.learn(one)
        if number == 2:
            state = through_files(static.state())
            static = memory.static()
            static.restore(state)
    assert torch.equal(torch.cat(found), expected) and seen == [False] * len(windows)
    static.finish("d")
    assert torch.equal(static.score(windows[0]), found[0])
    assert same(group(memory, "parameters"), learned) and not any(vars(static.counts).values())


# ------------------------------------------------------------------------------------------------------------- freezing


@both_windows
@pytest.mark.parametrize(
    "learning",
    [{"freeze_embeddings": True}, {"layers": "1-1"}, {"learn": "norms"}, {"learn": "lora", "layers": "1-1"}],
    ids=["embeddings", "layers", "norms", "lora"],
)
def test_frozen_weights_have_no_gradient_and_stay_bit_equal(window: str, learning: dict[str, Any]) -> None:
    memory = memory_of(window, every=2, cadence="accumulate", **learning)
    model, asked = memory.language_model.model, list[bool]()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for block in model.model.layers:
        block.register_forward_hook(lambda module, inputs, output: asked.append(bool(output[0].requires_grad)))
    learned, windows = group(memory, "parameters").keys(), windows_of(memory, 28)
    read(memory, windows[:3])
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == group(memory, "gradients").keys() == learned != before.keys()
    read(memory, windows[3:])
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == learned and memory.counts.updates == 2
    # No gradient work below the lowest layer that may change.
    assert asked == ([False, True] if "layers" in learning else [True, True]) * 4


@both_windows
@pytest.mark.parametrize("cadence", ["skip", "accumulate"])
def test_learning_nothing_builds_no_graph_and_keeps_no_parameter(window: str, cadence: str) -> None:
    memory = memory_of(window, learn="none", cadence=cadence, every=2)
    model, seen = memory.language_model.model, passes(memory)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    nats = read(memory, windows_of(memory, 28))
    memory.finish("d")
    assert torch.equal(read(memory, windows_of(memory, 28)), nats)
    assert seen == [False] * 8 and same(dict(model.named_parameters()), before)
    assert group(memory, "parameters") == {} and not any(vars(memory.counts).values())
    assert memory.parameters == [] and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("rule", RULES)
def test_a_parameter_that_the_loss_does_not_reach_stays(rule: str) -> None:
    def made() -> WeightMemory:
        language = language_model("llama")
        reached = choose(language, "norms").parameters
        trainable = Trainable({"beside": Parameter(torch.full((3,), 0.1)), **reached})
        learning = Learning(**{"rule": "sgd", "learning_rate": RATE, "every": 2, "cadence": "accumulate"} | RULES[rule])
        return reads_numbers(WeightMemory(language, Windows("overlapping", 16, 8), learning, trainable))

    memory, again = made(), made()
    windows, prior = windows_of(memory, 44), group(memory, "parameters")
    read(memory, windows[:3])
    assert group(memory, "gradients").keys() == prior.keys() - {"beside"}
    again.restore(through_files(memory.state()))
    assert torch.equal(read(memory, windows[3:]), read(again, windows[3:]))
    memory.finish("d")
    again.finish("d")
    learned = group(memory, "parameters")
    assert same(group(again, "parameters"), learned) and memory.counts.updates == 3
    assert {name for name in prior if torch.equal(prior[name], learned[name])} == {"beside"}


# ----------------------------------------------------------------------------------------------------------- protection


class Slope:
    """Adds c · Σ θ to the loss of every window and counts the steps."""

    def __init__(self, parameters: list[Parameter], slope: float) -> None:
        self.parameters, self.slope = parameters, slope
        self.reset()

    def term(self, window: Any) -> Tensor:
        return self.slope * torch.stack([parameter.sum() for parameter in self.parameters]).sum()

    def change(self, gradients: list[Tensor]) -> None: ...

    def after(self, parameters: list[Tensor]) -> None:
        self.steps += 1

    def reset(self) -> None:
        self.steps = torch.zeros(())

    def state(self) -> dict[str, Tensor]:
        return {"steps": self.steps}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.steps.copy_(state["steps"])


def protected(slope: float, **learning: Any) -> WeightMemory:
    memory = memory_of(**learning)
    memory.protection = Slope(memory.parameters, slope)
    return memory


@pytest.mark.parametrize("learning", [{}, {"every": 3}, {"every": 3, "cadence": "accumulate"}])
def test_what_a_protection_adds_to_the_loss_is_nats_per_token_in_every_cadence(learning: dict[str, Any]) -> None:
    plain, memory = memory_of(**learning), protected(0.5, **learning)
    windows = windows_of(memory, 25)[: learning.get("every", 1)]
    for one in (plain, memory):
        read(one, windows)
    expected = {name: value - RATE * 0.5 for name, value in group(plain, "parameters").items()}
    assert memory.counts.updates == 1 and close(group(memory, "parameters"), expected)


def test_what_a_protection_keeps_is_part_of_the_state_and_goes_with_a_reset() -> None:
    memory, other = protected(0.0), protected(0.0)
    read(memory, windows_of(memory, 60)[:3])
    other.restore(memory.state())
    assert group(other, "protection")["steps"] == group(memory, "protection")["steps"] == 3
    other.reset()
    assert group(other, "protection")["steps"] == 0


def test_experts_with_a_protection_learn_one_by_one() -> None:
    memories = [protected(0.0, learn="lora", rank=2) for _ in range(2)]
    assert one_pass(memories) is None
    for memory in memories:
        memory.protection = None
    assert one_pass(memories) is not None
