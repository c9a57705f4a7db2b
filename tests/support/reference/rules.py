"""Update rules of the independent reference, by formula; `step` changes the parameters in place."""

import math
from typing import Protocol

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Rule(Protocol):
    """One way to step against a gradient."""

    def step(self, parameters: Tensors, gradients: Tensors) -> None:
        """Change the parameters in place."""


class Sgd:
    """b <- momentum * b + g; theta <- theta - lr * b."""

    def __init__(self, lr: float, momentum: float = 0.0) -> None:
        self.lr, self.momentum = lr, momentum
        self.buffers: Tensors = {}

    @torch.no_grad()
    def step(self, parameters: Tensors, gradients: Tensors) -> None:
        """Change the parameters in place."""
        for name, parameter in parameters.items():
            before = self.buffers.get(name, torch.zeros_like(parameter))
            self.buffers[name] = self.momentum * before + gradients[name]
            parameter.copy_(parameter - self.lr * self.buffers[name])


class Adam:
    """Adam with bias correction, betas 0.9 and 0.999, no weight decay."""

    def __init__(self, lr: float, epsilon: float = 1e-8) -> None:
        self.lr, self.epsilon, self.steps = lr, epsilon, 0
        self.first: Tensors = {}
        self.second: Tensors = {}

    @torch.no_grad()
    def step(self, parameters: Tensors, gradients: Tensors) -> None:
        """Change the parameters in place."""
        self.steps += 1
        for name, parameter in parameters.items():
            gradient, zeros = gradients[name], torch.zeros_like(parameter)
            self.first[name] = 0.9 * self.first.get(name, zeros) + 0.1 * gradient
            self.second[name] = 0.999 * self.second.get(name, zeros) + 0.001 * gradient * gradient
            mean = self.first[name] / (1 - 0.9**self.steps)
            square = self.second[name] / (1 - 0.999**self.steps)
            parameter.copy_(parameter - self.lr * mean / (torch.sqrt(square) + self.epsilon))


class Rms:
    """theta <- theta + decay * min(R, 1/decay) * (theta0 - theta) - lr * g / (RMS + epsilon).

    R = RMS / (unweighted mean, over the tensors of `statistics`, of each tensor's mean RMS).
    """

    def __init__(self, lr: float, decay: float, epsilon: float, statistics: Tensors, prior: Tensors) -> None:
        self.lr, self.decay, self.epsilon = lr, decay, epsilon
        self.statistics = statistics
        self.prior = {name: tensor.detach().clone() for name, tensor in prior.items()}
        means = [float(tensor.double().mean()) for tensor in statistics.values()]
        self.scale = sum(means) / len(means)

    @torch.no_grad()
    def step(self, parameters: Tensors, gradients: Tensors) -> None:
        """Change the parameters in place."""
        for name, parameter in parameters.items():
            rms = self.statistics[name]
            ratio = rms / self.scale
            bound = 1 / self.decay if self.decay > 0 else math.inf
            pull = self.decay * torch.minimum(ratio, torch.full_like(ratio, bound)) * (self.prior[name] - parameter)
            parameter.copy_(parameter + pull - self.lr * gradients[name] / (rms + self.epsilon))
