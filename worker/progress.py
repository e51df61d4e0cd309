"""How far a run is, how fast it goes, and where its time goes: told from its commit records."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from unspoken.runs.shards import CommitRecord

# The rate is that of the last five minutes: a pause of an hour must not slow it for a day.
WINDOW_S = 300.0
# Stages are judged by the last commits; what held a run back at first may be mended since.
RECENT_COMMITS = 64
NO_WORKERS = "workers"


class Pace:
    """Rows a second by the caller's own clock, over the last minutes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()
        self._moved = False

    def note(self, done: int) -> None:
        """Say how many rows are done now; the first call says where counting starts."""
        now_s = self._clock()
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # a shard was found spoilt and is done again
        if not self._seen or done != self._seen[-1][1]:
            self._moved = bool(self._seen)
            self._seen.append((now_s, done))
        # The last one before the window stays: the window's rows are counted from it.
        while len(self._seen) > 1 and self._seen[1][0] <= now_s - WINDOW_S:
            self._seen.popleft()

    def rows_per_s(self) -> float | None:
        """None until rows were done since counting started, 0 where none were for long."""
        if len(self._seen) < 2:
            return 0.0 if self._moved else None
        (first_s, before), (_, done) = self._seen[0], self._seen[-1]
        elapsed_s = self._clock() - first_s
        return (done - before) / elapsed_s if elapsed_s > 0 else None


def count_records(records: Iterable[CommitRecord]) -> dict[str, Any]:
    """The fields of a RunStatus that follow from commit records alone."""
    done = labelled = chunks_done = 0
    dropped: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    timings_ms: Counter[str] = Counter()
    for record in records:
        chunks_done += 1
        done += record.num_rows
        labelled += record.labelled
        dropped.update(record.dropped)
        failed.update(record.failed)
        timings_ms.update(record.timings_ms)
    return {
        "done": done,
        "labelled": labelled,
        "chunks_done": chunks_done,
        "dropped": dict(dropped),
        "failed": dict(failed),
        "timings_ms": {stage: round(ms, 1) for stage, ms in timings_ms.items()},
    }


def slowest_stage(records: Sequence[CommitRecord]) -> str | None:
    """The stage that took most of the workers' time in the last commits."""
    total_ms: Counter[str] = Counter()
    for record in records[-RECENT_COMMITS:]:
        total_ms.update(stages_of(record.timings_ms))
    return max(total_ms, key=lambda stage: total_ms[stage], default=None)


def stages_of(timings_ms: Mapping[str, float]) -> dict[str, float]:
    """The stages without their total."""
    return {stage: ms for stage, ms in timings_ms.items() if stage != "total"}
