"""What a bank costs as it grows: seconds and memory to adapt and to ask, and bytes on disk."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F

from driftlm.cost.summary import Spent
from driftlm.evaluation.asking import bank_of
from driftlm.evaluation.settings import GREEDY, Asking
from driftlm.evaluation.study import of_aggregation
from driftlm.memories.bank.asked import AskedBank
from driftlm.memories.bank.modulations import Addition, Facts, Modulations
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.memories.bank.store import BankStore
from driftlm.models.answers import generate
from driftlm.models.prompting import LONGEST_ANSWER, prompt_ids
from driftlm.streams.documents import Document
from driftlm.streams.questions import QuestionStream

SIZES = (16, 128, 1024, 8192, 65536, 100_000)  # documents
MEASURED = 256  # documents that are really amortized; larger banks repeat these
ASKED = 5  # questions timed, after one that is not
NOISE = 0.01  # of repeated vectors and keys, times the deviation of all


def cost_rows(
    networks: BankNetworks,
    stream: QuestionStream,
    documents: int,
    asking: Asking = GREEDY,
    aggregation: Aggregation = EXACT,
) -> list[dict[str, Any]]:
    """Return one row a size of the bank, up to so many documents; larger ones than the stream hold copies with a little
    noise.

    Keys of a row: documents; measured_documents, those amortized; entries; seconds_adapt (a document);
    peak_bytes_adapt (of amortizing the measured ones); seconds_prepare (once, before the first question); seconds_ask
    (a question, the median of five); peak_bytes_ask (of preparing and asking); bytes_per_document (on disk, of the
    measured ones, their text included; None where the networks score no documents, which no store keeps); aggregation,
    size, beams. Peaks are growth over what was held before, None where the system does not tell.
    """
    sizes = [size for size in SIZES if size <= documents] or [documents]
    return [cost_row(networks, stream, size, asking, aggregation) for size in sizes]


def cost_row(
    networks: BankNetworks, stream: QuestionStream, size: int, asking: Asking, aggregation: Aggregation
) -> dict[str, Any]:
    """Return the costs of a bank of one size."""
    model, device = networks.language_model, networks.language_model.device
    some = stream.documents[:size]
    with Spent(device) as adapting:
        made = bank_of(networks, some)
    bank, seconds = grown(made, size), list[float]()
    questions = [stream.questions[number % len(stream.questions)].text for number in range(1 + ASKED)]
    with Spent(device) as asked:
        ready = AskedBank(networks, bank, aggregation, several=len(questions) > 1)
        prepared = time.perf_counter() - asked.began
        for question in questions:
            began = time.perf_counter()
            modulated, _ = ready.asked([question])
            generate(model, [prompt_ids(model, question)], modulated, LONGEST_ANSWER, asking.beams)
            seconds.append(time.perf_counter() - began)
    return {
        "documents": size,
        "measured_documents": len(some),
        "entries": len(bank.keys),
        "seconds_adapt": adapting.seconds / len(some),
        "peak_bytes_adapt": adapting.bytes,
        "seconds_prepare": prepared,
        "seconds_ask": median(seconds[1:]),
        "peak_bytes_ask": asked.bytes,
        "bytes_per_document": stored_bytes(networks, some, made) / len(some) if made.keys.shape[1] else None,
        **of_aggregation(aggregation),
        "beams": asking.beams,
    }


def grown(bank: Modulations, documents: int) -> Modulations:
    """Return a bank of so many documents: its own, then copies of them with noise, keys of length 1 again."""
    entries, copies = len(bank.keys), -(-documents // bank.documents)
    if copies == 1:
        return bank.select(bank.owner < documents)
    generator = torch.Generator(bank.vectors.device).manual_seed(0)
    # Made at once and filled a copy at a time: the bank is held once, not thrice.
    vectors = bank.vectors.new_empty(copies * entries, *bank.vectors.shape[1:])
    keys = bank.keys.new_empty(copies * entries, bank.keys.shape[1])
    for copy in range(copies):
        rows = slice(copy * entries, (copy + 1) * entries)
        for all_of, first in ((vectors, bank.vectors), (keys, bank.keys)):
            if copy and first.numel():
                noise = torch.randn(first.shape, generator=generator, device=first.device)
                all_of[rows] = first + NOISE * first.std() * noise
            else:
                all_of[rows] = first
        keys[rows] = F.normalize(keys[rows], dim=-1)
    owner = torch.cat([bank.owner + copy * bank.documents for copy in range(copies)])
    last = int((owner < documents).sum())
    ids = [f"{name}-{copy}" if copy else name for copy in range(copies) for name in bank.ids]
    return Modulations(
        vectors[:last], keys[:last], bank.timestamps.repeat(copies)[:last], owner[:last], ids[:documents]
    )


def stored_bytes(networks: BankNetworks, documents: Sequence[Document], bank: Modulations) -> int:
    """Return what a store of these documents takes on disk."""
    settings = networks.aggregator.settings
    facts = Facts(settings.vectors, settings.width, settings.key_width, networks.fingerprint())
    with TemporaryDirectory() as folder:
        with BankStore.create(folder, facts) as store:
            additions = []
            for place, document in enumerate(documents):
                rows = bank.owner == place
                timestamp = bank.timestamps[rows][0].item()
                parts = bank.vectors[rows], bank.keys[rows]
                additions.append(Addition(document.id, document.text, document.time, timestamp, *parts))
            store.add_many(additions)
        return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
