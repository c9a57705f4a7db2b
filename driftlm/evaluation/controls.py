"""What a gain is made of: static readings from the poorest windows up, each with one thing more, then learning.

apart      windows of S new tokens that see nothing before them
sink       the same behind the document's first tokens, on which attention rests
context    the windows of the reading itself, static: its C − S tokens before the new ones
overlap    of all static windows that cost no more than learning does, those with the fewest nats on this very text
learning   the windows of the reading again, learning

Every step is compared with the one before it, learning also with the static model on the same windows. The windows of
`overlap` are chosen in hindsight, which favours what learning is compared with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.evaluation.answering import bootstrap_interval
from driftlm.memories.loop import Totals, read_stream
from driftlm.memories.settings import MemorySettings
from driftlm.memories.weights.learning import FROZEN, Learning
from driftlm.models.loading import LanguageModel, fitted, refuse_long_context
from driftlm.models.machine import Machine
from driftlm.runs.settings import Stream
from driftlm.runs.tuning import Price, Trial, beginning, formulas, read_with
from driftlm.streams.documents import Document, read_documents
from driftlm.streams.windows import Windows

TOKENS = 4_000  # that `driftlm read` compares on
BLOCK = 128  # tokens that are resampled together: neighbours are alike
APART, SINK, CONTEXT, OVERLAP, LEARNING = STEPS = ("apart", "sink", "context", "overlap", "learning")
SHARES = (2, 3, 4, 6)  # a static stride is this part of its context


def simpler(windows: Windows) -> dict[str, Windows]:
    """Return the windows of the static steps up to those of the reading itself.

    Example:
        >>> [(name, one.context, one.stride) for name, one in simpler(Windows("cached", 64, 16)).items()]
        [('apart', 16, 16), ('sink', 16, 16), ('context', 64, 16)]
    """
    apart = Windows("overlapping", windows.stride, windows.stride, sink=0)
    return {APART: apart, SINK: replace(apart, sink=windows.sink), CONTEXT: windows}


def richer(windows: Windows, shares: Sequence[int] = SHARES) -> list[Windows]:
    """Return static windows that see more before a token than those of a reading, the cheapest of each kind first.

    Example:
        >>> [(one.window, one.context, one.stride) for one in richer(Windows("cached", 64, 32), (2, 3))]
        [('cached', 96, 32), ('overlapping', 64, 32), ('overlapping', 64, 21), ('overlapping', 96, 48), \
('overlapping', 96, 32)]
    """
    longer = windows.context + windows.context // 2
    cached = [replace(windows, context=longer)] if windows.window == "cached" else []
    overlapping = [
        Windows("overlapping", context, max(1, context // share), sink=windows.sink)
        for context in (windows.context, longer)
        for share in shares
    ]
    return cached + overlapping


def described(windows: Windows) -> str:
    """Return windows in words.

    Example:
        >>> described(Windows("cached", 512, 256, sink=0))
        'cached C=512 S=256 sink=0'
    """
    return f"{windows.window} C={windows.context} S={windows.stride} sink={windows.sink}"


@dataclass(frozen=True)
class Reading:
    """A way to read behind all that it read.

    Attributes:
        windows: of it.
        nats: (n,) float64, of each token.
        totals: sums.
        cost: operations a token, by formula.
    """

    windows: Windows
    nats: Tensor
    totals: Totals
    cost: float


def controls(settings: MemorySettings, machine: Machine, stream: Stream) -> list[dict[str, Any]]:
    """Return what each step brings on the first tokens of a stream, as `compared` has it; nothing is kept.

    Raises:
        DriftError: for a memory that is not made of weights alone, or whose operations are unknown.
    """
    if settings.memory != "weights" or settings.sources or settings.learning.rule == "mixture":
        raise DriftError(
            "`Stream.controls` compares weights that learn with static ones, and the memory here is another, a mixture "
            "or has sources; leave one of them out."
        )
    language_model = machine.load()
    limit = min(TOKENS, stream.limit or TOKENS)
    found = read_documents(stream.files, stdin=stream.stdin, piece=stream.piece)
    documents, tokens = beginning(language_model, found, limit)
    return compared(language_model, documents, fitted(language_model, settings.windows), settings.learning, tokens)


def compared(
    language_model: LanguageModel, documents: Sequence[Document], windows: Windows, learning: Learning, tokens: int
) -> list[dict[str, Any]]:
    """Return a row a step, and one of learning against the static model on the same windows.

    Keys of a row: step, windows, nats_per_token, bits_per_byte, flops_per_token (in the middle of a long document),
    brings (nats a token fewer than the step before; None for the first), brings_interval (95 %, over blocks of
    tokens), share (of what all steps bring together; None where that is nothing, and for the last row).
    """
    price = formulas(language_model)
    readings = {
        name: reading(language_model, documents, Trial(one, FROZEN), price(Trial(one, FROZEN)), tokens)
        for name, one in simpler(windows).items()
    }
    learns = Trial(windows, learning)
    learned = reading(language_model, documents, learns, price(learns), tokens)
    others = (
        reading(language_model, documents, Trial(one, FROZEN), price(Trial(one, FROZEN)), tokens)
        for one in affordable(language_model, windows, learned.cost)
    )
    best = min((*readings.values(), *others), key=lambda one: one.totals.nats)
    readings |= {OVERLAP: best, LEARNING: learned}
    whole = readings[APART].totals.nats - learned.totals.nats
    rows, before = [], None
    for name, one in readings.items():
        brought = None if before is None else before.totals.nats - one.totals.nats
        share = brought / whole if brought is not None and whole else None
        rows.append(row(name, one, before) | {"share": share})
        before = one
    return [*rows, row("learning, same windows", learned, readings[CONTEXT]) | {"share": None}]


def affordable(language_model: LanguageModel, windows: Windows, most: float) -> Iterator[Windows]:
    """Yield, of each kind and context of the richer windows, those that cost the most but no more than `most`."""
    price, chosen = formulas(language_model), dict[tuple[str, int], Windows]()
    for one in richer(windows):
        try:
            refuse_long_context(language_model, one)
        except DriftError:
            continue
        if price(Trial(one, FROZEN)).score <= most:
            chosen[one.window, one.context] = one
    yield from chosen.values()


def reading(
    language_model: LanguageModel, documents: Sequence[Document], trial: Trial, price: Price, tokens: int
) -> Reading:
    """Read the documents in one way, on a model that stays as it is."""
    nats, totals = [], Totals()
    for step in read_stream(read_with(trial, language_model), documents, limit=tokens):
        nats.append(step.nats.double().cpu())
        totals = step.totals
    return Reading(trial.windows, torch.cat(nats), totals, price.of(trial.learning))


def row(name: str, one: Reading, before: Reading | None) -> dict[str, Any]:
    """Return what is said of a reading, and what it brings against another of the same tokens."""
    brings, interval = None, None
    if before is not None:
        each = (before.nats - one.nats).tolist()
        blocks = [str(place // BLOCK) for place in range(len(each))]
        brings = sum(each) / len(each)
        interval = list(bootstrap_interval(each, clusters=blocks)) if len(set(blocks)) > 1 else None
    return {
        "step": name,
        "windows": described(one.windows),
        "nats_per_token": one.totals.nats_per_token,
        "bits_per_byte": one.totals.bits_per_byte,
        "flops_per_token": one.cost,
        "brings": brings,
        "brings_interval": interval,
    }
