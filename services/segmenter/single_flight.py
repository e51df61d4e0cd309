"""One piece of work for all who ask for it at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """Runs on one event loop. A waiter that goes away does not stop the work of the others."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, asyncio.Task[Result]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    async def run(self, key: Hashable, start: Callable[[], Awaitable[Result]]) -> Result:
        """The result of the flight under `key`, which is started where there is none."""
        return await asyncio.shield(self.launch(key, start))

    def launch(
        self, key: Hashable, start: Callable[[], Awaitable[Result]]
    ) -> "asyncio.Task[Result]":
        """The flight under `key`; an error reaches those who wait and is not kept."""
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.ensure_future(_awaited(start))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._land(key, done))
        return flight

    async def close(self) -> None:
        """Cancel what flies, and wait until it has ended."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _land(self, key: Hashable, flight: "asyncio.Task[Result]") -> None:
        self._flights.pop(key, None)
        if not flight.cancelled():
            flight.exception()  # seen: nobody may be waiting any more


async def _awaited(start: Callable[[], Awaitable[Result]]) -> Result:
    return await start()
