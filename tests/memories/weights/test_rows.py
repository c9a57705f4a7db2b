"""Memories side by side against `WeightMemory` reading alone: the same scores, steps, events and last numbers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from driftlm import DriftError, Step, WeightMemory, Windows, read_stream
from driftlm.memories.base import Counts, Event
from driftlm.memories.weights.rows import StaticRows, WeightRows
from driftlm.streams.documents import Document
from driftlm.streams.windows import Window, split
from tests.support.build import nats_of, numbers, reads_numbers, spelled, weight_memory
from tests.support.families import CACHED_FAMILIES, FAMILIES, random_ids

pytestmark = pytest.mark.long

BOTH = [(family, "overlapping") for family in FAMILIES] + [(family, "cached") for family in CACHED_FAMILIES]
DOCUMENTS = [spelled(random_ids(length, length)[1:], str(length)) for length in (44, 26, 5, 37)]
SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.3},
    "momentum skip": {"learning_rate": 0.3, "momentum": 0.8, "every": 3},
    "adam": {"rule": "adam", "learning_rate": 1e-2},
    "adam accumulate": {"rule": "adam", "learning_rate": 1e-2, "every": 3, "cadence": "accumulate"},
    "sgd accumulate": {"learning_rate": 0.3, "every": 2, "cadence": "accumulate", "guard": "off"},
}
# Far beyond the diverging rate every window after a step is bad in both programs, whatever the rounding.
ABSURD = 1e10


def memory_of(family: str, window: Any, sink: int = 1, **learning: Any) -> WeightMemory:
    settings = {"learn": "lora", "rank": 4, "reset": "document"} | learning
    return weight_memory(family, Windows(window, 20, 8, sink), **settings)


def read_rows(
    rows: WeightRows, documents: Sequence[Document] = DOCUMENTS
) -> tuple[list[Tensor], list[list[tuple[Event, ...]]], list[Counts]]:
    """Nats, events and counts of every document, one a row; a row that has ended is left behind."""
    grid = rows.windows
    waiting: list[list[Window]] = [list(split(one.id, *numbers(one.text), grid)) for one in documents]
    nats: list[list[Tensor]] = [[] for _ in documents]
    events: list[list[tuple[Event, ...]]] = [[] for _ in documents]
    counts, left = [Counts() for _ in documents], list(range(len(documents)))
    while left:
        for row, scores in zip(left, rows.score([waiting[row][0] for row in left]), strict=True):
            nats[row].append(scores)
            waiting[row].pop(0)
        for place, row in enumerate(left):
            events[row].append(rows.events[place])
        rows.learn()
        ended = [place for place, row in enumerate(left) if not waiting[row]]
        for place, done in zip(ended, rows.finish(ended), strict=True):
            counts[left[place]] = done
        stay = [place for place in range(len(left)) if place not in ended]
        if stay and ended:
            rows.keep(stay)
        left = [left[place] for place in stay]
    return [torch.cat(one) for one in nats], events, counts


def alone(memory: WeightMemory, document: Document) -> tuple[list[Step], Counts]:
    before = replace(memory.counts)
    steps = list(read_stream(memory, [document], baseline=memory.static()))
    changed = {name: count - getattr(before, name) for name, count in vars(memory.counts).items()}
    return steps, Counts(**changed)


@pytest.mark.parametrize(("family", "window"), BOTH)
@pytest.mark.parametrize("settings", SETTINGS)
def test_rows_of_every_length_read_as_alone(family: str, window: str, settings: str) -> None:
    memory = memory_of(family, window, **SETTINGS[settings])
    ours, events, counts = read_rows(WeightRows(memory, len(DOCUMENTS)))
    memory, gain = memory_of(family, window, **SETTINGS[settings]), 0.0
    for row, document in enumerate(DOCUMENTS):
        steps, done = alone(memory, document)
        apart = ours[row] - nats_of(steps)
        # Adam makes whole steps of gradients that are little more than rounding.
        assert apart.abs().mean() <= 1e-5 and apart.abs().max() <= 5e-5
        assert counts[row] == done and events[row] == [step.events for step in steps]
        gain += float(steps[-1].totals.gain or 0.0)
    assert abs(gain) > 0.5  # there is something to be equal about


@pytest.mark.parametrize("window", ["overlapping", "cached"])
@pytest.mark.parametrize("settings", ["sgd", "momentum skip", "adam accumulate"])
def test_a_row_that_diverges_comes_back_as_alone_and_leaves_the_others_bit_equal(window: str, settings: str) -> None:
    learning = SETTINGS[settings]
    sound, _, counts = read_rows(WeightRows(memory_of("llama", window, **learning), 4))
    assert not any(one.rollbacks for one in counts)
    rows = WeightRows(memory_of("llama", window, **learning), 4)
    rows.rows[0].rate = ABSURD
    ours, events, counts = read_rows(rows)
    assert all(torch.equal(one, other) for one, other in zip(ours[1:], sound[1:], strict=True))
    steps, done = alone(memory_of("llama", window, **learning | {"learning_rate": ABSURD}), DOCUMENTS[0])
    assert done.rollbacks >= 1 and done.prior_used > 0 and counts[0] == done
    assert events[0] == [step.events for step in steps]
    assert bool(ours[0].isfinite().all()) and (ours[0] - nats_of(steps)).abs().max() <= 1e-5


def test_a_row_goes_back_to_its_last_good_numbers_at_half_its_rate() -> None:
    rows = WeightRows(memory_of("llama", "overlapping", rule="adam", learning_rate=1e-2), 2)
    windows = [list(split("d", *numbers(DOCUMENTS[0].text), rows.windows)) for _ in range(2)]
    kept: list[dict[str, Tensor]] = []
    for turn in range(5):
        if turn == 2:
            kept.append({name: tensor[0].clone() for name, tensor in rows.numbers().items()})
            rows.rows[0].rate = ABSURD  # the step behind this window, which scores well, ruins the row
        rows.score([one[turn] for one in windows])
        rows.learn()
    assert rows.rows[0].counts.rollbacks == 1 and rows.rows[0].rate == ABSURD / 2
    assert all(torch.equal(tensor[0], kept[0][name]) for name, tensor in rows.numbers().items())
    assert rows.rows[1].rate == 1e-2 and rows.rows[1].counts.updates == 5


@pytest.mark.parametrize("settings", ["momentum skip", "adam accumulate"])
def test_a_row_that_takes_no_step_keeps_its_numbers_and_its_rule(settings: str) -> None:
    rows = WeightRows(memory_of("llama", "overlapping", **SETTINGS[settings]), 2)
    rows.rows[1].schedule.windows_read = 1  # a window ahead in its cadence
    windows = list(split("d", *numbers(DOCUMENTS[0].text), rows.windows))
    stepped = []
    for turn in range(6):
        before = [{name: tensor[n].clone() for name, tensor in rows.numbers().items()} for n in range(2)]
        rows.score([windows[turn]] * 2)
        rows.learn()
        for n in range(2):
            same = [torch.equal(tensor[n], before[n][name]) for name, tensor in rows.numbers().items()]
            assert all(same) or not any(same)
            stepped += [] if all(same) else [(turn, n)]
    assert stepped == [(1, 1), (2, 0), (4, 1), (5, 0)]


def accumulating(every: int) -> tuple[WeightRows, list[Window]]:
    memory = memory_of("llama", "overlapping", 0, learning_rate=0.3, every=every, cadence="accumulate", reset="never")
    return WeightRows(memory, 2), list(split("d", *numbers(DOCUMENTS[0].text), memory.windows))


def take(rows: WeightRows, window: Window, nowhere: bool = False) -> list[Tensor]:
    """Both rows score and learn a window; the first one from numbers that are none, where that is said."""
    kept = rows.lora.values[0].clone()
    if nowhere:
        rows.lora.values[0] = torch.nan
    nats = rows.score([window] * 2)
    rows.learn()
    if nowhere:
        assert bool(rows.lora.values[0].isnan().all())
        rows.lora.values[0] = kept
    return nats


def stepped(windows: Sequence[Window], rate: float = 0.3, start: Tensor | None = None) -> Tensor:
    """By hand, θ the prior or `start`: θ − η·(Σ over the windows of the gradient of summed nats) / (new tokens)."""
    memory = memory_of("llama", "overlapping")
    if start is not None:
        for p, values in zip(memory.parameters, start.split([p.numel() for p in memory.parameters]), strict=True):
            p.data = values.view_as(p).clone()
    for window in windows:
        logits = memory.language_model.model(input_ids=torch.tensor([window.inputs])).logits[0, -window.new :]
        F.cross_entropy(logits, torch.tensor(window.targets), reduction="sum").backward()
    tokens = sum(window.new for window in windows)
    return torch.cat([(p.data - rate * p.grad / tokens).flatten() for p in memory.parameters if p.grad is not None])


def test_a_graph_is_built_where_any_row_learns_and_only_there() -> None:
    memory = memory_of("llama", "overlapping", learning_rate=0.3, every=3)
    rows, graphs = WeightRows(memory, 2), list[bool]()
    memory.language_model.model.base_model.register_forward_hook(
        lambda module, inputs, output: graphs.append(bool(output[0].requires_grad))
    )
    windows = list(split("d", *numbers(spelled(random_ids(64)[1:]).text), memory.windows))
    take(rows, windows[0])
    rows.reset(1)  # its count starts again, a window behind
    for window in windows[1:]:
        take(rows, window)
    assert graphs == [False, False, True, True, False, True, True, False]
    assert [row.counts.updates for row in rows.rows] == [2, 2]


def test_leftovers_are_stepped_for_the_rows_that_ended_alone() -> None:
    rows, windows = accumulating(every=3)
    undisturbed, _ = accumulating(every=3)
    prior = rows.lora.values.clone()
    for window in windows[:2]:
        take(rows, window)
        take(undisturbed, window)
    assert torch.equal(rows.lora.values, prior)
    assert [counts.updates for counts in rows.finish([0])] == [1]
    assert torch.allclose(rows.lora.values[0], stepped(windows[:2]), atol=1e-6)
    assert torch.equal(rows.lora.values[1], prior[1])
    first = rows.lora.values[0].clone()
    take(rows, windows[2])
    take(undisturbed, windows[2])
    # The count of the stream goes on: the third window is a step of its own behind leftovers.
    assert [row.counts.updates for row in rows.rows] == [2, 1] and not torch.equal(rows.lora.values[0], first)
    assert torch.allclose(rows.lora.values[0], stepped(windows[2:3], start=first), atol=1e-6)
    assert torch.equal(rows.lora.values[1], undisturbed.lora.values[1])
    assert torch.allclose(rows.lora.values[1], stepped(windows[:3]), atol=1e-6)
    numbers_now = rows.lora.values.clone()
    assert [counts.updates for counts in rows.finish([0, 1])] == [2, 1]  # nothing waits
    assert torch.equal(rows.lora.values, numbers_now)


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_row_without_numbers_leaves_that_window_out_of_its_mean_and_the_other_row_alone(bad: int) -> None:
    rows, windows = accumulating(every=4)
    sound, _ = accumulating(every=4)
    for number, window in enumerate(windows[:4]):
        nats, expected = take(rows, window, number == bad), take(sound, window)
        kinds = [[event.kind for event in events] for events in rows.events]
        assert kinds == [["prior_used"] if number == bad else [], []]
        assert torch.equal(nats[1], expected[1]) and bool(nats[0].isfinite().all())
    left = [window for number, window in enumerate(windows[:4]) if number != bad]
    assert torch.allclose(rows.lora.values[0], stepped(left), atol=1e-6)
    assert torch.equal(rows.lora.values[1], sound.lora.values[1])
    assert [row.counts for row in rows.rows] == [
        Counts(updates=1, prior_used=8, skipped_updates=1), Counts(updates=1)
    ]  # fmt: skip


def test_a_row_that_goes_back_drops_its_waiting_gradients_and_keeps_its_place_in_the_cadence() -> None:
    rows, windows = accumulating(every=4)
    sound, _ = accumulating(every=4)
    for number, window in enumerate(windows[:4]):
        take(rows, window, nowhere=number in (1, 2))
        take(sound, window)
        kinds = [[event.kind for event in events] for events in rows.events]
        assert kinds == [[[], ["prior_used"], ["prior_used", "rollback"], []][number], []]
    assert [row.rate for row in rows.rows] == [0.15, 0.3]
    assert torch.allclose(rows.lora.values[0], stepped(windows[3:4], 0.15), atol=1e-6)
    assert torch.equal(rows.lora.values[1], sound.lora.values[1])
    assert [row.counts for row in rows.rows] == [
        Counts(updates=1, rollbacks=1, prior_used=16, skipped_updates=1), Counts(updates=1)
    ]  # fmt: skip


@pytest.mark.parametrize("window", ["overlapping", "cached"])
def test_a_row_that_was_reset_is_as_new(window: str) -> None:
    rows = WeightRows(memory_of("qwen", window, rule="adam", learning_rate=1e-2), 2)
    first, _, _ = read_rows(rows, [DOCUMENTS[0]] * 2)
    again, _, _ = read_rows(rows, [DOCUMENTS[0]] * 2)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize(("family", "window"), [("gpt2", "overlapping"), ("gemma", "cached")])
def test_the_static_model_reads_beside_them(family: str, window: str) -> None:
    memory = memory_of(family, window)
    rows = StaticRows(memory, 2)
    windows = [list(split("d", *numbers(one.text), rows.windows)) for one in (DOCUMENTS[0], DOCUMENTS[3])]
    found = []
    for now in zip(*windows, strict=False):
        found.append(rows.score(now))
        rows.learn()
    for row, document in enumerate((DOCUMENTS[0], DOCUMENTS[3])):
        static = torch.cat([step.static_nats for step in alone(memory, document)[0] if step.static_nats is not None])
        ours = torch.cat([one[row] for one in found])
        assert (ours - static[: len(ours)]).abs().max() <= 1e-5


def test_divergence_without_a_guard_is_an_error() -> None:
    # Large enough that no processor rounds its way to finite logits.
    rows = WeightRows(memory_of("llama", "overlapping", learning_rate=1e30, guard="off"), 4)
    with pytest.raises(DriftError, match="learning diverged: the score of "):
        read_rows(rows)


def test_rows_of_an_adapter_that_was_learned_before() -> None:
    def learned() -> WeightMemory:
        memory = memory_of("llama", "cached", **SETTINGS["adam"])
        torch.manual_seed(1)
        memory.trainable.start_from(
            {name: p + 0.1 * torch.randn_like(p) for name, p in memory.trainable.parameters.items()}
        )
        return reads_numbers(WeightMemory(memory.language_model, memory.windows, memory.learning, memory.trainable))

    ours, _, _ = read_rows(WeightRows(learned(), 4))
    for row, document in enumerate(DOCUMENTS):
        assert (ours[row] - nats_of(alone(learned(), document)[0])).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("learning", "sentence"),
    [
        ({"learn": "norms"}, "give `Learning.learn` lora"),
        ({"rule": "rms"}, "`Learning.rule` was rms"),
        ({"salience": "tfidf"}, "`Learning.salience` was tfidf"),
    ],
)
def test_what_cannot_learn_side_by_side_is_refused(learning: dict[str, Any], sentence: str) -> None:
    memory = memory_of("llama", "overlapping", **{"learning_rate": 0.0} | ({} if "rule" in learning else learning))
    if "rule" in learning:
        memory.learning = replace(memory.learning, **learning)
    with pytest.raises(DriftError, match=sentence):
        WeightRows(memory, 2)


def test_the_memory_that_rows_copy_stays_at_the_prior() -> None:
    memory = memory_of("llama", "overlapping", **SETTINGS["sgd"])
    kept = [parameter.data.clone() for parameter in memory.parameters]
    read_rows(WeightRows(memory, 4))
    assert all(torch.equal(p.data, value) for p, value in zip(memory.parameters, kept, strict=True))
    assert memory.counts == Counts()
