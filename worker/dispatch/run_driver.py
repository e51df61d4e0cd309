"""Drives one run: plans it, publishes its open chunks, and finishes it when all are committed.

Planning, finishing and searching the source may take long, so they are background calls.
"""

import logging
from functools import partial
from pathlib import Path

from unspoken.runs.location import locate_source
from unspoken.runs.plan import Plan, forget_plans
from unspoken.runs.store import is_cancelled
from unspoken.safe_text import reason_of
from unspoken.wire.runs import RunPhase, RunStatus
from worker.dispatch.background_call import BackgroundCalls
from worker.dispatch.finishing import finish_run
from worker.dispatch.planning import Services, read_or_make_plan
from worker.dispatch.publishing import publish_open_chunks
from worker.dispatch.run_state import RunState
from worker.process.heartbeat import count_workers
from worker.process.message import Publisher
from worker.sources.caption_tables import source_hints

logger = logging.getLogger(__name__)


class RunDriver:
    """Drives the runs of a folder, each by itself. For the arguments, see Dispatcher."""

    def __init__(
        self,
        *,
        runs_dir: Path,
        data_dir: Path | None,
        services: Services,
        publisher: Publisher,
        republish_s: float,
        message_s: float,
        patience_s: float | None,
        calls: BackgroundCalls,
    ) -> None:
        self._runs_dir = runs_dir
        self._data_dir = data_dir
        self._services = services
        self._publisher = publisher
        self._republish_s = republish_s
        self._message_s = message_s
        self._patience_s = patience_s
        self._calls = calls

    def advance(self, run_state: RunState) -> RunStatus:
        """Do what is due now for a run, and return its status. Raises the errors of that work."""
        run_state.message = ""
        if is_cancelled(run_state.ledger.run_dir):
            return self.status(run_state, "cancelled")
        if run_state.plan is None:
            return self._plan(run_state)
        run_state.look()
        if run_state.plan_is_damaged:
            return self._plan_again(run_state)
        if run_state.num_open:
            self._search_captions(run_state, timeout_s=0)
            self._publish(run_state, run_state.plan)
            run_state.message = run_state.breaker.message
            return self.status(run_state, "running")
        if not self._search_captions(run_state, timeout_s=self._patience_s):
            return self.status(run_state, "finishing")
        return self._finish(run_state, run_state.plan)

    def _plan(self, run_state: RunState) -> RunStatus:
        if run_state.planning is None:
            work = partial(
                read_or_make_plan,
                run_state.run,
                runs_dir=self._runs_dir,
                data_dir=self._data_dir,
                services=self._services,
            )
            run_state.planning = self._calls.begin(run_state.ledger.run_dir, "planning", work)
        planning = run_state.planning
        if planning is None or not planning.is_done(timeout_s=self._patience_s):
            run_state.message = "reading the source to plan the run"
            return self.status(run_state, "planned")
        run_state.planning = None
        run_state.plan = planning.result()
        return self.advance(run_state)

    def _plan_again(self, run_state: RunState) -> RunStatus:
        """Check a plan that a worker found damaged, and write it again if it is."""
        forget_plans()
        run_state.plan, run_state.plan_is_damaged, run_state.search = None, False, None
        self._calls.end(run_state.ledger.run_dir)
        run_state.forget()
        return self._plan(run_state)

    def _publish(self, run_state: RunState, plan: Plan) -> None:
        publish_open_chunks(
            run_state,
            plan,
            self._publisher,
            num_slots=count_workers(self._runs_dir).slots,
            republish_s=self._republish_s,
            message_s=self._message_s,
        )

    def _search_captions(self, run_state: RunState, *, timeout_s: float | None) -> bool:
        """Search a source without captions once for a table of them; return False until it ends.

        The search is a background call, because the source may have millions of files. It starts
        when the run's notice would give its result.
        """
        if run_state.search is None:
            if not run_state.lacks_captions:
                return True
            location = locate_source(
                run_state.run, runs_dir=self._runs_dir, data_dir=self._data_dir
            )
            work = partial(source_hints, location.source, root=location.root)
            run_state.search = self._calls.begin(
                run_state.ledger.run_dir, "searching the source of", work
            )
        search = run_state.search
        if search is None or not search.is_done(timeout_s=timeout_s):
            return False
        run_state.search, run_state.searched_source = None, True
        try:
            run_state.hints |= search.result()
        except Exception as error:  # noqa: BLE001 - without the search, the advice is general
            logger.warning("the source was not searched for captions: %s", reason_of(error))
        return True

    def _finish(self, run_state: RunState, plan: Plan) -> RunStatus:
        if run_state.finishing is None:
            work = partial(
                finish_run,
                run_state,
                plan,
                text_encoder=self._services.text_encoder,
                runs_dir=self._runs_dir,
                data_dir=self._data_dir,
            )
            run_state.finishing = self._calls.begin(run_state.ledger.run_dir, "finishing", work)
        finishing = run_state.finishing
        if finishing is None or not finishing.is_done(timeout_s=self._patience_s):
            return self.status(run_state, "finishing")
        run_state.finishing = None
        if finishing.result():
            return self.status(run_state, "done")
        run_state.forget()
        return self.status(run_state, "running")

    def status(self, run_state: RunState, state: RunPhase) -> RunStatus:
        """Return the status of a run in a given state."""
        return run_state.status(state, idle_s=self._republish_s)
