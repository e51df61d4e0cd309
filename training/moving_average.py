"""The moving average of a network's weights: what is judged and kept, while others learn."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Follows parameters by name; `decay` None follows nothing and stands in for nothing."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, decay: float | None) -> None:
        self._decay = decay
        self._parameters = dict(parameters) if decay is not None else {}
        self.weights = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def follow(self, num_steps: int) -> None:
        """Move after a step; it forgets faster while there is little to remember."""
        if self._decay is None:
            return
        decay = min(self._decay, (1 + num_steps) / (10 + num_steps))
        followed: list[Tensor] = [*self._parameters.values()]
        torch._foreach_lerp_(list(self.weights.values()), followed, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the averaged weights inside the block, and its own again after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from what `weights` was."""
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(kept)
