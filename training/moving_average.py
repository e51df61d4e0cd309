"""Exponential moving average of a network's weights, used for evaluation and saved weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Moving average of parameters by name. With `decay` None it does nothing."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, decay: float | None) -> None:
        self._decay = decay
        self._parameters = dict(parameters) if decay is not None else {}
        self.weights = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def follow(self, num_steps: int) -> None:
        """Update after a step. The decay is smaller during the first steps."""
        if self._decay is None:
            return
        decay = min(self._decay, (1 + num_steps) / (10 + num_steps))
        followed: list[Tensor] = [*self._parameters.values()]
        torch._foreach_lerp_(list(self.weights.values()), followed, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Swap the averaged weights into the network for the duration of the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Restore the averaged weights of a checkpoint."""
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(kept)
