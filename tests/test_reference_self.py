"""The reference itself is checked here: against transformers, torch.optim, a second formulation, and by hand."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from tests.support.families import BOS, CACHED_FAMILIES, FAMILIES, VOCABULARY, llama, random_ids, tiny_tokenizer
from tests.support.reference.reading import (
    Adam,
    LlamaByHand,
    Rms,
    Sgd,
    band_mask,
    gradient,
    grid,
    overlapping_inputs,
    read,
    static_cached_banded,
    static_overlapping,
    statistics,
    token_nats,
    trainable,
)

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from a second thread, and wait for it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


GRIDS = [(16, 4), (12, 8), (8, 8), (24, 5)]


def close(left: list[float], right: list[float], tolerance: float = 1e-5) -> bool:
    return len(left) == len(right) and all(abs(a - b) <= tolerance for a, b in zip(left, right, strict=True))


def incremental(model: PreTrainedModel, ids: list[int], context: int, stride: int, lr: float = 0.0) -> list[float]:
    """Cached windows once more, with the cache of transformers trimmed by hand to the last C - S positions, and SGD."""
    cache: Any = DynamicCache()
    nats: list[float] = []
    kept, parameters = context - stride, list(model.parameters())
    for position, new in grid(len(ids) - 1, stride):
        first = position - 1
        inputs, positions = torch.tensor([ids[first : first + new]]), torch.arange(first, first + new)[None]
        output = model(input_ids=inputs, position_ids=positions, past_key_values=cache, use_cache=True)
        losses = token_nats(output.logits[0], ids[position : position + new])
        nats += losses.tolist()
        old, cache = cache, DynamicCache()
        if kept > 0:
            for index, layer in enumerate(old.layers):
                cache.update(layer.keys[:, :, -kept:].detach(), layer.values[:, :, -kept:].detach(), index)
        if lr > 0:
            gradients = torch.autograd.grad(losses.mean(), parameters)
            with torch.no_grad():
                for parameter, value in zip(parameters, gradients, strict=True):
                    parameter.sub_(lr * value)
    return nats


# ------------------------------------------------------------------------------------------------------------ families


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_small_the_same_each_time_and_not_uniform(family: str) -> None:
    state = torch.random.get_rng_state()
    model, again = FAMILIES[family](), FAMILIES[family]()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert sum(parameter.numel() for parameter in model.parameters()) < 60_000
    assert not model.training and model.config.vocab_size == VOCABULARY and model.config.bos_token_id == BOS
    nats = static_overlapping(model, random_ids(60), 64, 64)
    # Far from uniform, yet below the bar at which a guard against divergence would act.
    assert torch.tensor(nats).std() > 0.5
    assert sum(nats) / len(nats) < math.log(VOCABULARY) + 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_looks_back(family: str) -> None:
    model, ids = FAMILIES[family](), random_ids(40)
    changed = [*ids[:10], ids[10] % (VOCABULARY - 1) + 1, *ids[11:]]
    before, after = static_overlapping(model, ids, 64, 64), static_overlapping(model, changed, 64, 64)
    assert before[:9] == after[:9]  # tokens 1 ... 9 precede the change
    # 30 tokens later it still shows, far above the tolerance of any comparison.
    assert max(abs(a - b) for a, b in zip(before[-5:], after[-5:], strict=True)) > 1e-3


@pytest.mark.parametrize(
    "text", ["", "the cat and the dog", "  é à\r\n\r\n1900\n\n", "🙂日本 über\x00\t", "e\u0301 \u200d"]
)
def test_the_tokenizer_is_lossless(text: str) -> None:
    tokenizer = tiny_tokenizer()
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert len(tokenizer) == VOCABULARY and tokenizer.bos_token_id == tokenizer.eos_token_id == BOS
    assert tokenizer(text)["input_ids"] == encoding["input_ids"]
    assert tokenizer.decode(encoding["input_ids"]) == text
    covered = {index for start, end in encoding["offset_mapping"] for index in range(start, end)}
    assert covered == set(range(len(text)))


# --------------------------------------------------------------------------------------------------------- the windows


def test_the_grid_scores_every_token_once() -> None:
    assert list(grid(0, 4)) == []
    assert list(grid(4, 4)) == [(1, 4)]
    assert list(grid(9, 4)) == [(1, 4), (5, 4), (9, 1)]


def test_overlapping_inputs_follow_the_definition() -> None:
    ids = list(range(11))  # n = 10, C = 6, S = 4
    assert overlapping_inputs(ids, 1, 4, 6, 4) == [0, 1, 2, 3]
    assert overlapping_inputs(ids, 5, 4, 6, 4) == [2, 3, 4, 5, 6, 7]
    assert overlapping_inputs(ids, 9, 2, 6, 4) == [6, 7, 8, 9]  # short, its left end where a full window has it


def test_the_band_follows_the_definition() -> None:
    mask = band_mask(7, context=5, stride=3)
    visible = [[column for column in range(7) if mask[row, column]] for row in range(7)]
    assert visible == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5], [4, 5, 6]]
    sliding = band_mask(7, context=5, stride=3, sliding=2)
    assert [int(row.sum()) for row in sliding] == [1, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("context", "stride"), GRIDS)
def test_overlapping_windows_equal_a_forward_for_each_token(family: str, context: int, stride: int) -> None:
    model, ids = FAMILIES[family](), random_ids(43)
    result = read(model, ids, window="overlapping", context=context, stride=stride)
    assert close(result.nats, static_overlapping(model, ids, context, stride))


@pytest.mark.parametrize("family", CACHED_FAMILIES)
@pytest.mark.parametrize(("context", "stride"), [*GRIDS, (64, 50)])
def test_cached_windows_equal_one_banded_forward_and_the_cache_of_transformers(
    family: str, context: int, stride: int
) -> None:
    model, ids = CACHED_FAMILIES[family](), random_ids(43)
    banded = static_cached_banded(model, ids, context, stride)
    assert close(read(model, ids, window="cached", context=context, stride=stride).nats, banded)
    assert close(incremental(model, ids, context, stride), banded)


@pytest.mark.parametrize("family", CACHED_FAMILIES)
def test_cached_windows_learn_as_with_the_cache_of_transformers(family: str) -> None:
    model, ids = CACHED_FAMILIES[family](), random_ids(80)
    static = read(model, ids, window="cached", context=20, stride=8)
    result = read(model, ids, window="cached", context=20, stride=8, learn="all", lr=0.1)
    assert sum(result.nats) < sum(static.nats) - 10
    assert close(incremental(model, ids, 20, 8, lr=0.1), result.nats, 2e-5)


@pytest.mark.parametrize("family", CACHED_FAMILIES)
def test_one_window_over_everything_is_the_model_itself(family: str) -> None:
    model, ids = CACHED_FAMILIES[family](), random_ids(30)
    with torch.no_grad():
        plain = token_nats(model(torch.tensor([ids[:-1]])).logits[0], ids[1:]).tolist()
    for window in ("overlapping", "cached"):
        assert close(read(model, ids, window=window, context=32, stride=32).nats, plain)


# --------------------------------------------------------------------------------------------------- Llama written out


def test_the_written_llama_equals_transformers() -> None:
    model, ids = llama(), random_ids(50)
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0]
        ours = LlamaByHand(model, "overlapping", 64, 64, 0).forward(ids, first=0, oldest=0)
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("window", ["overlapping", "cached"])
@pytest.mark.parametrize("rule", ["sgd", "adam", "rms"])
def test_the_written_llama_learns_the_same(window: Any, rule: Any) -> None:
    model, ids = llama(), random_ids(70)
    options: dict[str, Any] = {"context": 14, "stride": 8, "window": window, "learn": "all", "rule": rule}
    if rule == "rms":
        options |= {"statistics": statistics(model, ids, window, 14, 8), "decay": 0.02, "epsilon": 1e-3}
    options["lr"] = {"sgd": 0.1, "adam": 1e-3, "rms": 1e-3}[rule]
    theirs, ours = read(model, ids, **options), read(model, ids, **options, by_hand=True)
    static = read(model, ids, context=14, stride=8, window=window)
    assert close(ours.nats[:8], static.nats[:8]) and not close(ours.nats, static.nats, 1e-2)
    assert close(ours.nats, theirs.nats, 2e-5)


def test_statistics_are_the_same_for_the_written_llama() -> None:
    model, ids = llama(), random_ids(40)
    ours, theirs = statistics(model, ids, "cached", 14, 8, by_hand=True), statistics(model, ids, "cached", 14, 8)
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-6 for name in ours)


# ---------------------------------------------------------------------------------------------------------- the rules


def toy() -> tuple[dict[str, Tensor], Callable[[dict[str, Tensor]], Tensor]]:
    start = {"a": torch.tensor([0.5, -1.0, 2.0]), "b": torch.tensor([[0.3, 0.1], [-0.4, 1.5]])}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return (parameters["a"].sin() ** 2).sum() + (parameters["b"] @ parameters["a"][:2]).exp().sum()

    return start, loss


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_sgd_and_adam_equal_torch(name: str) -> None:
    start, loss = toy()
    ours = {key: value.clone().requires_grad_() for key, value in start.items()}
    theirs = {key: value.clone().requires_grad_() for key, value in start.items()}
    makers: dict[str, tuple[Any, Any]] = {
        "sgd": (lambda p: torch.optim.SGD(p, lr=0.05), Sgd(0.05)),
        "momentum": (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9), Sgd(0.01, 0.9)),
        "adam": (lambda p: torch.optim.Adam(p, lr=0.02), Adam(0.02)),
    }
    make, rule = makers[name]
    optimizer = make(list(theirs.values()))
    for _ in range(12):
        optimizer.zero_grad()
        loss(theirs).backward()
        optimizer.step()
        rule.step(ours, gradient(loss(ours), ours))
    for key in start:
        assert (ours[key] - theirs[key]).abs().max() < 1e-6
        assert (ours[key] - start[key]).abs().max() > 1e-2


def test_rms_by_hand() -> None:
    # Tensor means 2 and 4, so the scale is 3 (not 2.667, the mean of all three numbers); R = (1/3, 1) and 4/3.
    parameters = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([5.0])}
    prior = {"a": torch.tensor([0.0, 4.0]), "b": torch.tensor([3.0])}
    rms = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([4.0])}
    Rms(lr=0.1, decay=0.3, epsilon=1.0, statistics=rms, prior=prior).step(
        parameters, {"a": torch.tensor([2.0, -4.0]), "b": torch.tensor([5.0])}
    )
    # a: 1 + 0.3/3 * (0 - 1) - 0.1 * 2 / (1 + 1);  2 + 0.3 * (4 - 2) + 0.1 * 4 / (3 + 1)
    # b: 5 + 0.3 * 4/3 * (3 - 5) - 0.1 * 5 / (4 + 1)
    assert torch.allclose(parameters["a"], torch.tensor([0.8, 2.7]))
    assert torch.allclose(parameters["b"], torch.tensor([4.1]))


def test_rms_never_overshoots_the_prior() -> None:
    # R = (1/2, 3/2); decay 0.8 clips R at 1.25: 0.8 * 1.25 = 1, exactly back to the prior, not 1.2 beyond it.
    parameters, prior = {"a": torch.tensor([2.0]), "b": torch.tensor([2.0])}, {"a": torch.zeros(1), "b": torch.zeros(1)}
    rms = {"a": torch.tensor([1.0]), "b": torch.tensor([3.0])}
    zero = {"a": torch.zeros(1), "b": torch.zeros(1)}
    Rms(lr=0.0, decay=0.8, epsilon=1.0, statistics=rms, prior=prior).step(parameters, zero)
    assert torch.allclose(parameters["a"], torch.tensor([1.2]))
    assert torch.allclose(parameters["b"], torch.tensor([0.0]), atol=1e-6)


def test_statistics_are_root_mean_squares_of_the_windows_gradients() -> None:
    model, ids = llama(), random_ids(10)  # C = 6, S = 4: inputs and targets spelled out, the last window short
    slices = [(ids[0:4], ids[1:5]), (ids[2:8], ids[5:9]), (ids[6:10], ids[9:11])]
    parameters, gradients = dict(model.named_parameters()), []
    for inputs, targets in slices:
        logits = model(torch.tensor([inputs])).logits[0, -len(targets) :]
        gradients.append(gradient(torch.nn.functional.cross_entropy(logits, torch.tensor(targets)), parameters))
    result = statistics(model, ids, "overlapping", 6, 4)
    for name in parameters:
        expected = torch.stack([g[name] for g in gradients]).square().mean(0).sqrt()
        assert torch.allclose(result[name], expected, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------- the loop


@pytest.mark.parametrize("family", FAMILIES)
def test_rate_zero_is_the_static_model(family: str) -> None:
    model, ids = FAMILIES[family](), random_ids(30)
    windows = ["overlapping", "cached"] if family in CACHED_FAMILIES else ["overlapping"]
    ones = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    for window in windows:
        grid_options: Any = {"window": window, "context": 12, "stride": 8}
        static = read(model, ids, **grid_options)
        assert static.updated == [] and len(static.nats) == 30
        for rule in ("sgd", "adam", "rms"):
            extra: Any = {"statistics": ones, "epsilon": 1e-3, "decay": 0.1} if rule == "rms" else {}
            result = read(model, ids, **grid_options, learn="all", lr=0.0, rule=rule, **extra)
            assert result.nats == static.nats and result.updated == [0, 1, 2, 3]


@pytest.mark.parametrize("family", FAMILIES)
def test_learning_helps_on_text_that_repeats(family: str) -> None:
    model = FAMILIES[family]()
    ids = [BOS, *random_ids(16)[1:] * 6]
    state = {name: parameter.clone() for name, parameter in model.named_parameters()}
    static = read(model, ids, context=16, stride=16)
    learned = read(model, ids, context=16, stride=16, learn="all", lr=0.2)
    assert close(learned.nats[:16], static.nats[:16], 0.0)
    assert sum(learned.nats[-16:]) < sum(static.nats[-16:]) - 1.0
    # The model that was handed in is as it was.
    assert all(torch.equal(state[name], parameter) for name, parameter in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_only_the_named_parameters_learn() -> None:
    model, names = llama(), ["model.layers.1.mlp.down_proj.weight", "model.norm.weight"]
    result = read(model, random_ids(20), context=8, stride=8, learn=names, lr=0.1)
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, result.parameters[name])]
    assert changed == names


@pytest.mark.parametrize("window", ["overlapping", "cached"])
def test_no_later_token_is_looked_at(window: Any) -> None:
    model, ids = llama(), random_ids(40)
    options: Any = {"context": 14, "stride": 8, "window": window, "learn": "all", "lr": 0.1, "momentum": 0.5}
    full = read(model, ids, **options).nats
    changed = [*ids[:30], *(token % (VOCABULARY - 1) + 1 for token in ids[30:])]
    assert read(model, changed, **options).nats[:29] == full[:29]
    assert close(read(model, ids[:31], **options).nats, full[:30])


def test_skip_learns_from_each_kth_window_alone() -> None:
    model, ids = llama(), random_ids(30)  # windows of 8, 8, 8, 6
    result = read(model, ids, context=8, stride=8, learn="all", lr=0.1, every=2)
    assert result.updated == [1, 3]
    static = read(model, ids, context=8, stride=8).nats
    assert result.nats[:16] == static[:16] and not close(result.nats[16:], static[16:], 1e-3)
    never = read(model, ids, context=8, stride=8, learn="all", lr=0.1, every=9)
    assert never.nats == static and never.updated == []
    # One step by hand, on the model itself, from window 1, whose inputs are ids[8:16].
    parameters = trainable(model, "all")
    loss = torch.nn.functional.cross_entropy(model(torch.tensor([ids[8:16]])).logits[0], torch.tensor(ids[9:17]))
    Sgd(0.1).step(parameters, gradient(loss, parameters))
    assert close(result.nats[16:], static_overlapping(model, ids, 8, 8)[16:])


def test_accumulate_steps_on_the_mean_over_tokens_and_on_leftovers() -> None:
    model, ids = llama(), random_ids(21)  # windows of 8, 8, 5
    result = read(model, ids, context=8, stride=8, learn="all", lr=0.1, every=3, cadence="accumulate")
    assert result.updated == [2]
    parameters = trainable(model, "all")
    pieces = [(ids[0:8], ids[1:9]), (ids[8:16], ids[9:17]), (ids[16:21], ids[17:22])]
    logits = torch.cat([model(torch.tensor([inputs])).logits[0] for inputs, _ in pieces])
    targets = torch.tensor([token for _, tokens in pieces for token in tokens])
    Sgd(0.1).step(parameters, gradient(torch.nn.functional.cross_entropy(logits, targets), parameters))
    for name, parameter in model.named_parameters():
        assert torch.allclose(result.parameters[name], parameter, atol=1e-6)
    leftovers = read(llama(), ids, context=8, stride=8, learn="all", lr=0.1, every=100, cadence="accumulate")
    assert leftovers.updated == [2]
    assert all(torch.equal(leftovers.parameters[name], result.parameters[name]) for name in leftovers.parameters)


def test_the_count_runs_over_the_stream_and_a_reset_restarts_it() -> None:
    model, documents = llama(), [random_ids(21), [BOS], random_ids(30, 1)]  # 3, 0 and 4 windows
    options: Any = {"context": 8, "stride": 8, "learn": "all", "lr": 0.1, "every": 2}
    assert read(model, documents, **options).updated == [1, 3, 5]
    assert read(model, documents, **options, reset="document").updated == [1, 4, 6]
    accumulated = read(model, documents, **options, cadence="accumulate")
    assert accumulated.updated == [1, 2, 3, 5, 6]
    assert read(model, documents, **options, cadence="accumulate", reset="document").updated == [1, 2, 4, 6]


@pytest.mark.parametrize("window", ["overlapping", "cached"])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_reset_is_a_fresh_start(window: Any, rule: Any) -> None:
    model, first, second = llama(), random_ids(20), random_ids(25, 1)
    options: Any = {"context": 14, "stride": 8, "window": window, "learn": "all", "lr": 1e-2, "rule": rule}
    options["momentum"] = 0.9 if rule == "sgd" else 0.0
    alone = read(model, second, **options)
    reset = read(model, [first, second], **options, reset="document")
    carried = read(model, [first, second], **options)
    assert reset.documents[1] == alone.nats and reset.nats == reset.documents[0] + reset.documents[1]
    assert all(torch.equal(reset.parameters[name], alone.parameters[name]) for name in alone.parameters)
    assert carried.documents[0] == reset.documents[0] and not close(carried.documents[1], alone.nats, 1e-3)
    assert [entry[0] for entry in reset.windows] == [0, 0, 0, 1, 1, 1, 1]
