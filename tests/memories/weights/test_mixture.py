"""Mixtures of learners: the arithmetic against exact paths, the bounds, and experts that do not touch each other."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from driftlm import DriftError, Learning, WeightMemory, Windows, read_stream
from driftlm.memories.build import memory_for
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.mixture import EPSILON, Mixing, MixtureMemory, smoothed
from tests.support.build import language_model, read, reads_numbers, spelled, through_files, weight_memory
from tests.support.families import random_ids
from tests.support.reference import mixture as reference
from tests.support.running import QUICK, driftlm, ending, refused, tiny_model, words, written

pytestmark = pytest.mark.long

GRID = Windows("cached", 16, 8)
ROUNDING = 1e-6
both = pytest.mark.parametrize("share", [False, True], ids=["bayes", "share"])

# ------------------------------------------------------------------------------------------------------ the arithmetic


@st.composite
def streams(draw: st.DrawFn, experts: int, tokens: int) -> tuple[list[list[float]], list[float]]:
    """Nats of some experts and of the prior: good ones, bad ones, some that diverge, some sure that it cannot be."""
    sane = st.floats(0, 12, allow_subnormal=False)
    wild = sane | st.sampled_from([0.0, 50.0, 1e4, 1e30, math.inf])
    n = draw(st.integers(1, tokens))
    rows = [draw(st.lists(wild, min_size=n, max_size=n)) for _ in range(draw(st.integers(1, experts)))]
    return rows, draw(st.lists(sane, min_size=n, max_size=n))


def mixed(nats: list[list[float]], prior: list[float], share: bool, cut: int = 0) -> tuple[Tensor, Mixing]:
    """Nats of a stream that is read in two windows."""
    rows, base, mixing, scores = torch.tensor(nats), torch.tensor(prior), Mixing.of(len(nats), share), []
    for part in (slice(0, cut), slice(cut, None)):
        if rows[:, part].numel():
            score, mixing = mixing.read(rows[:, part], base[part])
            scores.append(score)
    return torch.cat(scores), mixing


@both
@settings(max_examples=30)
@given(stream=streams(3, 5), cut=st.integers(0, 4))
def test_a_mixture_is_the_sum_over_all_paths(stream: Any, cut: int, share: bool) -> None:
    # Both sides begin with the same float32 numbers.
    nats, prior = ([torch.tensor(row).tolist() for row in stream[0]], torch.tensor(stream[1]).tolist())
    p = reference.smoothed(nats, prior)
    scores, after = mixed(nats, prior, share, cut)
    assert scores.tolist() == pytest.approx(reference.nats(p, share), rel=1e-9, abs=1e-12)
    if not share:
        assert after.weights.tolist() == pytest.approx(reference.weights(p), rel=1e-9, abs=1e-15)
    assert math.isclose(after.loss, scores.sum().item(), abs_tol=1e-9) and after.tokens == len(prior)


@both
@settings(max_examples=30)
@given(stream=streams(16, 60))
@example(stream=([[0.0] * 30 + [math.inf] * 30, [math.inf] * 30 + [0.0] * 30, [5.0] * 60], [12.0] * 60))
def test_no_prefix_of_any_stream_loses_more_than_the_bound(stream: Any, share: bool) -> None:
    nats, prior = stream
    scores, _ = mixed(nats, prior, share)
    experts = smoothed(torch.tensor(nats), torch.tensor(prior)).cumsum(1).amin(0)
    n = torch.arange(1, len(prior) + 1, dtype=torch.float64)
    bound = experts + math.log(len(nats)) + (n.log() if share else 0) + ROUNDING
    assert bool((scores.cumsum(0) <= bound).all()) and bool((scores >= 0).all())


def test_the_bound_holds_on_a_long_stream() -> None:
    torch.manual_seed(0)
    nats = torch.rand(4, 20_000) * torch.tensor([[3.0], [3.01], [400.0], [3.0]])
    scores, after = Mixing.of(4).read(nats, nats[3])
    best = smoothed(nats, nats[3]).cumsum(1).amin(0)
    assert bool((scores.cumsum(0) <= best + math.log(4) + ROUNDING).all())
    assert abs(after.weights.sum().item() - 1) < 1e-12


def test_with_share_another_expert_takes_over() -> None:
    good, bad, prior = [1.0] * 200, [3.0] * 200, [4.0] * 400
    scores = {share: mixed([good + bad, bad + good], prior, share)[0] for share in (False, True)}
    assert scores[False].sum() > 590  # the weight that the first half took has to be earned back
    assert scores[True].sum() < 420


def test_an_expert_without_probability_costs_what_the_prior_lends() -> None:
    lost = smoothed(torch.tensor([[math.inf]]), torch.tensor([2.0]))
    assert lost.item() == pytest.approx(2.0 - math.log(EPSILON))


# ----------------------------------------------------------------------------------------------------------- the memory


def mixture(rates: list[float], share: bool = False, grid: Windows = GRID, **learning: Any) -> MixtureMemory:
    base = Learning(**{"rule": "sgd"} | learning)
    experts = [replace(base, learning_rate=rate) for rate in rates]
    return reads_numbers(MixtureMemory(language_model("llama"), grid, experts, share))


DOCUMENTS = [spelled(random_ids(40, 1)[1:] * 2, "a"), spelled(random_ids(30, 2)[1:] * 2, "b")]


@both
@pytest.mark.parametrize(
    "learning",
    [
        {},
        {"rule": "adam"},
        {"learn": "lora", "rule": "adam", "every": 2, "cadence": "accumulate"},
        {"momentum": 0.5, "reset": "document"},
    ],
    ids=["sgd", "adam", "lora", "momentum"],
)
def test_experts_read_as_if_each_were_alone_and_one_diverges(learning: dict[str, Any], share: bool) -> None:
    """The whole memory is the arithmetic over memories that never met; the last rate diverges and spoils nothing."""
    rates = [0.0, 0.01, 1e3]
    memory = mixture(rates, share, **learning)
    alone = torch.stack(
        [read(weight_memory("llama", GRID, **{**learning, "learning_rate": rate}), DOCUMENTS) for rate in rates]
    )
    assert alone[2].sum() > alone[0].sum() + 20  # it does diverge
    scores, after = Mixing.of(3, share).read(alone, alone[0])
    together = read(memory, DOCUMENTS)
    rounding = 0.0 if memory.together is None else 1e-5  # products in a batch round otherwise
    assert (together - scores.float()).abs().max() <= rounding
    n = len(together)
    bound = smoothed(alone, alone[0]).cumsum(1).amin(0) + math.log(3) + (math.log(n) if share else 0) + 1e-5 * n
    assert bool((together.double().cumsum(0) <= bound).all())
    expert_weights = memory.expert_weights()
    assert [one["weight"] for one in expert_weights] == pytest.approx(after.weights.tolist(), rel=0, abs=10 * rounding)
    assert expert_weights[2]["weight"] < (0.1 if share else 1e-6)  # a restart gives it a good window or two
    assert expert_weights[1]["nats_per_token"] == pytest.approx((after.losses[1] / n).item())
    assert memory.counts.rollbacks > 0
    assert memory.best() is (memory.members[int(after.logs.argmax())] or memory.frozen)


def test_a_restart_leaves_the_weights() -> None:
    memory = mixture([0.0, 0.2], reset="document")
    read(memory, [spelled([5, 9, 7] * 20)])
    assert memory.members[1] is not None
    assert all(
        torch.equal(p, prior) for p, prior in zip(memory.parameters, memory.members[1].prior.values, strict=True)
    )
    assert memory.weights()[1] > 0.9
    memory.reset()
    assert memory.weights() == [0.5, 0.5]


def test_experts_share_what_they_do_not_change() -> None:
    memory = mixture([0.0, 0.1, 0.2], learn="lora")
    base = {p.data_ptr() for p in memory.language_model.model.parameters()}
    for one in memory.active:
        learned = {p.data_ptr() for p in one.parameters}
        others = {p.data_ptr() for p in one.language_model.model.parameters()} - learned
        assert others == base and not learned & base
    memory = mixture([0.1, 0.2])
    (one, two), base = memory.active, {p.data_ptr() for p in memory.language_model.model.parameters()}
    assert {value.data_ptr() for value in one.prior.values} == {value.data_ptr() for value in two.prior.values} == base
    assert not {p.data_ptr() for p in one.parameters} & ({p.data_ptr() for p in two.parameters} | base)


def test_a_state_of_other_experts_is_refused() -> None:
    memory = mixture([0.0, 0.1])
    with pytest.raises(DriftError, match="other experts"):
        mixture([0.0, 0.1, 0.2]).restore(memory.state())
    with pytest.raises(DriftError, match="other experts"):
        memory.restore(weight_memory("llama", GRID).state())
    memory.restore(through_files(memory.state()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "mixture", "learning_rate": 0.1}, "`Learning.learning_rate` was 0.1"),
        ({"rule": "mixture", "experts": "0,fast"}, "`Learning.experts` named 'fast'"),
        ({"rule": "mixture", "experts": "0,-1"}, "`Learning.experts` named .*whose rate is -1"),
        ({"rule": "mixture", "experts": "nan"}, "`Learning.experts` named .nan., whose rate is nan"),
        ({"experts": "0,1"}, "belong to a mixture"),
        ({"share": True}, "belong to a mixture"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DriftError, match=message):
        Learning(**settings)


def test_too_many_experts_none_or_one_without_a_guard_are_refused() -> None:
    for rates in ([], [0.1] * 17):
        with pytest.raises(DriftError, match=f"{len(rates)} experts; give 1 to 16"):
            mixture(rates)
    with pytest.raises(DriftError, match="`Learning.guard` was off"):
        mixture([0.1], guard="off")


def test_a_model_that_scores_nothing_is_refused() -> None:
    model = language_model("llama")
    with torch.no_grad():
        next(model.model.parameters()).fill_(math.nan)
    memory = reads_numbers(MixtureMemory(model, Windows(context=16, stride=8), [Learning(learning_rate=0.0)]))
    with pytest.raises(DriftError, match="the model's own score of a at token 1 is not a number"):
        next(read_stream(memory, DOCUMENTS))


# ------------------------------------------------------------------------------------------------------ the verb `read`


def test_read_weighs_experts_resumes_and_saves_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files, model = written(tmp_path, a=words(150), b=words(60, 1)), tiny_model(tmp_path)
    quick = [one for one in QUICK if one not in ("--rule", "sgd")]
    command = ["read", *files, "--model", model, *quick, "--rule", "mixture", "--experts", "0,sgd:0.2,sgd:1e6"]
    summary = driftlm(capsys, *command, "--share", "--run", "run", "--save", "saved").summary
    experts = summary["experts"]
    assert [one["name"] for one in experts] == ["adam:0", "sgd:0.2", "sgd:1e+06"]
    assert sum(one["weight"] for one in experts) == pytest.approx(1) and experts[1]["weight"] > 0.5
    assert experts[0]["nats_per_token"] == pytest.approx(summary["static_nats_per_token"], abs=1e-5)
    best = min(one["nats_per_token"] for one in experts) * summary["tokens"]
    assert summary["nats"] <= best + math.log(3) + math.log(summary["tokens"]) + 1e-3
    lines = [json.loads(line) for line in (tmp_path / "run" / "windows.jsonl").read_bytes().splitlines()]
    assert all(sum(line["weights"]) == pytest.approx(1) for line in lines)
    assert lines[-1]["weights"] == [one["weight"] for one in experts]

    # What is saved is the best expert, which is what its strategy alone would have become; a reading may go on from it.
    alone = ["--rule", "sgd", "--learning-rate", 0.2, "--run", "alone"]
    driftlm(capsys, "read", *files, "--model", model, *quick, *alone)
    on = ["read", files[1], *quick, "--rule", "sgd", "--learning-rate", 0, "--from"]
    nats = [driftlm(capsys, *on, name, "--run", f"on-{name}").summary["nats"] for name in ("run", "saved", "alone")]
    assert nats[0] == nats[1] == nats[2]

    shown = driftlm(capsys, *[one for one in command if one != "--json"], "--limit", 20, "--run", "shown").out
    assert "\nexpert sgd:0.2: " in shown and ", weight 0." in shown
    refused(driftlm(capsys, *command, "--run", "none", "--guard", "off"), "--guard was off")


def test_a_mixture_that_was_stopped_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "news.jsonl").write_text("".join(json.dumps({"text": words(30, i)}) + "\n" for i in range(3)))
    whole = (tmp_path / "news.jsonl").read_text()
    quick = [one for one in QUICK if one not in ("--rule", "sgd")]
    command = ["read", "news.jsonl", "--model", tiny_model(tmp_path), *quick, "--rule", "mixture"]
    command += ["--experts", "0,1e-3,sgd:0.2", "--run"]
    driftlm(capsys, *command, "never")
    (tmp_path / "news.jsonl").write_text(whole.replace("\n", "\n{oops\n", 2).replace("{oops\n", "", 1))
    assert driftlm(capsys, *command, "stopped").code == 2
    (tmp_path / "news.jsonl").write_text(whole)
    assert driftlm(capsys, "read", "--resume", "stopped", "--no-report", "--no-live", "--json").code == 0
    assert ending(tmp_path / "stopped") == ending(tmp_path / "never")


def test_weights_are_one_memory_without_a_mixture() -> None:
    assert type(memory_for(MemorySettings(GRID, Learning("none")), language_model("llama"))) is WeightMemory


def test_a_mixture_goes_on_from_an_adapter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (file,), lora = written(tmp_path, a=words(60)), [*QUICK, "--learn", "lora", "--rank", 2]
    on = ["read", file, "--from", "first", *lora, "--run"]
    driftlm(capsys, "read", file, "--model", tiny_model(tmp_path), *lora, "--learning-rate", 1, "--run", "first")
    rates = [driftlm(capsys, *on, f"rate-{rate}", "--learning-rate", rate).summary for rate in (0, 0.5)]
    summary = driftlm(capsys, *on, "both", "--rule", "mixture", "--experts", "0,sgd:0.5", "--save", "saved").summary
    assert summary["static_nats"] == rates[0]["nats"]
    for one, alone in zip(summary["experts"], rates, strict=True):
        assert one["nats_per_token"] == pytest.approx(alone["nats_per_token"], abs=5e-3)  # smoothed
    assert (tmp_path / "saved" / "adapter_config.json").exists()
    capsys.readouterr()
