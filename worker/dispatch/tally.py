"""Sums of a run's commit records: rows done, boxes, losses, and time by stage."""

from collections import Counter, deque
from dataclasses import dataclass, field

from unspoken.runs.dataset.shards import CommitRecord
from unspoken.timings import is_wait

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
