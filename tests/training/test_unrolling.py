"""Meta-training through gradient steps: against finite differences, against the memory, stopped and gone on with."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from driftlm import Document, DriftError, Learning, WeightMemory, Windows, read_stream
from driftlm.memories.weights.camels import SalienceNetwork
from driftlm.training.settings import SalienceTraining
from driftlm.training.unrolling import Episode, Inner, SalienceTrainer, counted_graph
from tests.support.build import language_model

pytestmark = pytest.mark.long

TEXTS = ["the thing was in the sea", "her ring and the storm", "the ship on the red sea", "it is in the water"]


def episode(step: int) -> Episode:
    first, second = TEXTS[step % 4], TEXTS[(step + 1) % 4]
    return Episode([first, second], ["where?", "what is in it?"], ["sea", "storm"], "and then it was on her")


def trainer_of(family: str = "gpt2", double: bool = False, **settings: Any) -> SalienceTrainer:
    model = language_model(family)
    if double:
        model.model.double()
    training = SalienceTraining(**{"documents": 2, "inner_rate": 0.3, "hidden": 4, "reset": 4, **settings})
    torch.manual_seed(3)
    network = SalienceNetwork(32, training.hidden)
    torch.nn.init.normal_(network.fc2.weight, std=0.3)
    if double:
        network.double()
    second_order = training.order == "second"
    inner = Inner(model, training.learn, training.inner_rate, second_order=second_order, longest=training.longest)
    return SalienceTrainer(network, language_model(family) if not double else model, inner, training, episode)


def gradient_of(trainer: SalienceTrainer, seen: Episode) -> list[Tensor]:
    loss, _, _ = trainer.losses(seen)
    return list(torch.autograd.grad(loss, list(trainer.network.parameters())))


@pytest.mark.parametrize("learn", ["all", "lora"])
def test_gradients_through_the_steps_are_finite_differences(monkeypatch: pytest.MonkeyPatch, learn: str) -> None:
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # where logits become float32
    trainer = trainer_of(double=True, learn=learn, locality=2.0)
    if learn == "lora":  # a new one has no gradient in its first factors
        trainer.values = {n: v + 0.1 * torch.randn_like(v) for n, v in trainer.inner.start.items()}
        trainer.values = {n: v.detach().double() for n, v in trainer.values.items()}
    seen, step = episode(0), 1e-5
    torch.manual_seed(1)
    parameters = list(trainer.network.parameters())
    direction = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum((g * d).sum().item() for g, d in zip(gradient_of(trainer, seen), direction, strict=True))

    def moved(by: float) -> float:
        with torch.no_grad():
            for parameter, one in zip(parameters, direction, strict=True):
                parameter += by * one
        return trainer.losses(seen)[0].item()

    found = (moved(step) - moved(-2 * step)) / (2 * step)
    assert abs(slope) > 1e-3
    assert slope == pytest.approx(found, rel=1e-5)


def test_first_order_leaves_out_what_a_step_does_to_later_gradients() -> None:
    seen = episode(0)
    one = replace(seen, documents=seen.documents[:1])
    for shown, alike in ((one, True), (seen, False)):
        second, first = (gradient_of(trainer_of(order=order), shown) for order in ("second", "first"))
        same = all(torch.allclose(a, b, atol=1e-7) for a, b in zip(second, first, strict=True))
        assert same == alike
    # and no value: the steps are the same
    assert trainer_of(order="first").losses(seen)[1] == trainer_of().losses(seen)[1]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_the_inner_step_is_the_one_a_memory_takes(tmp_path: Path, family: str) -> None:
    trainer = trainer_of(family, inner_rate=0.1)
    text = TEXTS[0]
    values = trainer.inner.adapted(trainer.inner.start, [text], trainer.weigh)
    trainer.network.save(tmp_path, trainer.reader)
    learning = Learning(rule="sgd", learning_rate=0.1, salience="camels", salience_network=str(tmp_path))
    memory = WeightMemory(language_model(family), Windows("overlapping", 64, 64), learning)
    for _ in read_stream(memory, [Document("d", text)]):
        pass
    assert memory.counts.updates == 1
    for name, parameter in memory.trainable.parameters.items():
        assert torch.allclose(parameter, values[name], atol=1e-6), name
        assert torch.equal(trainer.inner.start[name], memory.prior.values[list(values).index(name)])


def test_an_episode_without_steps_has_no_divergence() -> None:
    trainer = trainer_of()
    loss, losses, after = trainer.losses(replace(episode(0), documents=[TEXTS[0]]))
    assert losses.locality > 0 and losses.nats != losses.before
    assert loss.item() == pytest.approx(losses.nats + 0.1 * losses.locality)
    same = trainer.inner.divergence(trainer.values, trainer.values, TEXTS[1])
    assert same.item() == pytest.approx(0, abs=1e-6)
    assert any(not torch.equal(after[name], value) for name, value in trainer.values.items())


def test_a_fresh_network_weighs_ln2_over_3() -> None:
    weights = SalienceNetwork(32)(torch.randn(5, 32))
    assert weights.tolist() == pytest.approx([math.log(2) / 3] * 5)


def test_the_start_comes_back_after_so_many_documents() -> None:
    trainer = trainer_of()
    trainer.step()
    assert trainer.progress.documents == 2
    trainer.step()
    carried = trainer.values
    trainer.step()  # four documents were read: from the start again
    assert trainer.progress.documents == 2
    once = trainer_of()
    once.progress.step, once.network = 2, trainer_of().network
    assert not torch.equal(next(iter(carried.values())), next(iter(trainer.inner.start.values())))
    expected = trainer.inner.adapted(trainer.inner.start, episode(2).documents, trainer.weigh)
    name = next(iter(expected))
    assert (expected[name] - trainer.values[name]).abs().max() < 1e-2  # up to one step of the network
    assert all(torch.equal(v, w) for v, w in zip(once.inner.start.values(), trainer.inner.start.values(), strict=True))


@pytest.mark.parametrize("learn", ["norms", "lora"])
def test_a_restored_training_goes_on_as_if_never_stopped(tmp_path: Path, learn: str) -> None:
    whole = trainer_of(learn=learn)
    expected = [whole.step() for _ in range(4)]
    for stop in (1, 2):
        first = trainer_of(learn=learn)
        found = [first.step() for _ in range(stop)]
        torch.save(first.state(), tmp_path / "state.pt")
        second = trainer_of(learn=learn)
        second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
        assert found + [second.step() for _ in range(4 - stop)] == expected
        for name, value in whole.network.state_dict().items():
            assert torch.equal(second.network.state_dict()[name], value)
    with pytest.raises(DriftError, match="was made with learn lora, not all|was made with learn norms, not all"):
        trainer_of().restore(torch.load(tmp_path / "state.pt", weights_only=True))


def test_the_graph_is_measured_and_limited() -> None:
    x = torch.ones(1 << 18, requires_grad=True)  # 1 MiB
    with counted_graph(3) as size:
        y = x.exp().sin()  # keeps exp(x) once, for both
    assert size == [1 << 20] and y.requires_grad
    with (
        pytest.raises(
            DriftError,
            match=r"holds more than `SalienceTraining.memory` 1 MiB; give fewer `SalienceTraining.documents`",
        ),
        counted_graph(1),
    ):
        x.exp().sin().exp()
    one, two = trainer_of(), trainer_of(documents=1)
    two.episodes = lambda step: replace(episode(step), documents=[TEXTS[0]])
    assert one.graph_size() > two.graph_size() > 100_000
    with pytest.raises(DriftError, match="`SalienceTraining.memory` 1 MiB"):
        trainer_of(memory=1).graph_size()


def test_settings_that_cannot_be_are_refused() -> None:
    for settings, message in (
        ({"documents": 0}, "`SalienceTraining.documents` was 0; give at least 1"),
        ({"inner_rate": 0.0}, "give positive rates"),
        ({"order": "third"}, "`SalienceTraining.order` was 'third'; give one of second, first"),
    ):
        with pytest.raises(DriftError, match=message):
            SalienceTraining(**settings)  # type: ignore[arg-type]
