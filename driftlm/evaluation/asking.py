"""Ask questions in batches behind whatever is supplied for them: by a memory, by the right document, by nothing.

Letters: R questions.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from driftlm.core.errors import DriftError
from driftlm.evaluation.answering import Answered, counted
from driftlm.evaluation.settings import GREEDY, Asking
from driftlm.memories.answering import answers
from driftlm.memories.bank.modulations import Modulations
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.memories.bank.source import BankSource, bank_of
from driftlm.memories.base import Supply
from driftlm.models.answers import answer_nats
from driftlm.models.batching import asked_in_batches
from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import LONGEST_ANSWER, answer_ids, prompt_ids
from driftlm.streams.documents import Document
from driftlm.streams.questions import Question, QuestionStream

QUESTIONS_AT_A_TIME = 32  # that what helps is asked for

Supplying = Callable[[Sequence[Question]], Supply]
"""What helps with R questions; what knows only their texts is a `Source`."""


# ---------------------------------------------------------------------------------------------- what may be supplied


def nothing(questions: Sequence[Question]) -> Supply:
    """Supply no help: the language model alone."""
    return Supply.of((), len(questions))


def own_text(documents: Sequence[Document]) -> Supplying:
    """Return the right document as text: the ceiling of every memory that finds documents."""
    texts = {document.id: document.text for document in documents}

    def supplying(questions: Sequence[Question]) -> Supply:
        found = [texts[question.document] for question in questions]
        return Supply(found, None, [[(question.document, 1.0)] for question in questions])

    return supplying


def own_bank(networks: BankNetworks, documents: Sequence[Document]) -> Supplying:
    """Return the banks of one: each question's own document alone, amortized here."""
    bank = bank_of(networks, documents)
    places = {name: place for place, name in enumerate(bank.ids)}
    aggregator = networks.aggregator

    def supplying(questions: Sequence[Question]) -> Supply:
        own = torch.tensor([places[one.document] for one in questions])
        entries = bank.select(torch.isin(bank.owner, own))
        asked = networks.question_vectors([one.text for one in questions])
        mask, timestamps = (entries.owner == own[:, None]).to(asked.device), entries.timestamps.to(asked.device)
        # What a question may not see scores -inf, which is as if it were not in the bank.
        scores = aggregator.document_scores(aggregator.query_key(asked), entries.keys, timestamps, mask)
        modulation, shares = aggregator.aggregate(asked, entries.vectors, scores)
        named = [[(one.document, share)] for one, share in zip(questions, shares.sum(dim=1).tolist(), strict=True)]
        return Supply([""] * len(questions), networks.modulation(modulation), named)

    return supplying


def from_bank(
    networks: BankNetworks,
    bank: Modulations,
    questions: Sequence[Question],
    asking: Asking = GREEDY,
    aggregation: Aggregation = EXACT,
) -> list[Answered]:
    """Return the answers from a whole bank."""
    source = BankSource(networks, aggregation)
    source.hold(bank)
    supplying: Supplying = lambda some: source.supply([one.text for one in some])  # noqa: E731
    return answered(networks.language_model, questions, supplying, asking, source.positions)


def from_context(
    language_model: LanguageModel, stream: QuestionStream, questions: Sequence[Question], asking: Asking = GREEDY
) -> list[Answered]:
    """Return the answers with the right document in the context."""
    return answered(language_model, questions, own_text(stream.documents), asking)


# ------------------------------------------------------------------------------------------------------------- asking


@dataclass(frozen=True)
class Batch:
    """R questions that are ready to be asked.

    Attributes:
        places: of the questions among all.
        questions: R of them.
        supply: what helps with them.
        prompts: R rows of token ids.
        cut: whether the supplied text was cut to fit.
        golds: R rows of token ids, of the first gold answer that counts.
    """

    places: list[int]
    questions: Sequence[Question]
    supply: Supply
    prompts: list[list[int]]
    cut: list[bool]
    golds: list[list[int]]


def batches(
    language_model: LanguageModel,
    questions: Sequence[Question],
    supplying: Supplying,
    asking: Asking,
    positions: int,
) -> Iterator[Batch]:
    """Yield the questions in batches, with their prompts; `positions` are taken by what modulates the model.

    How many are a batch follows from the lengths of their prompts and from the memory there is (`models.batching`);
    they need not be in their order.

    Raises:
        DriftError: for no questions.
    """
    if not questions:
        raise DriftError("the stream has no question; give one with questions.")
    for start in range(0, len(questions), QUESTIONS_AT_A_TIME):
        asked = questions[start : start + QUESTIONS_AT_A_TIME]
        golds = [answer_ids(language_model, counted(question.answers, asking.golds)[0]) for question in asked]
        supply = supplying(asked)
        fitted = [
            fitting(language_model, question.text, text, positions + max(LONGEST_ANSWER, len(gold)))
            for question, text, gold in zip(asked, supply.texts, golds, strict=True)
        ]
        longest = max(LONGEST_ANSWER, *map(len, golds))
        counts = [positions + len(ids) + longest for ids, _ in fitted]
        for rows in asked_in_batches(language_model, counts, longest, asking.beams):
            yield Batch(
                [start + row for row in rows],
                [asked[row] for row in rows],
                supply.rows(rows),
                [fitted[row][0] for row in rows],
                [fitted[row][1] for row in rows],
                [golds[row] for row in rows],
            )


@torch.no_grad()
def answered(
    language_model: LanguageModel,
    questions: Sequence[Question],
    supplying: Supplying,
    asking: Asking = GREEDY,
    positions: int = 0,
    retrieved: int = 1,
) -> list[Answered]:
    """Return answers behind what is supplied, and what the first gold answer that counts costs, in batches of
    questions.

    Args:
        language_model: as it is now.
        questions: at least one.
        supplying: what helps with some of them. Of a text that the model's positions cannot hold only the beginning
            is read, and the answer says `cut`.
        asking: how.
        positions: that what modulates the model takes.
        retrieved: documents of the largest shares that count as found, where none are given as text.

    Raises:
        DriftError: for no questions.
    """
    made = dict[int, Answered]()
    began = time.perf_counter()
    for batch in batches(language_model, questions, supplying, asking, positions):
        modulated = batch.supply.modulated
        said = answers(language_model, batch.prompts, batch.supply, LONGEST_ANSWER, asking.beams)
        seconds = (time.perf_counter() - began) / len(said)
        nats, there, _ = answer_nats(language_model, batch.prompts, batch.golds, modulated)
        for row, question in enumerate(batch.questions):
            cost = nats[row].sum().item(), int(there[row].sum())
            named, text = batch.supply.documents[row], batch.supply.texts[row]
            weight = dict(named).get(question.document, 0.0) if named else None
            prompt, cut = len(batch.prompts[row]), batch.cut[row]
            recalled = is_recalled(question.document, named, text, retrieved)
            first = is_recalled(question.document, named[:1], text) if retrieved > 1 else None
            one = Answered(question, said[row].text, *cost, weight, seconds, cut, prompt, recalled, first)
            made[batch.places[row]] = one
        began = time.perf_counter()
    found = [made[place] for place in range(len(questions))]
    if any(one.recalled is not None for one in found):  # then finding nothing is a miss
        first = False if retrieved > 1 else None
        missed = [replace(one, weight=0.0, recalled=False, recalled_first=first) for one in found]
        return [other if one.recalled is None else one for one, other in zip(found, missed, strict=True)]
    return found


@torch.no_grad()
def gold_nats(
    language_model: LanguageModel, questions: Sequence[Question], supplying: Supplying, positions: int = 0
) -> float:
    """Return the nats per token of the gold answers, with nothing generated; arguments and errors as of `answered`."""
    nats, tokens = 0.0, 0
    for batch in batches(language_model, questions, supplying, GREEDY, positions):
        cost, there, _ = answer_nats(language_model, batch.prompts, batch.golds, batch.supply.modulated)
        nats, tokens = nats + cost.double().sum().item(), tokens + int(there.sum())
    return nats / tokens


def is_recalled(document: str, named: Sequence[tuple[str, float]], text: str, retrieved: int = 1) -> bool | None:
    """Tell whether the right document was found: among those whose texts were found, or else among the largest shares.

    A text that was found but left out by the budget counts as found: what a reader makes of it is in its answers.

    Args:
        document: the right one.
        named: ids and shares, the largest first.
        text: what is read before the question; empty where the documents are no text.
        retrieved: of how many of the largest shares, where there is no text.

    Example:
        >>> is_recalled("a", [("b", 0.6), ("a", 0.4)], "It rained."), is_recalled("a", [("b", 0.6), ("a", 0.4)], "")
        (True, False)
        >>> is_recalled("a", [("b", 0.6), ("a", 0.4)], "", retrieved=2)
        True
    """
    if not named:
        return None
    return document in [name for name, _ in (named if text else named[:retrieved])]


def fitting(language_model: LanguageModel, question: str, context: str, taken: int) -> tuple[list[int], bool]:
    """Return the prompt with as much of the context's beginning as leaves room for `taken` tokens, and whether it was
    cut.
    """
    positions = language_model.positions
    whole = prompt_ids(language_model, question, context)
    if positions is None or not context or len(whole) + taken <= positions:
        return whole, False

    def length(characters: int) -> int:
        return len(prompt_ids(language_model, question, context[:characters]))

    kept = bisect_right(range(len(context)), positions - taken, key=length) - 1
    return prompt_ids(language_model, question, context[: max(0, kept)]), True
