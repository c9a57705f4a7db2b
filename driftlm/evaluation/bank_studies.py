"""What the parts of a bank are worth: its ways of aggregation, and what it does for running text."""

import math
import time
from collections.abc import Sequence
from typing import Any

from driftlm.evaluation.asking import from_bank
from driftlm.evaluation.candidates import bank_bytes
from driftlm.evaluation.settings import Asking
from driftlm.evaluation.study import of_aggregation, row_of
from driftlm.memories.bank.modulations import Modulations
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.memories.bank.source import bank_of
from driftlm.memories.composed import BankMemory
from driftlm.memories.loop import read_stream
from driftlm.streams.documents import Document
from driftlm.streams.questions import Question, QuestionStream
from driftlm.streams.windows import Windows

GROUPS, NEAREST, REDUCED = (64, 512), (8, 64), (2, 8)  # entries of a group, entries attended to, how many times fewer
READ = 64  # most documents of each half whose text is scored
WINDOWS = Windows("overlapping", context=256, stride=32)  # short: a document's first window has nothing to ask by


def compared(
    networks: BankNetworks, stream: QuestionStream, questions: Sequence[Question], asking: Asking, seed: int
) -> list[dict[str, Any]]:
    """Give a row a way of aggregating the same bank: keys as in `question_answering`, with what the networks are."""
    began = time.perf_counter()
    bank, rows = bank_of(networks, stream.documents), []
    seconds = time.perf_counter() - began
    for aggregation in aggregations(bank, seed):
        found = from_bank(networks, bank, questions, asking, aggregation)
        size = bank_bytes(bank, aggregation) / bank.documents
        row = row_of(found, len(stream.documents), asking, seconds, size)
        rows.append(kind_of(networks) | of_aggregation(aggregation) | row)
    return rows


def aggregations(bank: Modulations, seed: int) -> list[Aggregation]:
    """Return all ways, in sizes that this bank is larger than: with the others they are exact."""
    entries, keyed = len(bank.vectors), bank.keys.shape[1] > 0
    fewer = [entries // times for times in REDUCED]
    found = [Aggregation("hierarchical", size) for size in GROUPS]
    found += [Aggregation("nearest", size) for size in NEAREST if keyed]
    found += [Aggregation("pruned", size, seed) for size in fewer if size]
    found += [Aggregation("averaged", size, seed) for size in fewer if size]
    found += [Aggregation("nearest-averaged", size) for size in fewer if size and keyed]
    return [EXACT, *(one for one in found if one.size < entries)]


def kind_of(networks: BankNetworks) -> dict[str, Any]:
    """Return what tells networks apart in a table."""
    settings = networks.settings
    names = ("encoder", "modulation", "vectors", "document_score")
    return {name: getattr(settings, name) for name in names}


def text_rows(networks: BankNetworks, documents: Sequence[Document]) -> list[dict[str, Any]]:
    """Return running text after the bank has learned half of the documents: that half again, and the other, unseen.

    Keys of a row: text (`adapted` or `unseen`), documents, tokens, nats and plain_nats (per token, with the bank and
    by the plain model), perplexity and plain_perplexity. The bank is asked with the window before, so that a first
    window is the plain model's, and it learns nothing while it is measured.

    Source: the perplexity table of MAC (arXiv 2403.04317).
    """
    half = min(len(documents) // 2, READ)
    memory = BankMemory(networks, WINDOWS)
    for _ in read_stream(memory, documents[:half]):
        pass
    memory.keeps = False
    rows = []
    for text, some in (("adapted", documents[:half]), ("unseen", documents[half : 2 * half])):
        steps = list(read_stream(memory, some, baseline=memory.static()))
        if not steps:
            continue  # one document has no halves
        totals = steps[-1].totals
        nats, plain = totals.nats / totals.tokens, (totals.static_nats or 0.0) / totals.tokens
        row = {"text": text, "documents": half, "tokens": totals.tokens, "nats": nats, "plain_nats": plain}
        row |= {"perplexity": math.exp(nats), "plain_perplexity": math.exp(plain)}
        rows.append(kind_of(networks) | row)
    return rows
