"""Work that takes long, beside the dispatcher's ticks: a run that plans for an hour stops no other.

Its thread is a daemon: what it writes it writes whole, so that a dispatcher may end at any time.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from unspoken.logs import carried

Result = TypeVar("Result")


class Aside(Generic[Result]):
    """One call in a thread of its own, under way from here on."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._future: Future[Result] = Future()
        threading.Thread(target=carried(self._do, work), name="aside", daemon=True).start()

    def ended(self, *, patience_s: float | None) -> bool:
        """Whether it is over, at the latest after `patience_s`; None waits for it."""
        wait([self._future], timeout=patience_s)
        return self._future.done()

    def result(self) -> Result:
        """What the work returned, once it ended. Raises what the work raised."""
        return self._future.result()

    def _do(self, work: Callable[[], Result]) -> None:
        try:
            self._future.set_result(work())
        except Exception as error:  # noqa: BLE001 - raised by `result`
            self._future.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - a panic of a native library, SystemExit
            # As an Exception, because it concerns this call and not the process.
            self._future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
