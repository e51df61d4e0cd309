"""Processes that train one network on shares of the data."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException

from training.data_parallel import Ranks, run_ranks


def average(ranks: Ranks, out: Path) -> None:
    """Average rank 0's gradients (0, 0, 0) and rank 1's (1, 1, 1); one is in rank 1 only."""
    both, one, neither = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    both.grad = torch.full((3,), float(ranks.rank))
    if ranks.rank == 1:
        one.grad = torch.ones(3)
    ranks.average_gradients([both, one, neither])
    assert neither.grad is None, "no rank has a gradient"
    torch.save(
        {"both": both.grad, "one": one.grad, "progress": ranks.of_first(0.25 + ranks.rank)},
        out / f"{ranks.rank}.pt",
    )


def fail_in_rank_1(ranks: Ranks) -> None:
    """Raise an error in one process, while the other waits."""
    if ranks.rank == 1:
        raise ValueError("no picture at /data/7.jpg")
    ranks.barrier()


def test_processes_average_their_gradients_and_follow_the_first_clock(tmp_path: Path) -> None:
    run_ranks(average, tmp_path, count=2)
    for rank in range(2):
        seen = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert seen["both"].tolist() == seen["one"].tolist() == [0.5, 0.5, 0.5]
        assert seen["progress"] == 0.25


def test_an_error_in_one_process_ends_all_and_is_raised() -> None:
    with pytest.raises(ProcessRaisedException, match=r"/data/7\.jpg"):
        run_ranks(fail_in_rank_1, count=2)


def test_one_process_needs_no_group() -> None:
    seen: list[Ranks] = []
    run_ranks(seen.append, count=1)
    assert seen == [Ranks(rank=0, count=1)]
