"""The micro-batcher: bounded, work-conserving, and a bad item does not fail its neighbours."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from unspoken.errors import DeadlineExceeded, EngineFailure, InvalidInput, NotReady, Overloaded
from unspoken.http.batching import InferenceThread, MicroBatcher
from unspoken.timings import Spent


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


def test_each_item_gets_its_share_of_the_time_of_its_batch():
    first, release = threading.Event(), threading.Event()

    def slow(items: list[int]) -> list[int]:
        if not first.is_set():
            first.set()
            release.wait(5)
        time.sleep(0.04)
        return double(items)

    async def scenario() -> list[Spent]:
        async with batcher_of(slow, max_batch=8) as batcher:
            spent = [Spent() for _ in range(3)]
            ahead = asyncio.ensure_future(batcher.submit(0, timeout_s=5, own=spent[0]))
            await asyncio.to_thread(first.wait)
            behind = [
                asyncio.ensure_future(batcher.submit_all([1, 2, 3], timeout_s=5, own=spent[1])),
                asyncio.ensure_future(batcher.submit(4, timeout_s=5, own=spent[2])),
            ]
            await asyncio.sleep(0.1)  # they wait
            release.set()
            await asyncio.gather(ahead, *behind)
            return spent

    alone, three, one = asyncio.run(scenario())
    assert alone.ms >= 140
    assert three.ms == pytest.approx(3 * one.ms)
    assert 40 <= three.ms + one.ms < alone.ms


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


def test_a_full_batch_is_ahead_while_another_runs_and_a_smaller_one_goes_on_filling():
    release, batches = threading.Event(), []

    def blocked(items: list[int]) -> list[int]:
        batches.append(items)
        release.wait(5)
        return items

    async def scenario() -> tuple[int, int]:
        async with batcher_of(blocked, max_batch=2, max_queue=16) as batcher:
            waiting = [asyncio.ensure_future(batcher.submit(0, timeout_s=5))]
            await asyncio.sleep(0.05)  # alone, so it began at once
            waiting += [asyncio.ensure_future(batcher.submit(i, timeout_s=5)) for i in (1, 2, 3)]
            await asyncio.sleep(0.05)
            begun, length = len(batches), batcher.queue_length
            waiting.append(asyncio.ensure_future(batcher.submit(4, timeout_s=5)))
            await asyncio.sleep(0.01)
            release.set()
            await asyncio.gather(*waiting)
            return begun, length

    assert asyncio.run(scenario()) == (1, 3)  # what is ahead still waits, and counts as waiting
    assert batches == [[0], [1, 2], [3, 4]]


def test_the_queue_is_bounded_in_bytes_too():
    release, batches = threading.Event(), []

    def blocked(items: list[int]) -> list[int]:
        batches.append(items)
        release.wait(5)
        return items

    async def scenario() -> None:
        options = {"max_batch": 8, "max_queue_bytes": 30}
        async with batcher_of(blocked, size_of=lambda item: item, **options) as batcher:
            waiting = []
            for item in (40, 6, 5, 9):  # 40 is over the bound, but nothing waits
                waiting.append(asyncio.ensure_future(batcher.submit(item, timeout_s=5)))
                await asyncio.sleep(0.02)
            assert batcher.queue_bytes == 20
            with pytest.raises(Overloaded, match="bytes"):
                await batcher.submit(11, timeout_s=5)
            release.set()
            await asyncio.gather(*waiting)

    asyncio.run(scenario())
    assert batches == [[40], [6, 5, 9]]


def test_where_memory_is_short_batches_are_halved_for_good():
    sizes: list[int] = []

    def hungry(items: list[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 3:
            raise MemoryError
        return items

    async def scenario() -> int:
        async with batcher_of(hungry, max_batch=8) as batcher:
            answers = await batcher.submit_all(list(range(8)), timeout_s=5)
            assert answers == list(range(8))
            await batcher.submit_all(list(range(8)), timeout_s=5)
            return batcher.max_batch

    assert asyncio.run(scenario()) == 2
    assert sizes == [8, 4, 2, 2, 4, 2, 2, 2, 2, 2, 2]


def test_an_item_whose_caller_has_gone_is_not_run():
    ran: list[int] = []

    def slow(items: list[int]) -> list[int]:
        ran.extend(items)
        time.sleep(0.1)
        return items

    async def scenario() -> None:
        async with batcher_of(slow, max_batch=1) as batcher:
            waiting = [asyncio.ensure_future(batcher.submit(i, timeout_s=5)) for i in range(4)]
            await asyncio.sleep(0.03)
            for gone in waiting[1:3]:  # one is ahead already, one is in the queue
                gone.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(scenario())
    assert ran == [0, 3]


def test_a_request_of_which_one_item_fails_leaves_nothing_behind_in_the_queue():
    ran: list[int] = []

    def picky(items: list[int]) -> list[int]:
        ran.extend(items)
        time.sleep(0.02)
        if 0 in items:
            raise InvalidInput("no")
        return items

    async def scenario() -> None:
        async with batcher_of(picky, max_batch=1) as batcher:
            with pytest.raises(InvalidInput):
                await batcher.submit_all(list(range(20)), timeout_s=5)

    asyncio.run(scenario())
    assert len(ran) < 5


@pytest.mark.parametrize("error", [SystemExit(3), type("AcceleratorError", (RuntimeError,), {})()])
def test_an_engine_that_is_dead_says_so_and_answers_nobody_any_more(error):
    thread = InferenceThread(name="doomed")

    def die() -> None:
        raise error

    async def scenario() -> None:
        assert thread.failure() is None
        with pytest.raises(NotReady, match="has failed"):
            await thread.run(die)
        with pytest.raises(NotReady, match="has failed"):
            await thread.run(lambda: 1)

    asyncio.run(scenario())
    assert "engine of doomed has failed" in (thread.failure() or "")
    thread.close()


def test_a_call_that_runs_for_too_long_is_a_failure_of_its_thread():
    thread = InferenceThread(name="slow", hang_s=0.05)
    release = threading.Event()

    async def scenario() -> str | None:
        working = asyncio.ensure_future(thread.run(lambda: release.wait(5)))
        await asyncio.sleep(0.3)
        failure = thread.failure()
        release.set()
        await working
        return failure

    assert "has been running for" in (asyncio.run(scenario()) or "")
    assert thread.failure() is None and thread.busy_s() == 0
    thread.close()


def test_a_thread_that_could_not_be_set_up_is_dead():
    def fail() -> None:
        raise OSError("no such device")

    thread = InferenceThread(name="test", initializer=fail)

    async def scenario() -> None:
        with pytest.raises(NotReady, match="no such device"):
            await thread.run(lambda: 1)

    asyncio.run(scenario())
    thread.close()
