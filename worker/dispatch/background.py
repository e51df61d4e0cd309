"""Background calls of the dispatcher, so that planning one run does not delay the other runs.

The thread is a daemon, and the dispatcher may exit at any time. This is safe because the work
writes every file atomically.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from unspoken.logs import carried

Result = TypeVar("Result")


class BackgroundCall(Generic[Result]):
    """A background call. It starts in its own thread when the object is created."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._future: Future[Result] = Future()
        threading.Thread(target=carried(self._do, work), name="background", daemon=True).start()

    def ended(self, *, patience_s: float | None) -> bool:
        """Wait at most `patience_s` (None: no limit); return True if the call has finished."""
        wait([self._future], timeout=patience_s)
        return self._future.done()

    def result(self) -> Result:
        """Return the result of a finished call. Raises what the work raised."""
        return self._future.result()

    def _do(self, work: Callable[[], Result]) -> None:
        try:
            self._future.set_result(work())
        except Exception as error:  # noqa: BLE001 - `result` raises it
            self._future.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - a panic of a native library, SystemExit
            # Reported as an Exception, because it concerns this call and not the process.
            self._future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
