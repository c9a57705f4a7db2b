"""The state that the guard goes back to."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Numbers = Mapping[str, Tensor]  # all that a step changes, by name


class LastGood:
    """A copy of all that a step changes, from when it last scored a window well; its storage is made once.

    Where rows learn side by side every tensor has a leading row axis, and some rows can be kept or brought back alone.

    Example:
        >>> numbers, good = {"a": torch.ones(2)}, LastGood()
        >>> good.keep(numbers)
        >>> _ = numbers["a"].add_(1)
        >>> good.bring_back(numbers)
        >>> numbers["a"]
        tensor([1., 1.])
    """

    def __init__(self) -> None:
        self.copies: dict[str, Tensor] = {}

    def keep(self, numbers: Numbers, rows: Sequence[int] | None = None) -> None:
        """Copy the numbers as they stand; of some rows, where these are named."""
        if not self.copies:
            self.copies = {name: one.clone() for name, one in numbers.items()}
        elif rows is None:
            torch._foreach_copy_(list(self.copies.values()), [numbers[name] for name in self.copies])
        else:
            for name, one in numbers.items():
                self.copies[name][list(rows)] = one[list(rows)]

    def bring_back(self, numbers: Numbers, rows: Sequence[int] | None = None) -> None:
        """Write the copy over the numbers; over some rows, where these are named."""
        for name, one in numbers.items():
            if rows is None:
                one.copy_(self.copies[name])
            else:
                one[list(rows)] = self.copies[name][list(rows)]

    def select(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows alone."""
        self.copies = {name: one[list(rows)] for name, one in self.copies.items()}

    def restore(self, copies: Numbers, numbers: Numbers) -> None:
        """Go on with copies that were kept before; a rule that had taken no step then has none, and starts from zero.

        Raises:
            KeyError: for a parameter without a copy.
        """
        rule = any(name.startswith("rule/") for name in copies)
        self.copies = {
            name: copies[name].clone() if rule or not name.startswith("rule/") else torch.zeros_like(one)
            for name, one in numbers.items()
        }
