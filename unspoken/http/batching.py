"""One inference thread per device, and a bounded micro-batcher in front of it.

- An idle device starts a batch at once.
- While a batch runs, the next one fills. A full batch is handed to the thread in advance, so that
  the device does not wait for the event loop. At most one batch is handed over in advance, because
  later items may still be cancelled or added.
- Events wake the batcher; it never polls.
- If the queue is full, the caller gets `Overloaded` at once.
- A batch that raises is split in half and run again, so that only the bad item fails. After an
  out-of-memory error, later batches are smaller too.
- Items whose caller has disconnected or whose deadline has passed are dropped before they run.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextvars import Context, copy_context
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from unspoken.errors import DeadlineExceeded, EngineFailure, NotReady, Overloaded, UnspokenError
from unspoken.logs import fields
from unspoken.timings import Spent

Item = TypeVar("Item")
Result = TypeVar("Result")

HANG_S = 900.0
"""Longer than any valid call: 1000 phrases with a Swin-T detector on one core take minutes."""
MAX_QUEUE_BYTES = 512 * 1024 * 1024
_BATCHES_AT_ONCE = 2  # one that runs, one handed over in advance

logger = logging.getLogger(__name__)


class InferenceThread:
    """The only thread that runs a device's models; shared by all batchers of that device.

    It starts with the first call. A call that runs for longer than `hang_s` is treated as hung.
    """

    def __init__(
        self,
        *,
        name: str,
        initializer: Callable[[], None] | None = None,
        hang_s: float = HANG_S,
    ) -> None:
        self.name = name
        self.hang_s = hang_s
        self._initializer = initializer or _nothing
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        # A daemon thread, because a call that hangs must not prevent the process from exiting.
        self._thread = threading.Thread(target=self._work, name=f"inference-{name}", daemon=True)
        self._starting = threading.Lock()
        self._busy_since: float | None = None
        self._death: str | None = None

    async def run(self, function: Callable[[], Result]) -> Result:
        """Run `function` on the thread and await its result.

        Raises NotReady if the thread has failed.
        """
        future: Future[Result] = Future()
        with self._starting:
            if self._death is not None:
                raise NotReady(self._death)
            if self._thread.ident is None:
                self._thread.start()
            self._calls.put((future, function))
        return await asyncio.wrap_future(future)

    def busy_s(self) -> float:
        """Return how long the current call has been running, 0 when idle. The probes use it."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def failure(self) -> str | None:
        """Return the reason why the thread can serve no more calls; None while it is healthy."""
        if self._death is None and self.busy_s() > self.hang_s:
            return (
                f"inference thread {self.name}: a call has been running for {self.busy_s():.0f} s"
            )
        return self._death

    def close(self, *, timeout_s: float | None = None) -> bool:
        """Finish queued calls and stop the thread; return False if it still runs at `timeout_s`."""
        self._calls.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            self._initializer()
        except BaseException as error:  # noqa: BLE001 - the thread's end must be known
            self._die(error)
        while (call := self._calls.get()) is not None:
            future, function = call
            if not future.set_running_or_notify_cancel():
                continue
            if self._death is not None:
                future.set_exception(NotReady(self._death))
                continue
            self._busy_since = time.monotonic()
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - the thread's outermost loop
                self._busy_since = None
                if _ends_the_engine(error):
                    self._die(error)
                    error = NotReady(self._death or "")
                future.set_exception(error)
            else:
                self._busy_since = None
                future.set_result(result)

    def _die(self, error: BaseException) -> None:
        with self._starting:
            self._death = f"the engine of {self.name} has failed: {type(error).__name__}: {error}"


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: "asyncio.Future[Result]"
    deadline: float
    bucket: Hashable
    num_bytes: int
    context: Context
    own: Spent

    def is_wanted(self) -> bool:
        """Return True while a caller still waits for the result."""
        return not self.future.done() and self.deadline > time.monotonic()


@dataclass(eq=False)
class _Batch(Generic[Item, Result]):
    waiting: list[_Waiting[Item, Result]]
    has_begun: bool = False


class MicroBatcher(Generic[Item, Result]):
    """Collects single items into batches of at most `max_batch` items of one bucket.

    Args:
        run_batch: Called on the inference thread; returns one result per item, in order.
        bucket: Returns the bucket of an item, such as its shape. Items of one bucket share a batch.
        size_of: Returns the size of an item in bytes.
        max_queue, max_queue_bytes: Maximum number and bytes of waiting items; more raises
            Overloaded.
    """

    def __init__(
        self,
        run_batch: Callable[[list[Item]], list[Result]],
        *,
        name: str,
        thread: InferenceThread,
        max_batch: int,
        max_queue: int = 64,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        bucket: Callable[[Item], Hashable] | None = None,
        size_of: Callable[[Item], int] | None = None,
    ) -> None:
        self.name = name
        self.max_batch = max_batch
        self.max_queue = max_queue
        self.max_queue_bytes = max_queue_bytes
        self.num_batches = 0
        self.num_items = 0
        self._run_batch = run_batch
        self._thread = thread
        self._bucket = bucket or _one_bucket
        self._size_of = size_of or _no_size
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._running: dict[asyncio.Task[None], _Batch[Item, Result]] = {}
        self._wake = asyncio.Event()
        self._collector: asyncio.Task[None] | None = None
        self._closing = False
        self._batch_s = 0.0  # moving average of a batch's time

    @property
    def queue_length(self) -> int:
        """Number of items that wait, without those that run."""
        return len(self._queue) + sum(len(batch.waiting) for batch in self._ahead())

    @property
    def queue_bytes(self) -> int:
        """Bytes of the items that wait."""
        ahead = sum(each.num_bytes for batch in self._ahead() for each in batch.waiting)
        return ahead + sum(each.num_bytes for each in self._queue)

    def retry_after_s(self) -> float:
        """Return the estimated seconds until a place is free, at least 1.

        The estimate is the number of queued batches times the average time of a batch.
        """
        return max(1.0, math.ceil((self.queue_length / self.max_batch) * self._batch_s))

    def check_room(self, num_items: int, num_bytes: int) -> None:
        """Raise Overloaded if the queue has no room for these items, NotReady while draining."""
        if self._closing:
            raise NotReady(f"{self.name} is draining")
        # A request larger than the whole queue is admitted if the queue is empty; otherwise it
        # never could be.
        length = self.queue_length
        if length and length + num_items > self.max_queue:
            raise Overloaded(
                f"{length} items wait for {self.name}; the limit is {self.max_queue}",
                retry_after_s=self.retry_after_s(),
            )
        if length and self.queue_bytes + num_bytes > self.max_queue_bytes:
            raise Overloaded(
                f"the items that wait for {self.name} have {self.queue_bytes} bytes; the limit is "
                f"{self.max_queue_bytes}",
                retry_after_s=self.retry_after_s(),
            )

    async def submit(self, item: Item, *, timeout_s: float, own: Spent | None = None) -> Result:
        """Wait for one result. Raises Overloaded, NotReady, DeadlineExceeded, EngineFailure.

        `own` receives the item's share of the time that its batch ran on the inference thread.
        """
        self.check_room(1, self._size_of(item))
        return await self._enqueue(item, timeout_s=timeout_s, own=own or Spent())

    async def submit_all(
        self, items: list[Item], *, timeout_s: float, own: Spent | None = None
    ) -> list[Result]:
        """Submit all items of one request, or none: admission is decided once for the list."""
        self.check_room(len(items), sum(map(self._size_of, items)))
        own = own or Spent()
        tasks = [
            asyncio.ensure_future(self._enqueue(each, timeout_s=timeout_s, own=own))
            for each in items
        ]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:  # if one item fails, the request needs no other item
                task.cancel()

    async def start(self) -> None:
        """Start the collector task; call this on the running event loop."""
        self._collector = asyncio.create_task(self._collect(), name=f"batcher-{self.name}")

    async def close(self) -> None:
        """Refuse new items and finish those that wait."""
        self._closing = True
        self._wake.set()
        if self._collector is not None:
            await self._collector

    async def _enqueue(self, item: Item, *, timeout_s: float, own: Spent) -> Result:
        waiting: _Waiting[Item, Result] = _Waiting(
            item,
            asyncio.get_running_loop().create_future(),
            time.monotonic() + timeout_s,
            self._bucket(item),
            self._size_of(item),
            copy_context(),
            own,
        )
        self._queue.append(waiting)
        self._wake.set()
        try:
            return await asyncio.wait_for(waiting.future, timeout_s)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self.name} had no result within {timeout_s:.1f} s") from error

    async def _collect(self) -> None:
        while True:
            self._wake.clear()
            batch = self._take()
            if batch is None:
                if self._closing and not self._queue and not self._running:
                    return
                await self._wake.wait()
                continue
            task = asyncio.create_task(self._run(batch), name=f"batch-{self.name}")
            self._running[task] = batch
            task.add_done_callback(self._landed)

    def _take(self) -> _Batch[Item, Result] | None:
        """Return the oldest item with others of its bucket; None if no batch should start now."""
        if len(self._running) >= _BATCHES_AT_ONCE:
            return None
        self._queue = deque(each for each in self._queue if each.is_wanted())
        if not self._queue:
            return None
        bucket = self._queue[0].bucket
        same = (each for each in self._queue if each.bucket == bucket)
        batch = _Batch(list(islice(same, self.max_batch)))
        if self._running and len(batch.waiting) < self.max_batch:
            return None
        chosen = {id(each) for each in batch.waiting}
        self._queue = deque(each for each in self._queue if id(each) not in chosen)
        return batch

    def _ahead(self) -> list[_Batch[Item, Result]]:
        """Return the batches that were handed to the thread and have not started."""
        return [batch for batch in self._running.values() if not batch.has_begun]

    def _landed(self, task: "asyncio.Task[None]") -> None:
        batch = self._running.pop(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a batch failed", exc_info=error, extra=fields(batcher=self.name))
            _fail(batch.waiting, EngineFailure(f"{self.name} failed: {type(error).__name__}"))

    async def _run(self, batch: _Batch[Item, Result]) -> None:
        live: list[_Waiting[Item, Result]] = []

        def work() -> tuple[list[Result], float]:
            batch.has_begun = True
            live.extend(each for each in batch.waiting if each.is_wanted())
            if not live:
                return [], 0.0
            began = time.monotonic()
            try:
                results = self._run_batch([each.item for each in live])
            finally:
                took_s = time.monotonic() - began
                for each in live:
                    each.own.ms += 1000 * took_s / len(live)
            return results, took_s

        try:
            results, took_s = await self._thread.run(work)
        except NotReady as error:  # the engine has failed; no item is the cause
            _fail(batch.waiting, error)
            return
        except Exception as error:  # noqa: BLE001 - the thread's outermost loop: it must continue
            await self._split(live, error)
            return
        assert len(results) == len(live), f"{self.name} answers every item"
        if not live:
            return
        self.num_batches += 1
        self.num_items += len(live)
        self._batch_s = took_s if not self._batch_s else 0.8 * self._batch_s + 0.2 * took_s
        for waiting, result in zip(live, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(result)

    async def _split(self, failed: list[_Waiting[Item, Result]], error: Exception) -> None:
        """Split a failed batch in half until the bad item is alone; its caller gets the error."""
        if len(failed) > 1:
            middle = len(failed) // 2
            if _is_out_of_memory(error) and middle < self.max_batch:
                self.max_batch = middle
                about = fields(batcher=self.name, max_batch=middle)
                logger.warning("out of memory: smaller batches from now on", extra=about)
            await self._run(_Batch(failed[:middle]))
            await self._run(_Batch(failed[middle:]))
            return
        if not isinstance(error, UnspokenError):
            # Log with the ids of the request that sent this item, not of the batch's other
            # requests.
            about = fields(batcher=self.name)
            failed[0].context.run(logger.error, "item failed", exc_info=error, extra=about)
            error = EngineFailure(f"{self.name} failed on this item: {type(error).__name__}")
        _fail(failed, error)


def _fail(waiting: list[_Waiting[Any, Any]], error: Exception) -> None:
    for each in waiting:
        if not each.future.done():
            each.future.set_exception(error)


def _is_out_of_memory(error: Exception) -> bool:
    """Return True for out-of-memory errors of Python, of torch on a GPU, or of torch on a CPU.

    Compares names, because torch is not imported here.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def _ends_the_engine(error: BaseException) -> bool:
    """Return True if no later call can succeed on this thread.

    This is so for a torch.AcceleratorError, which leaves the GPU context unusable, and for
    exceptions that are not an Exception, which are requests to exit.
    """
    return not isinstance(error, Exception) or type(error).__name__ == "AcceleratorError"


def _one_bucket(_item: object) -> Hashable:
    return None


def _no_size(_item: object) -> int:
    return 0


def _nothing() -> None:
    return None
