"""One inference thread per device, and a bounded micro-batcher in front of it.

Work-conserving: an idle device starts at once (after at most `max_wait_ms`), and while a batch
runs the next one fills. Woken by events, never by polling. When the queue is full the caller
gets `Overloaded` at once. A batch that raises is halved and run again, so that only the bad item
fails. Items whose caller has gone, or whose deadline has passed, are dropped before they cost.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Generic, TypeVar

from unspoken.errors import DeadlineExceeded, EngineFailure, NotReady, Overloaded, UnspokenError
from unspoken.logs import fields

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class InferenceThread:
    """The only thread that runs a device's models; shared by all batchers of that device."""

    def __init__(self, *, name: str, initializer: Callable[[], None] | None = None) -> None:
        self.name = name
        self._executor = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix=f"inference-{name}",
            initializer=initializer or _nothing,
        )
        self._busy_since: float | None = None

    async def run(self, function: Callable[[], Result]) -> Result:
        """Run `function` on the thread and wait for it without blocking the event loop."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, self._timed, function
        )

    def busy_s(self) -> float:
        """How long the current call has been running; 0 when idle. The probes' heartbeat."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Finish the current call and end the thread."""
        self._executor.shutdown(wait=True)

    def _timed(self, function: Callable[[], Result]) -> Result:
        self._busy_since = time.monotonic()
        try:
            return function()
        finally:
            self._busy_since = None


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: "asyncio.Future[Result]"
    deadline: float
    bucket: Hashable
    context: Context


class MicroBatcher(Generic[Item, Result]):
    """Collects single items into batches of at most `max_batch` of one bucket.

    run_batch: called on the inference thread; answers one result per item, in order.
    max_queue: items that may wait; one more raises Overloaded.
    """

    def __init__(
        self,
        run_batch: Callable[[list[Item]], list[Result]],
        *,
        name: str,
        thread: InferenceThread,
        max_batch: int,
        max_wait_ms: float = 0.0,
        max_queue: int = 64,
        bucket: Callable[[Item], Hashable] | None = None,
    ) -> None:
        self.name = name
        self.max_batch = max_batch
        self.max_queue = max_queue
        self.num_batches = 0
        self.num_items = 0
        self._run_batch = run_batch
        self._thread = thread
        self._max_wait_s = max_wait_ms / 1000
        self._bucket = bucket or _one_bucket
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._wake = asyncio.Event()
        self._collector: asyncio.Task[None] | None = None
        self._closing = False
        self._batch_s = 0.0  # moving average of a batch's time

    @property
    def queue_length(self) -> int:
        """Items that wait, without those that run."""
        return len(self._queue)

    def retry_after_s(self) -> float:
        """When a place will be free: queued batches times the average time of one, 1 s at least."""
        return max(1.0, math.ceil((len(self._queue) / self.max_batch) * self._batch_s))

    def check_room(self, num_items: int = 1) -> None:
        """Raise Overloaded or NotReady now, before a body is decoded for nothing."""
        if self._closing:
            raise NotReady(f"{self.name} is draining")
        # A request larger than the whole queue is let in when nothing waits, or it never could be.
        if self._queue and len(self._queue) + num_items > self.max_queue:
            raise Overloaded(
                f"{len(self._queue)} items wait for {self.name}, at most {self.max_queue} may",
                retry_after_s=self.retry_after_s(),
            )

    async def submit(self, item: Item, *, timeout_s: float) -> Result:
        """Wait for one result. Raises Overloaded, NotReady, DeadlineExceeded, EngineFailure."""
        self.check_room()
        return await self._enqueue(item, timeout_s=timeout_s)

    async def submit_all(self, items: list[Item], *, timeout_s: float) -> list[Result]:
        """All items of one request or none: admission is decided once for the whole list."""
        self.check_room(len(items))
        return list(
            await asyncio.gather(*(self._enqueue(item, timeout_s=timeout_s) for item in items))
        )

    async def start(self) -> None:
        """Start collecting; call on the running event loop."""
        self._collector = asyncio.create_task(self._collect(), name=f"batcher-{self.name}")

    async def close(self) -> None:
        """Take nothing new, finish what waits."""
        self._closing = True
        self._wake.set()
        if self._collector is not None:
            await self._collector

    async def _enqueue(self, item: Item, *, timeout_s: float) -> Result:
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Item, Result] = _Waiting(
            item,
            loop.create_future(),
            loop.time() + timeout_s,
            self._bucket(item),
            copy_context(),
        )
        self._queue.append(waiting)
        self._wake.set()
        try:
            return await asyncio.wait_for(waiting.future, timeout_s)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self.name} had no result within {timeout_s:.1f} s") from error

    async def _collect(self) -> None:
        while True:
            while not self._queue:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
            if self._max_wait_s and len(self._queue) < self.max_batch and not self._closing:
                await asyncio.sleep(self._max_wait_s)
            batch = self._take()
            if batch:
                started = time.monotonic()
                await self._run(batch)
                took_s = time.monotonic() - started
                self._batch_s = took_s if not self._batch_s else 0.8 * self._batch_s + 0.2 * took_s

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The oldest live item and those of its bucket, in order, up to max_batch."""
        now = asyncio.get_running_loop().time()
        live = [w for w in self._queue if not w.future.done() and w.deadline > now]
        batch = [w for w in live if w.bucket == live[0].bucket][: self.max_batch] if live else []
        chosen = {id(w) for w in batch}
        self._queue = deque(w for w in live if id(w) not in chosen)
        return batch

    async def _run(self, batch: list[_Waiting[Item, Result]]) -> None:
        items = [waiting.item for waiting in batch]
        self.num_batches += 1
        self.num_items += len(items)
        try:
            results = await self._thread.run(lambda: self._run_batch(items))
        except Exception as error:  # noqa: BLE001 - the thread's outermost loop: it must go on
            await self._split(batch, error)
            return
        assert len(results) == len(batch), f"{self.name} answers every item"
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(result)

    async def _split(self, batch: list[_Waiting[Item, Result]], error: Exception) -> None:
        """Halve a failed batch until the bad item stands alone; its caller gets the error."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._run(batch[:middle])
            await self._run(batch[middle:])
            return
        if not isinstance(error, UnspokenError):
            # With the ids of the request that it was asked in, not of the batch's other ones.
            about = fields(batcher=self.name)
            batch[0].context.run(logger.error, "item failed", exc_info=error, extra=about)
            error = EngineFailure(f"{self.name} failed on this item: {type(error).__name__}")
        if not batch[0].future.done():
            batch[0].future.set_exception(error)


def _one_bucket(_item: object) -> Hashable:
    return None


def _nothing() -> None:
    return None
