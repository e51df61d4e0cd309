"""A blocking wrapper of AsyncClient, so that the same tests run on both clients."""

import asyncio
import functools
import inspect

from unspoken.client import AsyncClient


class Blocking:
    """Has AsyncClient's arguments; each call runs on its own event loop."""

    def __init__(self, *args, **options):
        self._client = AsyncClient(*args, **options)
        self._loop = asyncio.new_event_loop()
        self.runs = _Calls(self._loop, self._client.runs)
        self._calls = _Calls(self._loop, self._client)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._calls.close()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def __getattr__(self, name):
        return getattr(self._calls, name)


class _Calls:
    def __init__(self, loop, target):
        self._loop, self._target = loop, target

    def __getattr__(self, name):
        method = getattr(self._target, name)

        @functools.wraps(method)
        def call(*args, **options):
            called = method(*args, **options)
            if inspect.isasyncgen(called):
                return self._iterate(called)
            return self._loop.run_until_complete(called)

        return call

    def _iterate(self, generator):
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(anext(generator))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(generator.aclose())
