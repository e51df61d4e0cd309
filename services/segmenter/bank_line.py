"""Schedules mask banks: one after another, the oldest request first.

Banks that are built side by side all end late, so under load none would end before its deadline.
A bank whose callers have all gone is dropped between two steps; what is built of it is kept for a
while, and goes on from there when it is asked for again. A request that cannot be answered before
its deadline is refused at once, with the time after which to come back.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from services.segmenter.single_flight import SingleFlight
from services.segmenter.stages import BankSteps, StagedSegmenter
from unspoken.batching import InferenceThread, MicroBatcher
from unspoken.deadline import time_left_s
from unspoken.errors import DeadlineExceeded, Overloaded

MAX_KEPT = 2
"""Unfinished banks that are kept for callers who come back: one has up to 130 MB of masks."""
MAX_UNTIMED = 8
"""Pictures in line before the first bank has shown how long one takes."""
_AT_ONCE = 2
"""One bank is built while the next picture is encoded."""
_MARGIN = 0.9


class _Job:
    """A bank under construction; `is_wanted` until its last caller has gone."""

    def __init__(self, held: Any) -> None:
        self.held = held
        self.steps: BankSteps | None = None
        self.is_wanted = True


class BankLine:
    """The banks that are waited for. Event loop only.

    max_queue: pictures in line at most.
    """

    def __init__(
        self,
        segmenter: StagedSegmenter[Any],
        *,
        thread: InferenceThread,
        max_queue: int,
        timeout_s: float,
    ) -> None:
        self.steps = Counter({"wanted": 0, "abandoned": 0})
        """Steps done while a caller waited for the bank, and after all of them had gone."""
        self.batcher: MicroBatcher[_Job, bool] = MicroBatcher(
            lambda jobs: [self._step(job) for job in jobs],
            name="bank",
            thread=thread,
            max_batch=1,
            max_queue=max_queue,
        )
        self._segmenter = segmenter
        self._max_queue = max_queue
        self._timeout_s = timeout_s
        self._flights: SingleFlight[Any] = SingleFlight()
        self._near = asyncio.Semaphore(_AT_ONCE)
        self._building = asyncio.Lock()
        self._unfinished: OrderedDict[str, _Job] = OrderedDict()
        self._pace_s: float | None = None
        """Moving average of the time from one finished bank to the next."""
        self._last_s = time.monotonic()

    def __len__(self) -> int:
        return len(self._flights)

    async def run(self, key: Hashable, bring: Callable[[], Awaitable[Any]]) -> Any:
        """Return what `bring` returns, once the bank of its `held` is built.

        bring: called when the picture's turn is near; all who ask for one key share a place in
        line. Raises Overloaded for a bank that cannot be finished in time.
        """
        if key not in self._flights:
            self._check_time(len(self._flights))
        return await self._flights.run(key, lambda: self._serve(bring))

    def forget(self, image_id: str) -> None:
        """Drop what was built for a picture that is deleted."""
        self._unfinished.pop(image_id, None)

    async def close(self) -> None:
        """Stop building."""
        await self._flights.close()

    def _check_time(self, num_ahead: int) -> None:
        """Raise Overloaded where those ahead leave too little time. The first is always served."""
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

    async def _serve(self, bring: Callable[[], Awaitable[Any]]) -> Any:
        asked_s = time.monotonic()
        # Both are first in, first out.
        async with self._near:
            brought = await bring()
            async with self._building:
                await self._build(brought.held)
        now_s = time.monotonic()
        took_s = now_s - max(asked_s, self._last_s)
        self._pace_s = took_s if self._pace_s is None else 0.7 * self._pace_s + 0.3 * took_s
        self._last_s = now_s
        return brought

    async def _build(self, held: Any) -> None:
        job = self._unfinished.pop(held.id, None)
        if job is None or job.held is not held:
            job = _Job(held)
        job.is_wanted = True
        try:
            while not await self.batcher.submit(job, timeout_s=self._timeout_s):
                pass
        except (asyncio.CancelledError, DeadlineExceeded):
            job.is_wanted = False
            self._unfinished[held.id] = job
            while len(self._unfinished) > MAX_KEPT:
                self._unfinished.popitem(last=False)
            raise

    def _step(self, job: _Job) -> bool:
        """Do a step on the inference thread."""
        if job.held.bank_ready:  # by a step that had begun when its caller went
            return True
        if job.steps is None:
            job.steps = self._segmenter.bank_steps(job.held)
        is_done = job.steps.step()
        self.steps["wanted" if job.is_wanted else "abandoned"] += 1
        return is_done
