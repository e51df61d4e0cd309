"""Gradients of several processes on one machine, averaged in shared memory.

A small network's step is thousands of small operations, which two threads cannot share; two
processes of one thread each do twice the work. They all apply the same update and follow the first
one's clock, so their weights stay equal.
"""

from collections.abc import Iterable
from multiprocessing.synchronize import Barrier

import torch
from torch import Tensor, nn


class GradientExchange:
    """One process's end; `barrier` is None where there is only one."""

    def __init__(self, shared: Tensor, barrier: Barrier | None, *, rank: int) -> None:
        self.shared = shared  # (processes, at least parameters + 1): the last column is the clock
        self.barrier = barrier
        self.rank = rank

    def average(self, parameters: Iterable[nn.Parameter], *, progress: float) -> float:
        """Replace gradients by their mean over processes; returns the first one's progress."""
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
        self.barrier.wait()  # nobody writes before all have read
        start = 0
        for gradient in gradients:
            gradient.copy_(mean[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        return agreed
