"""Gradients of several processes on one machine, averaged in shared memory.

A small network's step consists of thousands of small operations, too small to split between two
threads. Two processes with one thread each do twice the work. All processes apply the same update
and use rank 0's progress, so their weights stay equal.
"""

from collections.abc import Iterable
from multiprocessing.synchronize import Barrier

import torch
from torch import Tensor, nn


class GradientExchange:
    """Gradient averaging in one process; `barrier` is None if it is the only one."""

    def __init__(self, shared: Tensor, barrier: Barrier | None, *, rank: int) -> None:
        self.shared = shared  # (processes, at least parameters + 1): last column is progress
        self.barrier = barrier
        self.rank = rank

    def average(self, parameters: Iterable[nn.Parameter], *, progress: float) -> float:
        """Replace gradients by their mean over processes; return rank 0's progress."""
        if self.barrier is None:
            return progress
        parameters = list(parameters)
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        mine = self.shared[self.rank]
        flat = torch.cat([each.flatten() for each in gradients])
        mine[: len(flat)] = flat
        mine[-1] = progress
        self.barrier.wait()
        mean = self.shared.mean(0)
        agreed = float(self.shared[0, -1])
        self.barrier.wait()  # all processes must have read before one writes again
        start = 0
        for gradient in gradients:
            gradient.copy_(mean[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        return agreed
