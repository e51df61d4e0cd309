"""Request coalescing: run one task for all callers that request a key at the same time."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from cachetools import TTLCache

Result = TypeVar("Result")


MAX_KEPT_ERRORS = 1024


class SingleFlight(Generic[Result]):
    """Shares one asyncio task among concurrent callers of a key. Use it on one event loop only.

    A task ("flight") is cancelled when its last caller has left.
    kept: error types that the same work would raise again. Such an error is cached for `keep_s`
    seconds and raised for later callers.
    """

    def __init__(self, *, kept: tuple[type[Exception], ...] = (), keep_s: float = 5.0) -> None:
        self._flights: dict[Hashable, asyncio.Task[Result]] = {}
        self._waiters: Counter[asyncio.Task[Result]] = Counter()
        self._kept = kept
        self._errors: TTLCache[Hashable, Exception] = TTLCache(MAX_KEPT_ERRORS, keep_s)

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    async def run(self, key: Hashable, start: Callable[[], Awaitable[Result]]) -> Result:
        """Return the result of the task for `key`; start the task if there is none."""
        error = self._errors.get(key)
        if error is not None:
            raise error
        flight = self._launch(key, start)
        self._waiters[flight] += 1
        try:
            return await asyncio.shield(flight)
        finally:
            self._leave(key, flight)

    def _leave(self, key: Hashable, flight: "asyncio.Task[Result]") -> None:
        self._waiters[flight] -= 1
        if self._waiters[flight]:
            return
        del self._waiters[flight]
        if not flight.done():
            self._forget(key, flight)  # so that a new caller starts a new task
            flight.cancel()

    def _launch(
        self, key: Hashable, start: Callable[[], Awaitable[Result]]
    ) -> "asyncio.Task[Result]":
        """Return the task for `key`; start it if there is none."""
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.ensure_future(_awaited(start))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._land(key, done))
        return flight

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _forget(self, key: Hashable, flight: "asyncio.Task[Result]") -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _land(self, key: Hashable, flight: "asyncio.Task[Result]") -> None:
        self._forget(key, flight)
        if flight.cancelled():
            return
        error = flight.exception()  # retrieve it, because no caller may be waiting any more
        if isinstance(error, self._kept):
            assert isinstance(error, Exception)
            self._errors[key] = error


async def _awaited(start: Callable[[], Awaitable[Result]]) -> Result:
    return await start()
