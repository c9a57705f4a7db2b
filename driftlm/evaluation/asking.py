"""Adapt on a whole stream, then answer its questions: from a bank, from the document in the context, from nothing."""

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence

import torch

from driftlm.bank.asked import AskedBank
from driftlm.bank.modulations import Modulations
from driftlm.bank.networks import BankNetworks
from driftlm.bank.settings import EXACT, Aggregation
from driftlm.errors import DriftError
from driftlm.evaluation.answering import Answered, counted
from driftlm.evaluation.settings import GREEDY, Asking
from driftlm.models.answers import answer_nats, generate
from driftlm.models.loading import LanguageModel
from driftlm.models.modulated import Modulated
from driftlm.models.prompting import LONGEST_ANSWER, answer_ids, prompt_ids
from driftlm.streams.documents import Document
from driftlm.streams.moments import moment_of
from driftlm.streams.questions import Question, QuestionStream

QUESTIONS_AT_A_TIME = 32
Modulating = Callable[[Sequence[Question]], tuple[Modulated | None, Sequence[float | None]]]


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


def from_bank(
    networks: BankNetworks,
    bank: Modulations,
    questions: Sequence[Question],
    asking: Asking = GREEDY,
    aggregation: Aggregation = EXACT,
) -> list[Answered]:
    """Answers from the whole bank."""
    places = {name: place for place, name in enumerate(bank.ids)}
    ready = AskedBank(networks, bank, aggregation, several=len(questions) > 1)

    def modulating(asked: Sequence[Question]) -> tuple[Modulated | None, Sequence[float | None]]:
        modulated, shares = ready.asked([one.text for one in asked])
        return modulated, [shares[row, places[one.document]].item() for row, one in enumerate(asked)]

    return answered(networks.language_model, questions, modulating, asking=asking)


def from_own_document(
    networks: BankNetworks, stream: QuestionStream, questions: Sequence[Question], asking: Asking = GREEDY
) -> list[Answered]:
    """Answers from banks of one: each question's own document alone."""
    wanted = {question.document for question in questions}
    bank = bank_of(networks, [document for document in stream.documents if document.id in wanted])
    places = {name: place for place, name in enumerate(bank.ids)}
    aggregator = networks.aggregator

    def modulating(asked: Sequence[Question]) -> tuple[Modulated | None, Sequence[float | None]]:
        own = torch.tensor([places[one.document] for one in asked])
        entries = bank.select(torch.isin(bank.owner, own))
        question = networks.question_vectors([one.text for one in asked])
        mask, moments = (entries.owner == own[:, None]).to(question.device), entries.moments.to(question.device)
        # What a question may not see scores -inf, which is as if it were not in the bank.
        scores = aggregator.document_scores(aggregator.query_key(question), entries.keys, moments, mask)
        modulation, shares = aggregator.aggregate(question, entries.vectors, scores)
        return networks.modulation(modulation), shares.sum(dim=1).tolist()

    return answered(networks.language_model, questions, modulating, asking=asking)


def from_context(
    language_model: LanguageModel, stream: QuestionStream, questions: Sequence[Question], asking: Asking = GREEDY
) -> list[Answered]:
    """Answers with the right document in the context: the ceiling of every memory that finds documents.

    Of a document that the model's positions cannot hold only the beginning is given, and the answer says `cut`.
    """
    texts = {document.id: document.text for document in stream.documents}
    return answered(language_model, questions, None, lambda question: texts[question.document], asking)


def from_nothing(
    language_model: LanguageModel, questions: Sequence[Question], asking: Asking = GREEDY
) -> list[Answered]:
    """Answers of the plain language model."""
    return answered(language_model, questions, None, asking=asking)


@torch.no_grad()
def answered(
    language_model: LanguageModel,
    questions: Sequence[Question],
    modulating: Modulating | None,
    context: Callable[[Question], str] = lambda question: "",
    asking: Asking = GREEDY,
) -> list[Answered]:
    """Answers, and what the first gold answer that counts costs, in batches of questions.

    Raises:
        DriftError: for a stream without questions.
    """
    if not questions:
        raise DriftError("the stream has no question; give one with questions.")
    found = []
    for start in range(0, len(questions), QUESTIONS_AT_A_TIME):
        asked = questions[start : start + QUESTIONS_AT_A_TIME]
        golds = [answer_ids(language_model, counted(question.answers, asking.golds)[0]) for question in asked]
        began = time.perf_counter()
        modulated: Modulated | None = None
        weights: Sequence[float | None] = [None] * len(asked)
        if modulating is not None:
            modulated, weights = modulating(asked)
        prompts = [
            fitting(language_model, question.text, context(question), max(LONGEST_ANSWER, len(gold)))
            for question, gold in zip(asked, golds, strict=True)
        ]
        rows = [ids for ids, _ in prompts]
        said = generate(language_model, rows, modulated, LONGEST_ANSWER, asking.beams)
        seconds = (time.perf_counter() - began) / len(asked)
        nats, there, _ = answer_nats(language_model, rows, golds, modulated)
        for row, question in enumerate(asked):
            cost = nats[row].sum().item(), int(there[row].sum())
            found.append(Answered(question, said[row], *cost, weights[row], seconds, cut=prompts[row][1]))
    return found


def fitting(language_model: LanguageModel, question: str, context: str, answer: int) -> tuple[list[int], bool]:
    """The prompt with as much of the context's beginning as leaves room for `answer` tokens, and whether it was cut."""
    positions = getattr(language_model.model.config.get_text_config(), "max_position_embeddings", None)
    whole = prompt_ids(language_model, question, context)
    if positions is None or not context or len(whole) + answer <= positions:
        return whole, False

    def length(characters: int) -> int:
        return len(prompt_ids(language_model, question, context[:characters]))

    kept = bisect_right(range(len(context)), positions - answer, key=length) - 1
    return prompt_ids(language_model, question, context[: max(0, kept)]), True
