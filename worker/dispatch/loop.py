"""The dispatcher's loop: at each tick it advances every run by planning, publishing or finishing.

At every tick it compares the plan with the commit records, and publishes messages for chunks that
have no lease and no record. So a lost message, an emptied Redis or a dead worker costs only time.
All its state is on disk: it may be killed and started at any time.

If there are several dispatchers, the one with the lease works and the others stand by. If two
worked at once, messages would be published twice, which does no harm.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from unspoken.errors import ModelsChanged, UnspokenError
from unspoken.logs import log_ids
from unspoken.runs.lease import leased
from unspoken.runs.ledger import Ledger
from unspoken.runs.liveness import DISPATCHER_LEASE
from unspoken.runs.store import Run, created_runs, last_status, write_status
from unspoken.safe_text import reason_of
from unspoken.wire.runs import ENDED, RunPhase, RunStatus
from worker.dispatch.background_call import BackgroundCalls, Start, start_thread
from worker.dispatch.planning import Services
from worker.dispatch.run_driver import RunDriver
from worker.dispatch.run_state import RunState
from worker.label.pipeline import SERVICE_ERRORS
from worker.process.message import Publisher

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """An observer of the dispatcher, such as its metrics."""

    def note_tick(self) -> None:
        """Note that the dispatcher has just looked at all runs."""

    def note_standby(self) -> None:
        """Note that another dispatcher may work from now on."""

    def note_status(self, status: RunStatus) -> None:
        """Note a run's status."""


class Dispatcher:
    """Drives all runs of a folder."""

    def __init__(
        self,
        *,
        runs_dir: Path,
        data_dir: Path | None,
        services: Services,
        publisher: Publisher,
        lease_s: float = 20.0,
        republish_s: float = 10.0,
        message_s: float = 90.0,
        patience_s: float | None = None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        start: Start = start_thread,
    ) -> None:
        """Create a dispatcher of the runs in `runs_dir`.

        data_dir: see unspoken.runs.location.locate_source. patience_s: longest time for which
        planning or finishing one run delays a tick; None for no limit. start: starts a call in the
        background.
        """
        self._runs_dir = runs_dir
        self._lease_s = lease_s
        self._observer = observer
        self._clock = clock
        self._calls = BackgroundCalls(start)
        self._driver = RunDriver(
            runs_dir=runs_dir,
            data_dir=data_dir,
            services=services,
            publisher=publisher,
            republish_s=republish_s,
            message_s=message_s,
            patience_s=patience_s,
            calls=self._calls,
        )
        self._run_states: dict[str, RunState] = {}
        self._ended: set[str] = set()

    def tick(self) -> bool:
        """Advance every run; return True while any is still under way.

        An error of one run does not end the tick, so the other runs are still advanced.
        """
        under_way = False
        for run_state in self._open_runs():
            with log_ids(run=run_state.run.run_id):
                under_way |= self._advance_or_fail(run_state)
        if self._observer is not None:
            self._observer.note_tick()
        return under_way

    def run(self, *, tick_s: float, stop: threading.Event) -> None:
        """Tick until `stop` is set; stand by while another dispatcher works."""
        stood_by = False
        while not stop.is_set():
            try:
                with leased(self._runs_dir / DISPATCHER_LEASE, lease_s=self._lease_s) as lease:
                    if lease is not None:
                        stood_by = False
                        self._work(lease.is_ours, tick_s=tick_s, stop=stop)
                    elif not stood_by:
                        stood_by = True
                        logger.info("another dispatcher is active; this one is on standby")
            except OSError as error:
                logger.warning("the runs folder cannot be used: %s", error)
            except Exception:
                logger.exception("unexpected error; the dispatcher continues after a pause")
            stop.wait(tick_s)

    def _work(self, is_ours: Callable[[], bool], *, tick_s: float, stop: threading.Event) -> None:
        # Another dispatcher may have changed the runs since this one was active.
        self._run_states.clear()
        logger.info("this dispatcher is active")
        try:
            while not stop.is_set() and is_ours():
                self.tick()
                stop.wait(tick_s)
        finally:
            if self._observer is not None:
                self._observer.note_standby()
            self._calls.end_all()

    def _open_runs(self) -> list[RunState]:
        for run in created_runs(self._runs_dir, skip=self._run_states.keys() | self._ended):
            if self._has_ended(run):
                self._ended.add(run.run_id)
                continue
            ledger = Ledger(
                self._runs_dir / run.run_id, lease_s=self._lease_s, folder=run.shards_folder
            )
            self._run_states[run.run_id] = RunState(run, ledger, self._clock)
        return list(self._run_states.values())

    def _has_ended(self, run: Run) -> bool:
        """Return True if the run is done or failed; False if its status.json cannot be read."""
        try:
            return last_status(self._runs_dir / run.run_id, run).state in ("done", "failed")
        except OSError as error:
            logger.warning("run %s: its status cannot be read: %s", run.run_id, error)
            return False

    def _advance_or_fail(self, run_state: RunState) -> bool:
        """Advance one run; return True while it is still under way.

        After a transient error the run waits; any other error fails this run.
        """
        try:
            status = self._driver.advance(run_state)
        except Exception as error:
            if _is_transient(error):
                run_state.message = f"waiting: {reason_of(error)}"
                status = self._driver.status(run_state, _open_state(run_state))
            else:
                logger.exception("run failed")
                run_state.message = _describe(error)
                status = self._driver.status(run_state, "failed")
        if not self._write(status) or status.state not in ENDED:
            return True
        logger.info("run is %s", status.state)
        with suppress(OSError):
            self._calls.end(run_state.ledger.run_dir)
        del self._run_states[status.run_id]
        self._ended.add(status.run_id)
        return False

    def _write(self, status: RunStatus) -> bool:
        """Write status.json; return False if it cannot be written."""
        if self._observer is not None:
            self._observer.note_status(status)
        try:
            write_status(self._runs_dir, status)
        except OSError as error:
            logger.warning("status.json could not be written: %s", error)
            return False
        return True


def _is_transient(error: Exception) -> bool:
    """Return True for an error of a service, the broker or a disk, after which the run waits.

    pyarrow, Pillow and gzip raise OSError without an errno for a damaged file; that is permanent.
    """
    if isinstance(error, OSError):
        return error.errno is not None or isinstance(error, ConnectionError)
    return isinstance(error, (ModelsChanged, *SERVICE_ERRORS))


def _describe(error: Exception) -> str:
    """Return the message of a failed run, with the type of an unexpected error."""
    text = reason_of(error)
    return (
        text if isinstance(error, UnspokenError) else f"unexpected {type(error).__name__}: {text}"
    )


def _open_state(run_state: RunState) -> RunPhase:
    if run_state.plan is None:
        return "planned"
    return "running" if run_state.num_open else "finishing"
