"""Data-parallel training: one process, several that `run_ranks` starts, or many under `torchrun`.

Gradients are averaged after the backward pass. The contrastive loss gathers rows of all ranks,
with gradients. Therefore many ranks on shares of a batch compute the same update as one process on
the whole batch.

Several processes also pay on one CPU: a step of a small network consists of thousands of operations
that are too small to be split between threads.
"""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process's rank among `count` processes."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """True for the process that writes files and logs."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients over ranks in place; where some ranks have none, it counts as zero.

        A parameter without a gradient in any rank stays without, so the optimizer skips it.
        """
        if self.count == 1:
            return
        learned = [each for each in parameters if each.requires_grad]
        gradients = [
            each.grad if each.grad is not None else torch.zeros_like(each) for each in learned
        ]
        has_gradient = gradients[0].new_tensor([each.grad is not None for each in learned])
        flat = torch.cat([each.flatten() for each in [*gradients, has_gradient]])
        dist.all_reduce(flat)
        flat /= self.count
        parts = torch.split(flat, [*(each.numel() for each in gradients), len(learned)])
        for parameter, mean, share in zip(learned, parts, parts[-1].tolist(), strict=False):
            if share > 0:
                parameter.grad = mean.view_as(parameter).clone()

    def of_first(self, value: float) -> float:
        """Return rank 0's value in all ranks."""
        return self.gather_objects(value)[0]

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks in order, with gradients: (N_r, ...) of each -> (N, ...)."""
        if self.count == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self.gather_objects(len(rows)), self.rank)
        return gathered

    def gather_objects(self, item: Item) -> list[Item]:
        """Return the items of all ranks, in order."""
        if self.count == 1:
            return [item]
        items: list[Item] = [item] * self.count
        dist.all_gather_object(items, item)
        return items

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.count > 1:
            dist.barrier()


ONE_PROCESS = Ranks()


class _Gather(torch.autograd.Function):
    """Concatenates the rows of all ranks; backward sums each row's gradients over ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], rank: int) -> Tensor:
        """(N_r, ...) -> (N, ...)."""
        ctx.own = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """(N, ...) -> (N_r, ...)."""
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed[ctx.own], None, None


def run_ranks(work: Callable[..., None], *arguments: Any, count: int) -> None:
    """Call `work(ranks, *arguments)` in `count` processes on this machine's CPU, or in this one.

    If one process fails, the others are ended and its error is raised.
    """
    if count == 1:
        work(ONE_PROCESS, *arguments)
        return
    with tempfile.TemporaryDirectory(prefix="unspoken-ranks-") as folder:
        meeting = f"file://{folder}/meeting"
        spawn(_work_as_rank, args=(work, count, meeting, arguments), nprocs=count)  # type: ignore[no-untyped-call]


def _work_as_rank(
    rank: int, work: Callable[..., None], count: int, meeting: str, arguments: tuple[Any, ...]
) -> None:
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    try:
        work(Ranks(rank, count), *arguments)
        dist.barrier()  # because a rank that ends early breaks the others' connections
    finally:
        dist.destroy_process_group()


def join_ranks() -> Ranks:
    """Join torchrun's process group: NCCL with CUDA, else gloo. Without torchrun, one process."""
    if not dist.is_torchelastic_launched():
        return Ranks()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())
