"""What a memory in weights does with windows that are bad by force: whose scores stand, and what comes back."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.support.by_hand import (
    NOT_A_NUMBER,
    RATE,
    RULES,
    WRONG,
    close,
    group,
    kinds,
    memory_of,
    put_last_norm,
    rate_of,
    read,
    same,
    scale_last_norm,
    stepped,
    stepping,
    windows_of,
)

both_windows = pytest.mark.parametrize("window", ["overlapping", "cached"])


def test_the_prior_speaks_for_single_tokens_and_nothing_is_learned_from_their_window() -> None:
    memory, static = memory_of(family="qwen"), memory_of(family="qwen", learn="none")
    first, second = windows_of(memory, 16)
    read(memory, [first])
    read(static, [first])
    place = next(n for n in range(1, 7) if second.inputs.count(second.inputs[8 + n]) == 1)
    # Squares overflow where this token is read, and there alone: every logit becomes 0.
    memory.language_model.model.get_input_embeddings().weight.data[second.inputs[8 + place]] = 1e38
    before = group(memory, "parameters")
    nats = memory.score(second)
    logits = memory.language_model.model(input_ids=torch.tensor([second.inputs])).logits[0, -8:].detach()
    expected = F.cross_entropy(logits, torch.tensor(second.targets), reduction="none")
    assert torch.equal(nats[place], static.score(second)[place])
    expected[place] = nats[place]
    assert torch.allclose(nats, expected, atol=1e-5)
    assert kinds(memory) == ["prior_used"] and memory.events[0].message.startswith("1 token")
    assert memory.counts.prior_used == 0  # counted once it is learned from
    memory.learn(second)
    assert same(group(memory, "parameters"), before)
    assert vars(memory.counts) == {"updates": 1, "rollbacks": 0, "prior_used": 1, "skipped_updates": 1}


@both_windows
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("factor", [WRONG, NOT_A_NUMBER])
def test_two_bad_windows_bring_back_what_scored_the_last_good_one(window: str, rule: str, factor: float) -> None:
    memory = memory_of(window, **RULES[rule])
    rate, windows, finite = rate_of(memory), windows_of(memory, 64), factor == WRONG
    read(memory, windows[:3])
    good, good_rule = group(memory, "parameters"), group(memory, "rule")
    read(memory, windows[3:4])
    scale_last_norm(memory, factor)
    assert memory.score(windows[4]).mean() > math.log(300) + 1 or not finite
    assert kinds(memory) == ([] if finite else ["prior_used"])
    memory.learn(windows[4])
    # The first of a pair is learned from, where it gave numbers at all.
    assert memory.counts.rollbacks == 0 and rate_of(memory) == rate
    assert (memory.counts.updates, memory.counts.skipped_updates) == ((5, 0) if finite else (4, 1))
    memory.score(windows[5])
    assert kinds(memory) == ([] if finite else ["prior_used"]) + ["rollback"]
    memory.learn(windows[5])
    assert same(group(memory, "parameters"), good) and same(group(memory, "rule"), good_rule)
    assert rate_of(memory) == rate / 2 and group(memory, "cache") == {}
    updates, skipped, lost = (5, 0, 0) if finite else (4, 1, 16)
    assert vars(memory.counts) == {
        "updates": updates, "rollbacks": 1, "prior_used": lost, "skipped_updates": skipped
    }  # fmt: skip
    read(memory, windows[6:7])
    assert kinds(memory) == [] and memory.counts.updates == updates + 1


@pytest.mark.parametrize("factor", [WRONG, NOT_A_NUMBER])
def test_bad_windows_count_only_in_a_row_and_also_where_nothing_is_learned(factor: float) -> None:
    memory = memory_of(every=100)
    windows = windows_of(memory, 80)
    for number, bad in enumerate([True, False, True, False, True, True, True, False]):
        sound = scale_last_norm(memory, factor if bad else 1.0)
        read(memory, windows[number : number + 1])
        put_last_norm(memory, sound)
        assert ("rollback" in kinds(memory)) == (number == 5) == (rate_of(memory) != RATE) or number > 5
    # The third bad window was the first of a new pair.
    assert memory.counts.rollbacks == 1 and rate_of(memory) == RATE / 2 and memory.counts.updates == 0


def test_going_back_drops_waiting_gradients_and_takes_the_place_of_a_step() -> None:
    memory = memory_of(every=3, cadence="accumulate")
    windows = windows_of(memory, 72)
    read(memory, windows[:4])
    assert group(memory, "gradients").keys() == group(memory, "parameters").keys()
    sound = scale_last_norm(memory, WRONG)
    assert stepping(memory, windows[4:6]) == [False, False]
    assert memory.counts.rollbacks == 1 and memory.counts.updates == 1
    assert group(memory, "gradients") == {} and memory.state().values["waiting"] == 0
    put_last_norm(memory, sound)
    before = group(memory, "parameters")
    assert stepping(memory, windows[6:9]) == [False, False, True]
    assert close(group(memory, "parameters"), stepped(before, windows[6:9], RATE / 2))


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_window_without_numbers_is_left_out_of_the_mean_and_counted_by_the_cadence(bad: int) -> None:
    memory = memory_of(every=3, cadence="accumulate")
    windows, prior = windows_of(memory, 40), group(memory, "parameters")
    for number, one in enumerate(windows[:3]):
        sound = scale_last_norm(memory, NOT_A_NUMBER if number == bad else 1.0)
        memory.score(one)
        put_last_norm(memory, sound)
        memory.learn(one)
    assert memory.counts.updates == memory.counts.skipped_updates == 1
    assert close(group(memory, "parameters"), stepped(prior, [one for n, one in enumerate(windows[:3]) if n != bad]))


def test_without_a_guard_bad_windows_are_learned_from() -> None:
    memory = memory_of("cached", guard="off")
    windows = windows_of(memory, 40)
    scale_last_norm(memory, WRONG)
    assert stepping(memory, windows[:4]) == [True] * 4
    assert kinds(memory) == [] and memory.counts.updates == 4 and memory.counts.rollbacks == 0
    assert rate_of(memory) == RATE and group(memory, "guard") == {}
