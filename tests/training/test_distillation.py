"""Context distillation: the divergence from the model that has read the document, token by token."""

import random

import pytest
import torch
from torch import Tensor

from driftlm.memories.bank.modulate import PrefixModulation
from driftlm.models.answers import answer_logits
from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import answer_ids, prompt_ids
from driftlm.training.distillation import divergence
from tests.support.build import language_model
from tests.support.made_trainings import FIXED, trainer

QUESTIONS, DOCUMENTS = ["Where is it?", "Who?"], ["It is in Oslo, I was told.", "She."]


def frozen(family: str = "llama") -> LanguageModel:
    model = language_model(family)
    model.model.requires_grad_(False)
    return model


def with_prefix(model: LanguageModel, vectors: Tensor) -> tuple[list[list[int]], Tensor]:
    """Answers, and their logits behind a prefix made of `vectors`."""
    torch.manual_seed(0)
    prefix = PrefixModulation(model.model.config, vectors.shape[1])(vectors)
    answers = [answer_ids(model, answer) for answer in ("Oslo", "It was she")]
    prompts = [prompt_ids(model, question) for question in QUESTIONS]
    return answers, answer_logits(model, prompts, answers, prefix)


def by_hand(model: LanguageModel, row: int, answer: list[int], logits: Tensor) -> list[float]:
    """A full forward pass for every token, and the sum over the vocabulary, in float64."""
    prompt, found = prompt_ids(model, QUESTIONS[row], DOCUMENTS[row]), []
    for place in range(len(answer)):
        ids = torch.tensor([[*prompt, *answer[:place]]])
        with torch.no_grad():
            teacher = model.model(input_ids=ids).logits[0, -1].double().softmax(0)
        student = logits[row, place].detach().double().softmax(0)
        found.append((teacher * (teacher.log() - student.log())).sum().item())
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_divergence_is_that_of_full_forwards(family: str) -> None:
    model = frozen(family)
    answers, logits = with_prefix(model, torch.randn(2, 3, model.model.config.hidden_size))
    found = divergence(model, QUESTIONS, DOCUMENTS, answers, logits)
    assert found.shape == logits.shape[:2] and (found >= -1e-6).all()
    for row, answer in enumerate(answers):
        wanted = by_hand(model, row, answer, logits)
        torch.testing.assert_close(found[row, : len(answer)], torch.tensor(wanted), atol=1e-5, rtol=1e-4)
        assert found[row, len(answer) :].eq(0).all()


def test_who_says_what_the_teacher_says_has_none() -> None:
    model = frozen()
    answers = [answer_ids(model, answer) for answer in ("Oslo", "It was she")]
    prompts = [prompt_ids(model, *both) for both in zip(QUESTIONS, DOCUMENTS, strict=True)]
    logits = answer_logits(model, prompts, answers, None)
    assert divergence(model, QUESTIONS, DOCUMENTS, answers, logits).abs().max() < 1e-6


def test_gradients_reach_the_modulation_alone() -> None:
    model = frozen()
    vectors = torch.randn(2, 3, 32, requires_grad=True)
    answers, logits = with_prefix(model, vectors)
    divergence(model, QUESTIONS, DOCUMENTS, answers, logits).sum().backward()
    assert vectors.grad is not None and bool((vectors.grad != 0).any())
    assert all(weight.grad is None for weight in model.model.parameters())


def test_a_document_longer_than_the_context_teaches_nothing() -> None:
    model = frozen()
    answers, logits = with_prefix(model, torch.randn(2, 3, 32))
    whole = divergence(model, QUESTIONS, DOCUMENTS, answers, logits)
    needed = [len(prompt_ids(model, *both)) for both in zip(QUESTIONS, DOCUMENTS, strict=True)]
    for most, rows in ((needed[0] + len(answers[0]) - 1, [0, 1]), (needed[0] + len(answers[0]) - 2, [1]), (3, [])):
        model.model.config.max_position_embeddings = most
        found = divergence(model, QUESTIONS, DOCUMENTS, answers, logits)
        assert [row for row in range(2) if found[row].any()] == rows
        torch.testing.assert_close(found[rows], whole[rows])


def test_distillation_is_a_part_of_the_loss_and_is_learned() -> None:
    losses = {}
    for weight in (0.0, 0.5):
        one = trainer(distill=weight)
        loss, parts = one.losses(FIXED, random.Random(0))
        losses[weight] = loss.item()
        assert (parts.distill > 0) == (weight > 0)
    assert losses[0.5] == pytest.approx(losses[0.0] + 0.5 * parts.distill, abs=1e-5)
    one = trainer(distill=100.0, steps=60, rate=0.001)
    found = [one.step().distill for _ in range(15)]
    assert found[-1] < found[0]
