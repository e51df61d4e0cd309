"""How far a run is, how fast it goes, and where its time goes: sums over its commit records."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from unspoken.runs.shards import CommitRecord
from unspoken.timings import is_wait

# The rate is that of the last five minutes: a pause of an hour must not slow it for a day.
WINDOW_S = 300.0
# Stages are judged by the last commits; what held a run back at first may be mended since.
RECENT_COMMITS = 64
NO_WORKERS = "workers"


@dataclass
class Tally:
    """Sums over the commit records seen."""

    chunks: int = 0
    rows: int = 0
    labelled: int = 0
    annotations: int = 0
    """Kept boxes."""
    dropped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    timings_ms: Counter[str] = field(default_factory=Counter)
    """Stage -> the workers' time, with `total`."""
    _recent: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=RECENT_COMMITS))

    def add(self, record: CommitRecord) -> None:
        """Count one record more."""
        self.chunks += 1
        self.rows += record.num_rows
        self.labelled += record.labelled
        self.annotations += record.annotations
        self.dropped.update(record.dropped)
        self.failed.update(record.failed)
        self.timings_ms.update(record.timings_ms)
        self._recent.append(record.timings_ms)

    @property
    def slowest_stage(self) -> str | None:
        """Return the stage that took most of the workers' time in the last commits.

        Waiting is of no stage: work that others gave to the same service is not this stage's.
        """
        total_ms: Counter[str] = Counter()
        for timings_ms in self._recent:
            total_ms.update(timings_ms)
        own_ms = {s: ms for s, ms in total_ms.items() if s != "total" and not is_wait(s)}
        return max(own_ms, key=lambda stage: own_ms[stage], default=None)


class Rate:
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
