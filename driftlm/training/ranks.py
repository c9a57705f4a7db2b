"""Several processes that train one bank: each reads and asks its share, and every question sees every document.

Letters: N rows of all processes together.

`accelerate launch` and `torchrun` start the processes, and accelerate brings them together. What they send each other
is sums alone, which torch has: a wrapper that averages the gradients of separate losses, as accelerate's, would not do,
for the loss of one process's question has gradients in the documents of all others.
"""

import atexit
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

Row = TypeVar("Row")
PATIENCE = timedelta(hours=2)  # while the first process answers held-out questions, the others wait


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together; alone, nothing is sent.

    Attributes:
        number: of this process, from 0.
        count: of all.

    Example:
        >>> Ranks(number=1, count=2).share("abcde")
        ['b', 'd']
        >>> Ranks().gathered(torch.tensor([[7.0], [8.0]]), [1, 0], 2).tolist()
        [[8.0], [7.0]]
    """

    number: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Tell whether this process logs, checks and writes."""
        return self.number == 0

    def share(self, rows: Sequence[Row]) -> list[Row]:
        """Return what this process takes of what all know."""
        return list(rows[self.number :: self.count])

    def summed(self, value: Tensor) -> Tensor:
        """Return the sum over all processes, in each of them.

        The loss is the sum of theirs, so that an addend's gradient is the sum of theirs as well.
        """
        if self.count == 1:
            return value
        result: Tensor = all_reduce(value)
        return result

    def gathered(self, rows: Tensor, places: Sequence[int], count: int) -> Tensor:
        """Return (N, ...): the rows of every process at their places; gradients come back to the process that made a
        row.
        """
        index = torch.tensor(places, device=rows.device)
        return self.summed(rows.new_zeros(count, *rows.shape[1:]).index_copy(0, index, rows))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of all processes' losses, in each of them."""
        for parameter in parameters if self.count > 1 else ():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)


def joined(device: str) -> tuple[Ranks, str]:
    """Join the processes that this one was started with; with the device of this one, `cuda` being one each."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks(), device
    from accelerate import PartialState

    state = PartialState(cpu=not device.startswith("cuda"), timeout=PATIENCE)
    atexit.register(state.destroy_process_group)
    return Ranks(state.process_index, state.num_processes), str(state.device) if device == "cuda" else device
