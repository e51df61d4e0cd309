"""Schedule the building of mask banks: one at a time, oldest request first.

Banks are not built in parallel, because under load all of them would finish after their deadlines.
If all callers of a bank have disconnected or timed out, building stops between two steps. The
unfinished bank is kept for some time, and a new request resumes it. A request that cannot be
answered before its deadline is refused at once, with the time after which to retry.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterator
from typing import Generic

from cachetools import LRUCache

from services.segmenter.cache.image_tiers import Lookup
from services.segmenter.cache.single_flight import SingleFlight
from services.segmenter.ports import Entry, ImageEngine
from unspoken.errors import DeadlineExceeded, Overloaded
from unspoken.http.batching import InferenceThread, MicroBatcher
from unspoken.http.deadline import time_left_s

MAX_KEPT = 2
"""Number of unfinished banks that are kept for a later request: one has up to 130 MB of masks."""
MAX_UNTIMED = 8
"""Limit of the queue until the first bank has shown how long a bank takes."""
_AT_ONCE = 2
"""Number of requests in progress: one bank is built while the next image is encoded."""
_MARGIN = 0.9
_BUILT = object()


class _Job(Generic[Entry]):
    """A bank that is being built. is_wanted: False once its last caller has left."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.steps: Iterator[None] | None = None
        self.is_wanted = True


class BankQueue(Generic[Entry]):
    """Queue of the banks that callers wait for. Use it on the event loop only.

    max_queue: largest number of images in the queue.
    """

    def __init__(
        self,
        engine: ImageEngine[Entry],
        *,
        thread: InferenceThread,
        max_queue: int,
        timeout_s: float,
    ) -> None:
        self.steps = Counter({"wanted": 0, "abandoned": 0})
        """Number of steps done while a caller waited, and after all callers had left."""
        self.batcher: MicroBatcher[_Job[Entry], bool] = MicroBatcher(
            lambda jobs: [self._step(job) for job in jobs],
            name="bank",
            thread=thread,
            max_batch=1,
            max_queue=max_queue,
        )
        self._engine = engine
        self._max_queue = max_queue
        self._timeout_s = timeout_s
        self._flights: SingleFlight[Lookup[Entry]] = SingleFlight()
        self._near = asyncio.Semaphore(_AT_ONCE)
        self._building = asyncio.Lock()
        self._unfinished: LRUCache[str, _Job[Entry]] = LRUCache(MAX_KEPT)
        self._pace_s: float | None = None
        """Moving average of the time from one finished bank to the next."""
        self._last_s = time.monotonic()

    def __len__(self) -> int:
        return len(self._flights)

    async def run(
        self, key: Hashable, find: Callable[[], Awaitable[Lookup[Entry]]]
    ) -> Lookup[Entry]:
        """Return the image that `find` returns, after its bank is built.

        find: called shortly before the image's turn. All callers of one key share one place in the
        queue. Raises Overloaded for a bank that cannot be finished in time.
        """
        if key not in self._flights:
            self._check_time(len(self._flights))
        return await self._flights.run(key, lambda: self._serve(find))

    def forget(self, image_id: str) -> None:
        """Drop the unfinished bank of an image that is deleted."""
        self._unfinished.pop(image_id, None)

    async def close(self) -> None:
        """Cancel all banks that are being built."""
        await self._flights.close()

    def _check_time(self, num_ahead: int) -> None:
        """Raise Overloaded if the queue ahead leaves too little time. The first never raises."""
        if not num_ahead:
            return
        if num_ahead >= (self._max_queue if self._pace_s else MAX_UNTIMED):
            raise Overloaded(
                f"{num_ahead} pictures wait for their banks", retry_after_s=self._pace_s or 1.0
            )
        left_s = time_left_s()
        left_s = _MARGIN * (self._timeout_s if left_s is None else left_s)
        needed_s = (num_ahead + 1) * (self._pace_s or 0.0)
        if needed_s > left_s:
            raise Overloaded(
                f"{num_ahead} pictures wait for their banks: this one would take "
                f"{needed_s:.1f} s, and its deadline is earlier",
                retry_after_s=max(1.0, needed_s - left_s),
            )

    async def _serve(self, find: Callable[[], Awaitable[Lookup[Entry]]]) -> Lookup[Entry]:
        asked_s = time.monotonic()
        # The semaphore and the lock are both first in, first out.
        async with self._near:
            found = await find()
            async with self._building:
                await self._build(found.entry)
        now_s = time.monotonic()
        took_s = now_s - max(asked_s, self._last_s)
        self._pace_s = took_s if self._pace_s is None else 0.7 * self._pace_s + 0.3 * took_s
        self._last_s = now_s
        return found

    async def _build(self, entry: Entry) -> None:
        job = self._unfinished.pop(entry.id, None)
        if job is None or job.entry is not entry:
            job = _Job(entry)
        job.is_wanted = True
        try:
            while not await self.batcher.submit(job, timeout_s=self._timeout_s):
                pass
        except (asyncio.CancelledError, DeadlineExceeded):
            job.is_wanted = False
            self._unfinished[entry.id] = job
            raise

    def _step(self, job: _Job[Entry]) -> bool:
        """Do one step on the inference thread; return True if the bank is built."""
        if job.entry.bank is not None:  # built by a step that ran while its last caller left
            return True
        steps = job.steps or self._engine.bank_steps(job.entry)
        job.steps = None  # a step that fails ends the iterator, so the next job starts a new one
        is_built = next(steps, _BUILT) is _BUILT
        if is_built:
            self._engine.cache.update_size(job.entry)
        else:
            job.steps = steps
        self.steps["wanted" if job.is_wanted else "abandoned"] += 1
        return is_built
