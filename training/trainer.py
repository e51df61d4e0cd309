"""Parts that every trainer shares: batches, averaged weights, learning rates, checkpoints."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Batch = TypeVar("Batch")


class MovingAverage:
    """Exponential moving average of parameters by name. With `decay` None it does nothing."""

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


class Trainer:
    """Learned parameters, their moving average, the optimizer and the number of steps so far."""

    def __init__(
        self,
        model: nn.Module,
        learned: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        *,
        ema_decay: float | None,
    ) -> None:
        self.learned = learned
        self.average = MovingAverage(learned, decay=ema_decay)
        self.optimizer = optimizer
        self.num_steps = 0
        self._model = model

    def finish_step(self) -> None:
        """Apply the gradients and update the moving average."""
        self.optimizer.step()
        self.num_steps += 1
        self.average.follow(self.num_steps)

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        return {
            "model": self._model.state_dict(),
            "average": self.average.weights,
            "optimizer": self.optimizer.state_dict(),
            "num_steps": self.num_steps,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._model.load_state_dict(state["model"])
        self.average.load(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_steps = state["num_steps"]


def scale_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to its `base_lr` times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def cosine(progress: float) -> float:
    """Return the cosine decay from 1 to 0 at this share of the training."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def save_checkpoint(content: dict[str, object], path: Path) -> None:
    """Write a temporary file, then rename it, so a killed process leaves the old file intact."""
    beside = path.with_suffix(".part")
    torch.save(content, beside)
    beside.replace(path)


def stream(
    dataset: Dataset[Batch], *, first: int, num_workers: int, every: int = 1
) -> Iterator[Batch]:
    """Yield batches `first`, `first` + `every`, ... in order, prefetched by worker processes."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first, 10**9, every),
        num_workers=num_workers,
        prefetch_factor=6 if num_workers else None,
        multiprocessing_context="fork" if num_workers else None,
        worker_init_fn=_one_thread,
    )
    return iter(loader)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)  # because the training step needs the two cores more
