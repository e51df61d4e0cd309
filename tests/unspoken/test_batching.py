"""The micro-batcher: bounded, work-conserving, and fair to the neighbours of a bad item."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from unspoken.batching import InferenceThread, MicroBatcher
from unspoken.errors import DeadlineExceeded, EngineFailure, InvalidInput, NotReady, Overloaded


@asynccontextmanager
async def batcher_of(
    run: Callable[[list[int]], list[int]], **options: object
) -> AsyncIterator[MicroBatcher[int, int]]:
    thread = InferenceThread(name="test")
    batcher: MicroBatcher[int, int] = MicroBatcher(run, name="test", thread=thread, **options)  # type: ignore[arg-type]
    await batcher.start()
    try:
        yield batcher
    finally:
        await batcher.close()
        thread.close()


def double(items: list[int]) -> list[int]:
    return [2 * item for item in items]


def test_a_lone_item_is_answered():
    async def scenario() -> int:
        async with batcher_of(double, max_batch=8) as batcher:
            return await batcher.submit(21, timeout_s=5)

    assert asyncio.run(scenario()) == 42


def test_items_that_wait_together_run_together():
    sizes: list[int] = []

    def slow(items: list[int]) -> list[int]:
        sizes.append(len(items))
        time.sleep(0.05)
        return double(items)

    async def scenario() -> list[int]:
        async with batcher_of(slow, max_batch=8) as batcher:
            return await asyncio.gather(*(batcher.submit(i, timeout_s=5) for i in range(9)))

    assert asyncio.run(scenario()) == [2 * i for i in range(9)]
    assert len(sizes) <= 3 and max(sizes) == 8


def test_items_of_two_buckets_never_share_a_batch():
    batches: list[list[int]] = []

    def note(items: list[int]) -> list[int]:
        batches.append(items)
        return items

    async def scenario() -> None:
        async with batcher_of(note, max_batch=8, bucket=lambda item: item % 2) as batcher:
            await batcher.submit_all(list(range(10)), timeout_s=5)

    asyncio.run(scenario())
    assert all(len({item % 2 for item in batch}) == 1 for batch in batches)


def test_a_full_queue_answers_overloaded_at_once_with_a_time_to_come_back():
    release = threading.Event()

    def blocked(items: list[int]) -> list[int]:
        release.wait(5)
        return items

    async def scenario() -> Overloaded:
        async with batcher_of(blocked, max_batch=1, max_queue=2) as batcher:
            waiting = []
            for item in range(3):  # one runs, two wait
                waiting.append(asyncio.create_task(batcher.submit(item, timeout_s=5)))
                await asyncio.sleep(0.02)
            with pytest.raises(Overloaded) as caught:
                await batcher.submit(9, timeout_s=5)
            release.set()
            await asyncio.gather(*waiting)
            return caught.value

    assert asyncio.run(scenario()).retry_after_s >= 1


def test_only_the_bad_item_of_a_batch_fails():
    def picky(items: list[int]) -> list[int]:
        if 3 in items:
            raise ValueError("three")
        return items

    async def scenario() -> list[object]:
        async with batcher_of(picky, max_batch=8) as batcher:
            tasks = (batcher.submit(i, timeout_s=5) for i in range(8))
            return list(await asyncio.gather(*tasks, return_exceptions=True))

    results = asyncio.run(scenario())
    assert isinstance(results[3], EngineFailure)
    assert [r for i, r in enumerate(results) if i != 3] == [0, 1, 2, 4, 5, 6, 7]


def test_the_engines_own_errors_reach_the_caller_unchanged():
    def refuse(items: list[int]) -> list[int]:
        raise InvalidInput("no")

    async def scenario() -> None:
        async with batcher_of(refuse, max_batch=2) as batcher:
            await batcher.submit(1, timeout_s=5)

    with pytest.raises(InvalidInput):
        asyncio.run(scenario())


def test_a_deadline_ends_the_wait_and_the_item_is_not_run():
    ran: list[int] = []

    def slow(items: list[int]) -> list[int]:
        ran.extend(items)
        time.sleep(0.2)
        return items

    async def scenario() -> None:
        async with batcher_of(slow, max_batch=1) as batcher:
            first = asyncio.create_task(batcher.submit(1, timeout_s=5))
            await asyncio.sleep(0.02)
            with pytest.raises(DeadlineExceeded):
                await batcher.submit(2, timeout_s=0.05)
            await first

    asyncio.run(scenario())
    assert ran == [1]


def test_closing_finishes_what_waits_and_takes_nothing_new():
    def slow(items: list[int]) -> list[int]:
        time.sleep(0.05)
        return items

    async def scenario() -> list[int]:
        thread = InferenceThread(name="test")
        batcher: MicroBatcher[int, int] = MicroBatcher(slow, name="t", thread=thread, max_batch=1)
        await batcher.start()
        waiting = [asyncio.create_task(batcher.submit(i, timeout_s=5)) for i in range(4)]
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.01)
        with pytest.raises(NotReady):
            await batcher.submit(9, timeout_s=5)
        await closing
        thread.close()
        return await asyncio.gather(*waiting)

    assert asyncio.run(scenario()) == [0, 1, 2, 3]


def test_a_long_batch_does_not_block_the_event_loop():
    def slow(items: list[int]) -> list[int]:
        time.sleep(0.3)
        return items

    async def scenario() -> float:
        async with batcher_of(slow, max_batch=1) as batcher:
            working = asyncio.create_task(batcher.submit(1, timeout_s=5))
            worst = 0.0
            while not working.done():
                started = time.perf_counter()
                await asyncio.sleep(0.005)
                worst = max(worst, time.perf_counter() - started)
            return worst

    assert asyncio.run(scenario()) < 0.2
