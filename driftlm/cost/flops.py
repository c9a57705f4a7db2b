"""Floating-point operations of reading, by formula: what a window costs is read off its shape.

A linear map of I inputs and O outputs takes 2 I O operations a token forward, 2 I O for the gradient of its weight
where that learns, and 2 I O for that of its input where something below it learns. Attention whose heads are W wide
together takes 4 W forward for each pair of a token fed and a position attended to, and up to 8 W backward. Pairs that
a mask (a sliding window is one) hides are multiplied like the others. Elementwise work is left out, but for the rule's
step; so are the guard's own looks at the prior, and the static model that a run is compared with. The sink of cached
windows is passed anew when weights have changed; experts that share their passes are counted as if each did so alone.

Letters: T tokens fed, K positions attended to (the T and those in the cache), S new tokens.
Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", sec. 2.1; here with attention in full and the
backward pass through the trainable part alone.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from driftlm.core.errors import DriftError
from driftlm.cost.products import Cost, Product, Shape, products_of
from driftlm.memories.base import Memory
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.memories.weights.learning import Learning
from driftlm.models.head import KEPT_LOGITS
from driftlm.streams.windows import Windows

# Operations a parameter: Adam's are lerp 3, v 1 + 3, square root, two divisions, epsilon, division and sum.
STEPS = {"sgd": 2, "adam": 13, "relative": 13, "rms": 3}
Measure = Callable[[Product], tuple[Cost, Cost]]  # what products cost forward and backward


def full_shape(windows: Windows) -> Shape:
    """Return the shape of a window in the middle of a long document: all its new tokens are there, and all its context.

    Example:
        >>> full_shape(Windows("cached", context=512, stride=128))
        Shape(fed=128, attended=513, new=128)
    """
    fed = windows.stride if windows.window == "cached" else windows.longest
    return Shape(fed, windows.longest, windows.stride)


@dataclass(frozen=True)
class Formula:
    """What a memory's windows and steps cost, in operations or in bytes.

    Attributes:
        forward: of every window, without the head.
        backward: of a window that is learned from, without the head.
        head_forward: of the head, in one part.
        head_backward: of its backward pass.
        step: elementwise, of an update.
        kept: new tokens that the head takes at a time.
        again: whether of more it makes its products once more for the backward pass.
        head_sum: of adding a further part's gradient of the head to those before.
    """

    forward: Cost
    backward: Cost
    head_forward: Cost
    head_backward: Cost
    step: int
    kept: int
    again: bool
    head_sum: int = 0

    def score(self, shape: Shape) -> int:
        """Return matrix products and attention of a window's forward pass."""
        return self.forward.of(shape) + self.head_forward.of(shape, self.parts(shape))

    def sink(self, tokens: int) -> int:
        """Return the products of a pass over the sink of cached windows, by weights that have changed."""
        return self.forward.of(Shape(tokens, tokens, 0)) if tokens else 0

    def learn(self, shape: Shape) -> int:
        """Return the operations of a window's backward pass, where it is learned from."""
        parts = self.parts(shape)
        again = self.head_forward.of(shape, parts) if parts > 1 and self.again else 0
        return self.backward.of(shape) + self.head_backward.of(shape, parts) + again + (parts - 1) * self.head_sum

    def parts(self, shape: Shape) -> int:
        """Return in how many parts the head takes the new tokens."""
        return -(-shape.new // self.kept)


@dataclass(frozen=True)
class Flops:
    """Operations of a run.

    Attributes:
        products: matrix products and attention.
        steps: elementwise, of the rule's updates.
    """

    products: int
    steps: int

    @property
    def total(self) -> int:
        """Return the sum of both."""
        return self.products + self.steps


def formula_of(memory: WeightMemory) -> Formula:
    """Walk a memory's model once.

    Raises:
        DriftError: for a model or a setting whose operations are unknown.

    Example:
        >>> from driftlm import Learning
        >>> formula = formula_of(WeightMemory(learning=Learning(learn="none")))
        >>> formula.score(Shape(512, 512, 512)) // 512  # a token
        13500416
    """
    learned = sum(parameter.numel() for parameter in memory.parameters)
    return formula_by(memory, operations, learned * step_of(memory.learning) if learned else 0)


def formula_by(memory: WeightMemory, measure: Measure, step: int) -> Formula:
    """Return what a memory's windows cost by any measure of its products; `step` is what an update does.

    Raises:
        DriftError: for a model or a setting whose products are unknown.
    """
    if memory.learning.salience == "camels":
        raise DriftError(
            "`Learning.salience` camels reads with a network of its own, whose operations are not counted here."
        )
    body, head = [Cost(), Cost()], [Cost(), Cost()]
    for product in products_of(memory):
        part = head if product.rows == "new" else body
        for way, cost in enumerate(measure(product)):
            part[way] += cost
    weight = memory.language_model.model.get_output_embeddings().weight
    kept = max(1, KEPT_LOGITS // len(weight)) if memory.scorer.plain_head else 1 << 62
    again = weight.requires_grad and not memory.scorer.alike
    return Formula(body[0], body[1], head[0], head[1], step, kept, again)


def operations(product: Product) -> tuple[Cost, Cost]:
    """Return the operations of products, forward and backward.

    Example:
        >>> operations(Product("fed", 3, 5, forward=1, backward=2))[1].fed
        60
    """
    inner = 2 * product.heads * product.inner
    one = product.over_rows(inner * product.outer) if product.outer else Cost(pair=inner)
    return one * product.forward, one * product.backward


def step_of(learning: Learning) -> int:
    """Return elementwise operations of an update, for each parameter.

    Example:
        >>> step_of(Learning(rule="sgd", momentum=0.9))
        4
    """
    if learning.rule not in STEPS:
        raise DriftError(
            f"`Learning.rule` {learning.rule} is another package's, whose operations are not counted here."
        )
    momentum = 2 if learning.rule == "sgd" and learning.momentum else 0
    pull = 3 if learning.rule == "rms" and learning.decay else 0
    mean = 1 if learning.cadence == "accumulate" and learning.every > 1 else 0
    return STEPS[learning.rule] + momentum + pull + mean


# ---- a run ----------------------------------------------------------------------------------------------------------


def flops_of(memory: Memory, log: Path) -> Flops:
    """Return what a run took, from the windows in its log; not the static model it was compared with.

    Learned from is a window behind which the updates rose; with `accumulate`, one where the guard did not step in.
    Experts of a mixture are alike but for rule and rate, and one that went back counts as if it had kept its cache.

    Args:
        memory: as it stands behind the last window.
        log: windows.jsonl of the run, complete.

    Raises:
        DriftError: for a model or a setting whose operations are unknown.
    """
    return Flops(*products_and_steps(memory, log, formula_of))


def products_and_steps(memory: Memory, log: Path, formula_of: Callable[[WeightMemory], Formula]) -> tuple[int, int]:
    """Return what the passes over the windows of a log took, and what the updates did, by any formula."""
    readers = memory.readers()
    formulas = [formula_of(one) for one in readers]
    still = [not one.parameters for one in readers]
    products = 0
    for read, count in Counter(shapes_read(readers, memory.counts.updates, log)).items():
        for formula, stays in zip(formulas, still, strict=True):
            products += count * (formula.score(read.shape) + formula.sink(read.still if stays else read.changed))
        products += count * read.learned * formulas[-1].learn(read.shape)
    steps = sum(formula.step * one.counts.updates for formula, one in zip(formulas, readers, strict=True))
    return products, steps


@dataclass(frozen=True)
class Read:
    """What was done with a window.

    Attributes:
        shape: its passes.
        still: tokens of the sink in a pass of their own, by each reader that never learns.
        changed: the same, by each that does.
        learned: how many of the readers learned from it.
    """

    shape: Shape
    still: int
    changed: int
    learned: int


def shapes_read(readers: Sequence[WeightMemory], updates: int, log: Path) -> Iterator[Read]:
    """Yield what the readers did with every window of a log.

    Args:
        readers: of the same windows.
        updates: of all of them, behind the last window.
        log: windows.jsonl.
    """
    grid, learning = readers[-1].windows, readers[-1].learning
    learners = sum(bool(one.parameters) for one in readers)
    held, waiting, done = 0, None, 0  # positions in the cache; the window whose updates the next line tells
    still, changed = None, None  # whose sinks the readers hold
    with log.open("rb") as file:
        for line in map(json.loads, file):
            if waiting is not None:
                yield replace(waiting, learned=line["updates"] - done) if learning.cadence == "skip" else waiting
            if line["updates"] > done or (learning.reset == "document" and not line["index"]):
                changed = None
            new, before, done = line["tokens"], line["position"] - 1, line["updates"]
            passed = [0, 0]
            guarded = {event["message"].partition(": ")[0] for event in line["events"]}  # an expert's name
            if grid.window == "cached":
                held = held if line["index"] else 0
                sink = min(grid.sink, before - held)
                shape = Shape(new, sink + held + new, new)
                if sink:
                    own = sink, line["document"] if sink > 1 else ""  # the first token is that of every document
                    passed = [sink * (still != own), sink * (changed != own)]
                    still, changed = own, own
                went_back = len(readers) == 1 and any(event["kind"] == "rollback" for event in line["events"])
                held = 0 if went_back else min(held + new, grid.kept)
                changed = None if went_back else changed
            else:
                start = max(0, before + grid.stride - grid.context)
                fed = before + new - start + min(grid.sink, start)
                shape = Shape(fed, fed, new)
            waiting = Read(shape, passed[0], passed[1], max(0, learners - len(guarded)))
    if waiting is not None:
        yield replace(waiting, learned=updates - done) if learning.cadence == "skip" else waiting
