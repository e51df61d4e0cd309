"""Progress of a run from its commit records: rows done, rows per second, time by stage."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from unspoken.runs.dataset.shards import CommitRecord
from unspoken.timings import is_wait

# The rate covers the last five minutes, so that an hour's pause does not lower it for a day.
WINDOW_S = 300.0
# The slowest stage is that of the last commits, because an earlier bottleneck may be gone.
RECENT_COMMITS = 64
NO_WORKERS = "workers"


@dataclass
class Tally:
    """Sums over the commit records read so far."""

    chunks: int = 0
    rows: int = 0
    labelled: int = 0
    annotations: int = 0
    """Number of kept boxes."""
    dropped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    timings_ms: Counter[str] = field(default_factory=Counter)
    """Stage -> workers' time; also contains `total`."""
    _recent: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=RECENT_COMMITS))

    def add(self, record: CommitRecord) -> None:
        """Add one record."""
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
        """The stage that took most of the workers' time in the last commits; None without any.

        Waiting for a service is not counted, because it is caused by other work on that service.
        """
        total_ms: Counter[str] = Counter()
        for timings_ms in self._recent:
            total_ms.update(timings_ms)
        own_ms = {s: ms for s, ms in total_ms.items() if s != "total" and not is_wait(s)}
        return max(own_ms, key=lambda stage: own_ms[stage], default=None)


class Rate:
    """Rows per second over the last minutes, by the caller's clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()
        self._moved = False

    def note(self, done: int) -> None:
        """Record the number of rows done now; the first call sets the start of counting."""
        now_s = self._clock()
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # a damaged shard was found and is being done again
        if not self._seen or done != self._seen[-1][1]:
            self._moved = bool(self._seen)
            self._seen.append((now_s, done))
        # Keep the last entry before the window, because the window's rows are counted from it.
        while len(self._seen) > 1 and self._seen[1][0] <= now_s - WINDOW_S:
            self._seen.popleft()

    def rows_per_s(self) -> float | None:
        """Return the rate; None until the first rows are done, 0 if the last were long ago."""
        if len(self._seen) < 2:
            return 0.0 if self._moved else None
        (first_s, before), (_, done) = self._seen[0], self._seen[-1]
        elapsed_s = self._clock() - first_s
        return (done - before) / elapsed_s if elapsed_s > 0 else None
