"""Milliseconds of each stage of a piece of work, with computing and waiting apart.

A service reports computing time under the stage's name, and the time that a request waited for the
inference thread under `wait`. Its client records that wait with `note_wait`. The code that calls
the client collects it with `Timings.asking` as `STAGE_wait`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

WAIT = "wait"
_WAIT_OF_STAGE = f"_{WAIT}"


@dataclass
class Spent:
    """A sum of milliseconds."""

    ms: float = 0.0


_waited: ContextVar[Spent | None] = ContextVar("waited", default=None)


def note_wait(ms: float) -> None:
    """Add a wait to the enclosing `Timings.asking` block, if there is one."""
    waited = _waited.get()
    if waited is not None:
        waited.ms += ms


def is_wait(stage: str) -> bool:
    """Return True if the name is that of a stage's waiting time."""
    return stage == WAIT or stage.endswith(_WAIT_OF_STAGE)


class Timings:
    """Times of stages, summed per stage, and the total since creation."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stages: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of the block to `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: (time.perf_counter() - started) * 1000})

    @contextmanager
    def computing(self, stage: str | None = None) -> Iterator[Spent]:
        """Add the block's `Spent` time to `stage`, and the rest of the block's time to `wait`.

        With `stage` None, only the wait is added, because the computing code reports its own
        stages.
        """
        started, own = time.perf_counter(), Spent()
        try:
            yield own
        finally:
            took_ms = (time.perf_counter() - started) * 1000
            own_ms = min(own.ms, took_ms)
            self.add({WAIT: took_ms - own_ms} | ({} if stage is None else {stage: own_ms}))

    @contextmanager
    def asking(self, stage: str) -> Iterator[None]:
        """Add waits recorded in the block to `STAGE_wait`, and the rest of its time to `stage`."""
        started, waited = time.perf_counter(), Spent()
        token = _waited.set(waited)
        try:
            yield
        finally:
            _waited.reset(token)
            took_ms = (time.perf_counter() - started) * 1000
            wait_ms = min(waited.ms, took_ms)
            self.add({stage: took_ms - wait_ms})
            if wait_ms > 0:
                self.add({stage + _WAIT_OF_STAGE: wait_ms})

    def add(self, stages_ms: Mapping[str, float]) -> None:
        """Add times that were measured elsewhere."""
        for stage, took_ms in stages_ms.items():
            self._stages[stage] = self._stages.get(stage, 0.0) + took_ms

    def share(self, wall_ms: float, others: "Sequence[Timings]") -> None:
        """Add `wall_ms`, divided among the stages of `others`, which ran in overlapping threads.

        Time in which any thread computed is not waiting: waits share the remaining time.
        """
        summed = Timings()
        for other in others:
            summed.add(other.stages_ms())
        stages = summed.stages_ms()
        waits = {stage: ms for stage, ms in stages.items() if is_wait(stage) and ms > 0}
        own = {stage: ms for stage, ms in stages.items() if not is_wait(stage)}
        own_ms, waits_ms = sum(own.values()), sum(waits.values())
        shared_ms = min(own_ms, wall_ms) if waits else wall_ms
        if own_ms > 0:
            self.add({stage: shared_ms * ms / own_ms for stage, ms in own.items()})
        if waits:
            self.add({stage: (wall_ms - shared_ms) * ms / waits_ms for stage, ms in waits.items()})

    def stages_ms(self) -> dict[str, float]:
        """Return stage -> milliseconds."""
        return dict(self._stages)

    def as_ms(self) -> dict[str, float]:
        """Return stage -> milliseconds, with the total since creation."""
        total_ms = (time.perf_counter() - self._started) * 1000
        return {stage: round(ms, 2) for stage, ms in {**self._stages, "total": total_ms}.items()}
