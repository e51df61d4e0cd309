"""The dispatcher's view of one run: a cache of the state on disk that is cheap to update.

The folders are listed once, at the first look. After that only chunks that may have changed are
read: those with a lease, and those for which a message was published.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

from unspoken.errors import PlanDamaged
from unspoken.progress import Rate
from unspoken.runs.attempts import PastAttempts
from unspoken.runs.dataset.false_discovery import Decision
from unspoken.runs.ledger import Ledger
from unspoken.runs.notice import HINTS, describe_loss, main_loss
from unspoken.runs.plan import Plan
from unspoken.runs.store import Run
from unspoken.runs.worker_error import WorkerErrorRecord, read_worker_error
from unspoken.wire.runs import RunPhase, RunStatus
from worker.dispatch.background_call import BackgroundCall
from worker.dispatch.circuit_breaker import CircuitBreaker
from worker.dispatch.tally import NO_WORKERS, Tally

READS_PER_TICK = 2000
"""Largest number of published chunks that are checked in one tick, oldest message first."""
# The rate covers the last five minutes, so that an hour's pause does not lower it for a day.
RATE_WINDOW_S = 300.0
MIN_COMMITS, WINDOW_COMMITS = 4, 64
SHORTEST_CHUNK_S = 0.05


@dataclass
class Pace:
    """Average seconds of worker time per chunk: recent lease time divided by recent commits."""

    busy_s: float = 0.0
    commits: float = 0.0
    _last_s: float | None = None

    def note(self, now_s: float, *, num_busy: int, num_commits: int) -> None:
        """Record the leased chunks now, and the commits since the last call."""
        self.busy_s += num_busy * (now_s - self._last_s if self._last_s is not None else 0.0)
        self.commits += num_commits
        self._last_s = now_s
        if self.commits > WINDOW_COMMITS:
            self.busy_s, self.commits = self.busy_s / 2, self.commits / 2

    @property
    def chunk_s(self) -> float | None:
        """Average seconds per chunk; None until MIN_COMMITS chunks are committed."""
        if self.commits < MIN_COMMITS:
            return None
        return max(SHORTEST_CHUNK_S, self.busy_s / self.commits)


class RunState:
    """State of one run, updated by `look`."""

    def __init__(self, run: Run, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.run, self.ledger = run, ledger
        self.breaker = CircuitBreaker(clock)
        self.plan: Plan | None = None
        self.plan_is_damaged = False
        """True if a worker has just found the plan damaged."""
        self.planning: BackgroundCall[Plan] | None = None
        self.search: BackgroundCall[dict[str, str]] | None = None
        """A search of the source for a table of captions."""
        self.finishing: BackgroundCall[bool] | None = None
        self.decision: Decision | None = None
        self.message = ""
        self.hints: dict[str, str] = dict(HINTS)
        """Reason -> advice to the user. Advice for this run's source replaces the general one."""
        self.searched_source = False
        self.verified = False
        self.attempts = 0
        self.num_in_work = 0
        """Number of rows that are done in chunks without a commit record."""
        self.leased: frozenset[int] = frozenset()
        self.pace = Pace()
        self.rate = Rate(clock, window_s=RATE_WINDOW_S)
        self._moved_s = clock()
        self._clock = clock
        self._worker_error: WorkerErrorRecord | None = None
        self.forget()

    def forget(self) -> None:
        """Clear the cached state of the shards, so that the next look reads the disk again."""
        self.tally = Tally()
        self._attempts_of_done = 0
        self._done: bytearray | None = None
        self._published_s: dict[int, float] = {}
        """Chunk -> time of its last message, oldest first, until the chunk is committed."""
        self._next = 0
        """All chunks before this one are published or committed."""

    @property
    def num_open(self) -> int:
        """Number of chunks without a commit record."""
        return 0 if self.plan is None else len(self.plan.chunks) - self.tally.chunks

    # ---- reading the disk ----------------------------------------------------------------

    def look(self) -> None:
        """Update leases, commits, errors and attempts from the disk. Raises OSError."""
        assert self.plan is not None, "planned before"
        now_s, before = self._clock(), self.tally.chunks
        self.leased = self.ledger.leased_chunks()
        # Read before the commit records, so that no row of a chunk committed meanwhile is missed.
        under_way = self._read_attempts()
        first = self._done is None
        if self._done is None:
            self._read_all(self.plan)
        else:
            published = list(islice(self._published_s, READS_PER_TICK))
            for chunk_id in dict.fromkeys((*self.leased, *published)):
                self._read_chunk(chunk_id, self.plan)
        commits = 0 if first else self.tally.chunks - before
        self.pace.note(now_s, num_busy=len(self.leased), num_commits=commits)
        error = self._new_worker_error(known=first)
        self.plan_is_damaged = error is not None and error.code == PlanDamaged.code
        self.breaker.record(num_commits=commits, error=error)
        self._count_attempts(under_way)
        self.rate.note(self.tally.rows)
        if first or commits or self.leased:
            self._moved_s = now_s

    def _read_all(self, plan: Plan) -> None:
        """Read all commit records, at the first look."""
        self._done = bytearray(len(plan.chunks))
        committed = self.ledger.committed_chunks()
        for chunk_id in sorted(committed | self.ledger.orphans()):
            self._read_chunk(chunk_id, plan)

    def _read_chunk(self, chunk_id: int, plan: Plan) -> None:
        assert self._done is not None, "read before"
        if not 0 <= chunk_id < len(self._done) or self._done[chunk_id]:
            return
        try:
            record = self.ledger.read_record(chunk_id)
            if record is None and chunk_id not in self.leased and self.ledger.orphaned(chunk_id):
                self.ledger.adopt(chunk_id, keys=plan.chunks[chunk_id].keys)
                record = self.ledger.read_record(chunk_id)
        except ValueError:  # the record cannot be read
            self.ledger.verify(chunk_id)
            return
        if record is None:
            return
        self._done[chunk_id] = 1
        self._published_s.pop(chunk_id, None)
        self.tally.add(record)
        self._attempts_of_done += record.attempt or self.ledger.past_attempts(chunk_id).number

    def _read_attempts(self) -> dict[int, PastAttempts]:
        """Return the attempts of each leased chunk that was not done at the last look."""
        return {
            chunk: self.ledger.past_attempts(chunk)
            for chunk in self.leased
            if not self._is_done(chunk)
        }

    def _count_attempts(self, under_way: Mapping[int, PastAttempts]) -> None:
        """Sum the attempts of all chunks, and the rows done in chunks without a commit record."""
        still = [past for chunk, past in under_way.items() if not self._is_done(chunk)]
        self.attempts = self._attempts_of_done + sum(past.number for past in still)
        self.num_in_work = sum(past.num_done for past in still)

    def _new_worker_error(self, *, known: bool) -> WorkerErrorRecord | None:
        """Return the record of a new error; None if there is none.

        known: ignore the one on disk, which was written before this dispatcher started.
        """
        last = self._worker_error
        self._worker_error = read_worker_error(self.ledger.run_dir)
        return None if known or self._worker_error == last else self._worker_error

    def _is_done(self, chunk_id: int) -> bool:
        return self._done is not None and chunk_id < len(self._done) and bool(self._done[chunk_id])

    # ---- publishing ----------------------------------------------------------------------

    def take_due(self, limit: int, *, unanswered_s: float) -> list[int]:
        """Return chunks to publish, and record them as published now.

        These are chunks without commit and lease whose last message is older than `unanswered_s`.
        """
        assert self._done is not None, "read before"
        now_s = self._clock()
        found: list[int] = []
        for chunk_id, published_s in self._published_s.items():
            if len(found) == limit or published_s > now_s - unanswered_s:
                break
            if chunk_id not in self.leased:
                found.append(chunk_id)
        for chunk_id in found:
            del self._published_s[chunk_id]
        while len(found) < limit and self._next < len(self._done):
            if not self._done[self._next] and self._next not in self.leased:
                found.append(self._next)
            elif not self._done[self._next]:
                # A worker has leased it already, so it is checked like a published chunk.
                self._published_s[self._next] = now_s
            self._next += 1
        self._published_s |= dict.fromkeys(found, now_s)
        return found

    def chunks_per_message(self, message_s: float, *, num_messages: int, most: int) -> int:
        """Return the number of chunks for one message: as many as take `message_s`, at most `most`.

        Fewer at the end of a run, so that `num_messages` messages share the open chunks.
        """
        if self.pace.chunk_s is None or self.breaker.is_open:
            return 1
        fitting = round(message_s / self.pace.chunk_s)
        share = math.ceil(self.num_open / num_messages)
        return max(1, min(fitting, share, most))

    # ---- reporting -----------------------------------------------------------------------

    @property
    def notice(self) -> str:
        """The run's notice: why it labelled few rows or none; empty if all is well."""
        tally = self.tally
        return describe_loss(
            total=self._num_rows,
            labelled=tally.labelled,
            dropped=tally.dropped,
            failed=tally.failed,
            boxes=None if self.run.options.false_discovery_rate is not None else tally.annotations,
            hints=self.hints,
        )

    @property
    def lacks_captions(self) -> bool:
        """True if the notice says that captions are missing, and no table was searched for yet."""
        if self.searched_source or self.run.source is None:
            return False
        reason = main_loss(self.tally.labelled, self.tally.dropped, self.tally.failed)
        return reason == "caption_empty" and bool(self.notice)

    def status(self, state: RunPhase, *, idle_s: float) -> RunStatus:
        """Return the status of the run. idle_s: time without a lease after which workers lack."""
        tally = self.tally
        rate_per_s, is_running = self.rate.per_s(), state == "running"
        return RunStatus(
            run_id=self.run.run_id,
            state=state,
            total=self._num_rows,
            done=tally.rows,
            done_in_open_chunks=self.num_in_work if is_running else 0,
            labelled=tally.labelled,
            dropped=dict(tally.dropped),
            failed=dict(tally.failed),
            chunks_total=len(self.plan.chunks) if self.plan else 0,
            chunks_done=tally.chunks,
            chunks_leased=len(self.leased) if is_running else 0,
            attempts=self.attempts,
            rate_per_s=rate_per_s,
            seconds_left=(self._num_rows - tally.rows) / rate_per_s if rate_per_s else None,
            timings_ms={stage: round(ms) for stage, ms in tally.timings_ms.items()},
            bottleneck=self._bottleneck(idle_s=idle_s) if is_running else None,
            notice=self.notice,
            message=self.message,
            updated_s=time.time(),
            output="dataset",
        )

    @property
    def _num_rows(self) -> int:
        return self.plan.num_rows if self.plan else 0

    def _bottleneck(self, *, idle_s: float) -> str | None:
        """Return the slowest stage; NO_WORKERS if no worker took a chunk for `idle_s`."""
        if self._clock() - self._moved_s > idle_s and not self.breaker.is_open:
            return NO_WORKERS
        return self.tally.slowest_stage
