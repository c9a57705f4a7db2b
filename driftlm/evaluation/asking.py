"""Adapt on a whole stream, then answer its questions: from a bank, from the document in the context, from nothing."""

import time
from collections.abc import Callable, Sequence

import torch

from driftlm.bank.modulate import Prefix, answer_nats, generate
from driftlm.bank.modulations import Modulations
from driftlm.bank.networks import BankNetworks
from driftlm.errors import DriftError
from driftlm.evaluation.answering import Answered
from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import answer_ids, prompt_ids
from driftlm.streams.documents import Document
from driftlm.streams.moments import moment_of
from driftlm.streams.questions import Question, QuestionStream

QUESTIONS_AT_A_TIME = 32
Prefixes = Callable[[Sequence[Question]], tuple[Prefix | None, Sequence[float | None]]]


def bank_of(networks: BankNetworks, documents: Sequence[Document]) -> Modulations:
    """Modulations of documents, in their order."""
    made = list(networks.amortize([document.text for document in documents]))
    parts = [len(vectors) for vectors, _ in made]
    known = [moment_of(document.time) for document in documents]
    moments = torch.tensor([float("nan") if moment is None else moment for moment in known], dtype=torch.float64)
    return Modulations(
        vectors=torch.cat([vectors for vectors, _ in made]),
        keys=torch.cat([keys for _, keys in made]),
        moments=moments.repeat_interleave(torch.tensor(parts)),
        owner=torch.arange(len(parts)).repeat_interleave(torch.tensor(parts)),
        ids=[document.id for document in documents],
    )


def from_bank(networks: BankNetworks, bank: Modulations, questions: Sequence[Question]) -> list[Answered]:
    """Answers from the whole bank, exactly aggregated."""
    places = {name: place for place, name in enumerate(bank.ids)}

    def prefixes(asked: Sequence[Question]) -> tuple[Prefix | None, Sequence[float | None]]:
        prefix, shares = networks.asked([one.text for one in asked], bank.vectors, bank.keys, bank.moments)
        of_documents = torch.zeros(len(asked), len(bank.ids)).index_add(1, bank.owner, shares.float())
        return prefix, [of_documents[row, places[one.document]].item() for row, one in enumerate(asked)]

    return answered(networks.language_model, questions, prefixes)


def from_own_document(networks: BankNetworks, stream: QuestionStream, questions: Sequence[Question]) -> list[Answered]:
    """Answers from banks of one: each question's own document alone."""
    whole, found = bank_of(networks, stream.documents), []
    places = {name: place for place, name in enumerate(whole.ids)}
    for question in questions:
        alone = whole.select((whole.owner == places[question.document]).nonzero()[:, 0])
        found += from_bank(networks, alone, [question])
    return found


def from_context(
    language_model: LanguageModel, stream: QuestionStream, questions: Sequence[Question]
) -> list[Answered]:
    """Answers with the right document in the context: the ceiling of every memory that finds documents."""
    texts = {document.id: document.text for document in stream.documents}
    return answered(language_model, questions, None, lambda question: texts[question.document])


def from_nothing(language_model: LanguageModel, questions: Sequence[Question]) -> list[Answered]:
    """Answers of the plain language model."""
    return answered(language_model, questions, None)


@torch.no_grad()
def answered(
    language_model: LanguageModel,
    questions: Sequence[Question],
    prefixes: Prefixes | None,
    context: Callable[[Question], str] = lambda question: "",
) -> list[Answered]:
    """Greedy answers and what the first gold answer costs, in batches of questions.

    Raises:
        DriftError: for a stream without questions.
    """
    if not questions:
        raise DriftError("the stream has no question; give one with questions.")
    found = []
    for start in range(0, len(questions), QUESTIONS_AT_A_TIME):
        asked = questions[start : start + QUESTIONS_AT_A_TIME]
        began = time.perf_counter()
        prefix: Prefix | None = None
        weights: Sequence[float | None] = [None] * len(asked)
        if prefixes is not None:
            prefix, weights = prefixes(asked)
        prompts = [prompt_ids(language_model, question.text, context(question)) for question in asked]
        said = generate(language_model, prompts, prefix)
        seconds = (time.perf_counter() - began) / len(asked)
        golds = [answer_ids(language_model, question.answers[0]) for question in asked]
        nats, there, _ = answer_nats(language_model, prompts, golds, prefix)
        for row, question in enumerate(asked):
            found.append(
                Answered(question, said[row], nats[row].sum().item(), int(there[row].sum()), weights[row], seconds)
            )
    return found
