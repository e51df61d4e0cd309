"""Single flight: concurrent requests for the same work share one computation."""

import asyncio

import pytest

from services.segmenter.cache.single_flight import SingleFlight


def test_all_who_ask_at_once_share_one_flight():
    started = 0

    async def work() -> int:
        nonlocal started
        started += 1
        await asyncio.sleep(0.01)
        return 7

    async def run() -> list[int]:
        flights = SingleFlight[int]()
        answers = await asyncio.gather(*(flights.run("key", work) for _ in range(64)))
        assert len(flights) == 0
        assert await flights.run("key", work) == 7
        return answers

    assert asyncio.run(run()) == [7] * 64
    assert started == 2


def test_a_waiter_that_goes_away_does_not_stop_the_others():
    async def run() -> str:
        flights = SingleFlight[str]()

        async def work() -> str:
            await asyncio.sleep(0.02)
            return "done"

        first = asyncio.create_task(flights.run("key", work))
        second = asyncio.create_task(flights.run("key", work))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(run()) == "done"


def test_an_error_reaches_all_who_wait_and_is_not_kept():
    async def run() -> None:
        flights = SingleFlight[str]()

        async def fail() -> str:
            await asyncio.sleep(0)
            raise ValueError("bad picture")

        async def work() -> str:
            return "fine"

        answers = await asyncio.gather(
            flights.run("key", fail), flights.run("key", fail), return_exceptions=True
        )
        assert [str(answer) for answer in answers] == ["bad picture"] * 2
        assert await flights.run("key", work) == "fine"

    asyncio.run(run())


def test_an_error_that_would_come_again_is_kept_for_a_while():
    started = 0

    async def fail() -> str:
        nonlocal started
        started += 1
        raise ValueError("bad picture")

    async def run() -> None:
        flights = SingleFlight[str](kept=(ValueError,), keep_s=0.2)
        for _ in range(3):
            with pytest.raises(ValueError, match="bad picture"):
                await flights.run("key", fail)
        assert started == 1
        await asyncio.sleep(0.25)
        with pytest.raises(ValueError, match="bad picture"):
            await flights.run("key", fail)

    asyncio.run(run())
    assert started == 2


def test_closing_cancels_what_flies():
    async def run() -> None:
        flights = SingleFlight[None]()
        waiter = asyncio.create_task(flights.run("key", lambda: asyncio.sleep(60)))
        await asyncio.sleep(0)
        await flights.close()
        await asyncio.wait([waiter], timeout=10)
        assert waiter.cancelled() and len(flights) == 0

    asyncio.run(run())


@pytest.mark.parametrize("keys", [["a", "b"]])
def test_other_keys_fly_on_their_own(keys):
    async def run() -> list[str]:
        flights = SingleFlight[str]()

        def starting(key: str):
            async def work() -> str:
                return key

            return work

        return list(await asyncio.gather(*(flights.run(key, starting(key)) for key in keys)))

    assert asyncio.run(run()) == keys


def test_a_flight_is_cancelled_when_its_last_waiter_has_gone_and_who_asks_then_starts_anew():
    ended: list[str] = []

    async def run() -> str:
        flights = SingleFlight[str]()

        async def work() -> str:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            return "late"

        async def at_once() -> str:
            return "new"

        waiters = [asyncio.create_task(flights.run("key", work)) for _ in range(2)]
        await asyncio.sleep(0)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        assert "key" not in flights
        return await flights.run("key", at_once)

    assert asyncio.run(run()) == "new"
    assert ended == ["cancelled"]
