"""Background calls of the dispatcher, such as planning a run, so that other runs are not delayed.

Reading a damaged source may kill the whole process without an exception: out of memory, or a fault
in a native library. So RUN_DIR/dispatcher-crashes holds the number of calls that were started and
did not end. The file is removed when a call ends, with or without an error, and when the dispatcher
is stopped. After MAX_CRASHES crashes the run fails, and the dispatcher goes on with the others.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from unspoken.errors import UnspokenError
from unspoken.logs import bind_context
from unspoken.runs import storage

MAX_CRASHES = 5
"""Higher than the number of times an operator may kill one call. SIGTERM does not count."""
_FILE = "dispatcher-crashes"

Result = TypeVar("Result")
Start = Callable[[Callable[[], Any]], Future[Any]]
"""A function that starts a call and returns its future."""


class BackgroundCall(Generic[Result]):
    """A background call that `BackgroundCalls` has started for one run."""

    def __init__(self, future: Future[Result], end: Callable[[], None]) -> None:
        self._future, self._end = future, end

    def is_done(self, *, timeout_s: float | None) -> bool:
        """Wait at most `timeout_s` (None: no limit); return True if the call has finished."""
        wait([self._future], timeout=timeout_s)
        return self._future.done()

    def result(self) -> Result:
        """Return the result of a finished call, or raise its error."""
        self._end()
        return self._future.result()


def start_thread(work: Callable[[], Result]) -> Future[Result]:
    """Start a call in a daemon thread. An error that is not an Exception becomes a RuntimeError.

    Unlike the threads of a ThreadPoolExecutor, it does not delay the exit of the process. This is
    safe because the calls write every file atomically.
    """
    future: Future[Result] = Future()

    def call() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 - `result` raises it
            future.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - a panic of a native library, SystemExit
            future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))

    threading.Thread(target=bind_context(call), name="background", daemon=True).start()
    return future


class BackgroundCalls:
    """The background calls of a dispatcher: at most one for each run."""

    def __init__(self, start: Start = start_thread) -> None:
        self._start = start
        self._run_dirs: set[Path] = set()
        """Folders of the runs that have a call."""

    def begin(
        self, run_dir: Path, name: str, work: Callable[[], Result]
    ) -> BackgroundCall[Result] | None:
        """Start a call for a run; return None if it may not start yet.

        A run during whose call the dispatcher crashed is worked on alone, so that only the run that
        causes crashes is blamed for them. name: a word for messages, such as "planning". Raises
        UnspokenError if such calls have crashed the dispatcher too often, and OSError.
        """
        if count_crashes(run_dir):
            may_start = not self._run_dirs
        else:
            may_start = all(count_crashes(other) <= 1 for other in self._run_dirs)
        if not may_start:
            return None
        _note_started(run_dir, name)
        self._run_dirs.add(run_dir)
        return BackgroundCall(self._start(work), partial(self.end, run_dir))

    def end(self, run_dir: Path) -> None:
        """Record that a run's call has ended, or is no longer waited for. Raises OSError."""
        self._run_dirs.discard(run_dir)
        storage.remove(run_dir / _FILE)

    def end_all(self) -> None:
        """Record that the dispatcher stops, so that calls under way do not count as crashes."""
        for run_dir in list(self._run_dirs):
            self.end(run_dir)


def count_crashes(run_dir: Path) -> int:
    """Return the number of calls that were started and did not end, including the current one."""
    content = storage.read(run_dir / _FILE) or b""
    return int(content) if content.isdigit() and len(content) < 4 else 0


def _note_started(run_dir: Path, name: str) -> None:
    crashes = count_crashes(run_dir)
    if crashes >= MAX_CRASHES:
        storage.remove(run_dir / _FILE)
        raise UnspokenError(
            f"{name} this run ended the dispatcher {crashes} times without an error: out of memory,"
            " or a damaged file that crashes a library; see the system's log and the source, then "
            f"`unspoken fork {run_dir.name}`"
        )
    storage.replace(run_dir / _FILE, str(crashes + 1).encode())
