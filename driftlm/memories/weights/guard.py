"""Divergence: detect it and go back. A score stands once made: nothing here changes what the stream has seen."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from driftlm.memories.weights.rules import Rule


class Guard:
    """Goes back to the last state that scored a window well when two successive windows are bad.

    A window is bad when a logit is not finite, or when its mean is above ln V + 1 nats (a model that knows nothing has
    ln V) and more than 1 nat above the prior's: text that is hard for the prior too is no divergence. After the second,
    the parameters and the rule's state that scored the last good window come back for the *next* window, and the
    learning rate is halved. The state just before the two bad windows would not do: it is the one that scored the
    first of them badly.
    """

    def __init__(self, parameters: Sequence[Parameter], rule: Rule, prior: Sequence[Tensor], vocabulary: int) -> None:
        self.parameters, self.rule = parameters, rule
        self.threshold = math.log(vocabulary) + 1
        self.bad_in_a_row = 0
        self.unchanged = True  # no update since the last good window
        self.good = list(prior)
        self.good_rule: dict[str, Tensor] = {}

    def is_bad(self, nats: Tensor, finite: Tensor, prior_nats: Callable[[], Tensor]) -> bool:
        """Whether adapted scores (S,) show divergence; the prior's are only asked for where they decide."""
        if not bool(finite.all()):
            return True
        mean = nats.mean().item()
        return not mean <= self.threshold and not mean <= prior_nats().mean().item() + 1

    def would_go_back(self, bad: bool) -> bool:
        """Whether a window that is `bad` or not completes a pair of bad ones."""
        return bad and self.bad_in_a_row == 1

    def saw(self, bad: bool) -> bool:
        """Take note of a window before it is learned from; go back after a second bad one, and say so."""
        if self.would_go_back(bad):
            self.go_back()
            return True
        self.bad_in_a_row = int(bad)
        self.unchanged = self.unchanged or not bad
        return False

    def keep(self, step: Callable[[], list[Tensor]]) -> None:
        """Take an update; what it replaces is kept if that scored its window well."""
        if not self.unchanged:
            step()
            return
        rule_before = {key: value.clone() for key, value in self.rule.state().items()}
        self.good, self.good_rule = step(), rule_before
        self.unchanged = False

    def go_back(self) -> None:
        """Put the last good state in force and halve the rate."""
        if not self.unchanged:
            for parameter, value in zip(self.parameters, self.good, strict=True):
                parameter.data = value.clone()
            self.rule.restore(self.good_rule)
        self.unchanged = True
        self.bad_in_a_row = 0
        self.rule.learning_rate /= 2

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and values to go on from."""
        tensors: dict[str, Tensor] = {}
        if not self.unchanged:
            tensors |= {f"good/{i}": value for i, value in enumerate(self.good)}
            tensors |= {f"rule/{key}": value for key, value in self.good_rule.items()}
        return tensors, {"bad_in_a_row": self.bad_in_a_row, "unchanged": self.unchanged}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from a `state`; the tensors become the guard's own."""
        self.bad_in_a_row, self.unchanged = values["bad_in_a_row"], values["unchanged"]
        if not self.unchanged:
            self.good = [tensors[f"good/{i}"] for i in range(len(self.parameters))]
            rule = {key: value for key, value in tensors.items() if key.startswith("rule/")}
            self.good_rule = {key.removeprefix("rule/"): value for key, value in rule.items()}
