"""Progress of long work. The code that does the work reports it, and its caller shows it.

    with progress.stage("writing pictures", total=len(rows)) as stage:
        for row in counted(rows, stage):
            write(row)

A function with long work takes `progress: Progress = NO_PROGRESS`. It does not know if a bar, lines
or nothing is shown.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Stage(Protocol):
    """One stage of the work in progress."""

    def advance(self, count: float = 1, *, note: str | None = None) -> None:
        """Count finished items; a negative count takes items back whose work was lost.

        note: figures shown beside the count, such as the loss. None keeps the last note.
        """


class Progress(Protocol):
    """Receives the progress of some work, stage by stage."""

    def stage(
        self, what: str, *, total: int | None = None, unit: str = "pictures", done: int = 0
    ) -> AbstractContextManager[Stage]:
        """Return a context manager of one stage, which ends with the block.

        what: the work, such as 'writing pictures'. total: number of items; None if it is unknown.
        unit: plural noun of the items; 'bytes' and 's' are shown as sizes and durations. done:
        items finished by an earlier process.
        """


class _NoProgress:
    """Shows nothing."""

    @contextmanager
    def stage(
        self, what: str, *, total: int | None = None, unit: str = "pictures", done: int = 0
    ) -> Iterator[Stage]:
        """See Progress."""
        yield self

    def advance(self, count: float = 1, *, note: str | None = None) -> None:
        """See Stage."""


def counted(items: Iterable[Item], stage: Stage) -> Iterator[Item]:
    """Yield items, and count each one once the caller asks for the next."""
    for item in items:
        yield item
        stage.advance()


NO_PROGRESS: Progress = _NoProgress()


class Rate:
    """Items per second over the last `window_s`, by the caller's clock."""

    def __init__(self, clock: Callable[[], float], *, window_s: float) -> None:
        self._clock = clock
        self._window_s = window_s
        self._seen: deque[tuple[float, float]] = deque()
        self._moved = False

    def note(self, done: float) -> None:
        """Record the number of items done now; the first call sets the start of counting."""
        now_s = self._clock()
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # finished work was lost and is being done again
        if not self._seen or done != self._seen[-1][1]:
            self._moved = bool(self._seen)
            self._seen.append((now_s, done))
        # Keep the last entry before the window, because the window's items are counted from it.
        while len(self._seen) > 1 and self._seen[1][0] <= now_s - self._window_s:
            self._seen.popleft()

    def per_s(self) -> float | None:
        """Return the rate; None until the first items are done, 0 if the last were long ago."""
        if len(self._seen) < 2:
            return 0.0 if self._moved else None
        (first_s, before), (_, done) = self._seen[0], self._seen[-1]
        elapsed_s = self._clock() - first_s
        return (done - before) / elapsed_s if elapsed_s > 0 else None
