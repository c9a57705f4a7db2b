"""Bytes moved by reading, by formula: what its matrix products and its updates read and write.

A product of an M x I by an I x O matrix reads both once and writes the result once, M I + I O + M O numbers; where it
is added to a bias or to an output, that is read as well. A pass so reads every weight once, however many tokens it is
over. Counted are the products that FLOPs are counted of, in the model's dtype; attention as in eager mode, where keys
that several heads share lie there for each of them, and its weights are written and read. Fused attention moves less.

An update moves what its rule reads and writes, each number once; gradients that are accumulated are added up and, at
the step, divided. Left out are elementwise work between products, the guard's copies, and what caches keep from memory.
Windows count as if they were read one at a time: side by side, documents or experts share the reads of the weights. Of
a model in 4 or 8 bit what is counted is its weights as they are multiplied.

Source: Williams et al. 2009, "Roofline: An Insightful Visual Performance Model", where operations are held against
bytes; here each operand counts once, the least that a product can move without fusing it to the next.
"""

from dataclasses import replace
from pathlib import Path

from driftlm.core.errors import DriftError
from driftlm.cost.flops import Formula, formula_by, products_and_steps
from driftlm.cost.products import Cost, Product
from driftlm.memories.base import Memory
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.memories.weights.learning import Learning

# Numbers a parameter: value and gradient read, value written; Adam's moments both ways; RMS's scale read.
STEPS = {"sgd": 3, "adam": 7, "relative": 7, "rms": 4}
ADDED = 3  # two gradients read, their sum written


def formula_of(memory: WeightMemory) -> Formula:
    """Return the bytes that a memory's windows and steps move.

    Raises:
        DriftError: for a model or a setting whose products are unknown.

    Example:
        >>> from driftlm.cost.products import Shape
        >>> formula = formula_of(WeightMemory(learning=Learning(learn="none")))
        >>> formula.score(Shape(512, 512, 512)) // 512  # a token
        288256
    """
    size = memory.language_model.model.dtype.itemsize
    learned = sum(parameter.numel() * parameter.element_size() for parameter in memory.parameters)

    def measure(product: Product) -> tuple[Cost, Cost]:
        forward, backward = numbers(product)
        return forward * size, backward * size

    head = memory.language_model.model.get_output_embeddings().weight
    formula = replace(
        formula_by(memory, measure, learned * step_of(memory.learning) if learned else 0),
        head_sum=head.numel() * size if head.requires_grad else 0,
    )
    if not memory.schedule.accumulates:
        return formula
    # Each window's gradient is added to the ones before, but for the first behind a step: there are as many as steps.
    added = ADDED * learned
    return replace(formula, backward=formula.backward + Cost(once=added), step=formula.step - added)


def numbers(product: Product) -> tuple[Cost, Cost]:
    """Return the numbers that products read and write, forward and backward.

    Example:
        >>> numbers(Product("fed", 3, 5, forward=1, backward=2))[1]
        Cost(fed=16, pair=0, new=0, once=30, attended=0)
    """
    if product.outer:
        one = product.over_rows(product.inner + product.outer) + Cost(once=product.inner * product.outer)
    else:
        one = Cost(fed=product.inner, attended=product.inner, pair=1)
    one *= product.heads
    return (one + product.added) * product.forward, one * product.backward


def step_of(learning: Learning) -> int:
    """Return the numbers that an update reads and writes, for each parameter.

    Example:
        >>> step_of(Learning(rule="sgd", momentum=0.9))
        5
    """
    if learning.rule not in STEPS:
        raise DriftError(f"`Learning.rule` {learning.rule} is another package's, whose bytes are not counted here.")
    momentum = 2 if learning.rule == "sgd" and learning.momentum else 0  # the velocity, both ways
    pull = 2 if learning.rule == "rms" and learning.decay else 0  # the prior and how strongly it pulls
    mean = 2 if learning.cadence == "accumulate" and learning.every > 1 else 0  # the gradient, both ways
    return STEPS[learning.rule] + momentum + pull + mean


def bytes_of(memory: Memory, log: Path) -> int:
    """Return what a run moved, from the windows in its log, as `flops_of`.

    Args:
        memory: as it stands behind the last window.
        log: windows.jsonl of the run, complete.

    Raises:
        DriftError: for a model or a setting whose products are unknown.
    """
    return sum(products_and_steps(memory, log, formula_of))
