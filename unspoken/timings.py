"""Milliseconds of each stage of one piece of work."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class Timings:
    """Stages add up; the total runs since it was made."""

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

    def add(self, stages_ms: Mapping[str, float]) -> None:
        """Add times that were taken elsewhere."""
        for stage, took_ms in stages_ms.items():
            self._stages[stage] = self._stages.get(stage, 0.0) + took_ms

    def share(self, wall_ms: float, others: "Sequence[Timings]") -> None:
        """Add `wall_ms`, divided as the times of `others` are: of threads, which overlapped."""
        busy = Timings()
        for other in others:
            busy.add(other.stages_ms())
        busy_ms = sum(busy.stages_ms().values())
        if busy_ms > 0:
            self.add({stage: wall_ms * ms / busy_ms for stage, ms in busy.stages_ms().items()})

    def stages_ms(self) -> dict[str, float]:
        """Stage -> milliseconds."""
        return dict(self._stages)

    def as_ms(self) -> dict[str, float]:
        """Stage -> milliseconds, with the total since the start."""
        total_ms = (time.perf_counter() - self._started) * 1000
        return {stage: round(ms, 2) for stage, ms in {**self._stages, "total": total_ms}.items()}
