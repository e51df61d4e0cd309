"""`python -m worker.dispatch.dispatcher`: plans runs, publishes open chunks, and finishes datasets.

At every tick it compares the plan with the commit records. It publishes messages for chunks that
have no lease and no record. So a lost message, an emptied Redis or a dead worker costs only time.
All its state is on disk: it may be killed and started at any time.

Of several dispatchers, the one that holds the lease works and the others stand by. If two worked at
once, messages would be published twice and nothing else would happen.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from unspoken.client.port_clients import (
    CropRankerClient,
    DetectorClient,
    PrompterClient,
    TextEncoderClient,
    connect,
)
from unspoken.errors import ModelsChanged, NotFound, PlanDamaged, UnspokenError
from unspoken.http.entry_point import run_main
from unspoken.logs import configure_logging, log_ids
from unspoken.runs.dataset.false_discovery import Decision
from unspoken.runs.lease import hold
from unspoken.runs.ledger import Ledger
from unspoken.runs.liveness import DISPATCHER_LEASE
from unspoken.runs.location import SourceLocation, locate_source
from unspoken.runs.notice import describe_loss, main_loss
from unspoken.runs.plan import Plan, forget_plans, read_plan
from unspoken.runs.store import (
    Run,
    created_runs,
    is_cancelled,
    read_status,
    write_status,
)
from unspoken.safe_text import reason_of
from unspoken.wire.runs import ENDED, RunStatus
from worker.dispatch.background import BackgroundCall
from worker.dispatch.choose_thresholds import decide_run
from worker.dispatch.crashes import begin_step, count_unended, end_step
from worker.dispatch.finishing import finish_run
from worker.dispatch.metrics import DispatcherMetrics, serve_metrics
from worker.dispatch.planning import Services, plan_run
from worker.dispatch.publisher import CeleryPublisher, Publisher
from worker.dispatch.run_state import RunState
from worker.label.pipeline import PASSING
from worker.process.broker import read_broker
from worker.process.celery_app import BULK, INTERACTIVE, create_celery
from worker.process.heartbeat import count_workers
from worker.process.settings import WorkerSettings
from worker.process.tasks import MAX_CHUNKS_A_MESSAGE, check_models
from worker.sources.caption_tables import source_hints

# Named explicitly, because under `python -m` the module's name is __main__.
logger = logging.getLogger("worker.dispatch.dispatcher")

# Limits of the queue's length, chosen so that workers never wait for the dispatcher.
MIN_QUEUED, QUEUED_PER_SLOT = 4, 2
# Longer wait before publishing again while the queue is not empty: the message may still be in it.
PATIENCE_WITH_QUEUE = 30
# An inline run of at most this many rows is interactive: a person is waiting for it.
INTERACTIVE_ROWS = 100


class Dispatcher:
    """Drives all runs of a folder, or only those named."""

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
        only: frozenset[str] | None = None,
        metrics: DispatcherMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """data_dir: see unspoken.runs.location.locate_source. patience_s: longest time for which
        planning or finishing one run delays a tick; None for no limit.
        """
        self._runs_dir = runs_dir
        self._data_dir = data_dir
        self._services = services
        self._publisher = publisher
        self._lease_s = lease_s
        self._republish_s = republish_s
        self._message_s = message_s
        self._patience_s = patience_s
        self._only = only
        self._metrics = metrics
        self._clock = clock
        self._watches: dict[str, RunState] = {}
        self._ended: set[str] = set()

    def tick(self) -> bool:
        """Advance every run by one step; return True while any is still under way.

        An error of one run does not end the tick, so the other runs are still advanced.
        """
        under_way = False
        for watch in self._open_watches():
            with log_ids(run=watch.run.run_id):
                under_way |= self._look_at(watch)
        if self._metrics is not None:
            self._metrics.looked()
        return under_way

    def _look_at(self, watch: RunState) -> bool:
        """Advance one run by a step; return True while it is still under way.

        After a transient error the run waits; any other error fails this run.
        """
        try:
            status = self._advance(watch)
        except Exception as error:
            if _passes(error):
                watch.message = f"waiting: {reason_of(error)}"
                status = self._status(watch, _open_state(watch))
            else:
                logger.exception("run failed")
                watch.message = _describe(error)
                status = self._status(watch, "failed")
        if not self._tell(status) or status.state not in ENDED:
            return True
        logger.info("run is %s", status.state)
        with suppress(OSError):
            end_step(watch.ledger.run_dir)
        del self._watches[status.run_id]
        self._ended.add(status.run_id)
        return False

    def run(self, *, tick_s: float, stop: threading.Event) -> None:
        """Tick until told to stop; while another dispatcher works, stand by."""
        stood_by = False
        while not stop.is_set():
            try:
                with hold(self._runs_dir / DISPATCHER_LEASE, lease_s=self._lease_s) as lease:
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
        # Another dispatcher may have changed the runs since the last look.
        self._watches.clear()
        logger.info("this dispatcher is active")
        try:
            while not stop.is_set() and is_ours():
                self.tick()
                stop.wait(tick_s)
        finally:
            if self._metrics is not None:
                self._metrics.rested()
            for watch in filter(_has_step, self._watches.values()):
                end_step(watch.ledger.run_dir)  # a stop or an error of a disk is no crash

    def _tell(self, status: RunStatus) -> bool:
        """Write status.json; return False if it cannot be written."""
        if self._metrics is not None:
            self._metrics.saw(status)
        try:
            write_status(self._runs_dir, status)
        except OSError as error:
            logger.warning("status.json could not be written: %s", error)
            return False
        return True

    # ---- one run -------------------------------------------------------------------------

    def _open_watches(self) -> list[RunState]:
        for run in created_runs(self._runs_dir, but=self._watches.keys() | self._ended):
            if self._only is not None and run.run_id not in self._only:
                continue
            if self._has_ended(run):
                self._ended.add(run.run_id)
                continue
            ledger = Ledger(
                self._runs_dir / run.run_id, lease_s=self._lease_s, folder=run.shards_folder
            )
            self._watches[run.run_id] = RunState(run, ledger, self._clock)
        return list(self._watches.values())

    def _has_ended(self, run: Run) -> bool:
        """Return True if the run is done or failed; False if its status.json cannot be read."""
        try:
            return read_status(self._runs_dir, run.run_id).state in ("done", "failed")
        except (OSError, NotFound) as error:
            logger.warning("run %s: its status cannot be read: %s", run.run_id, error)
            return False

    def _advance(self, watch: RunState) -> RunStatus:
        watch.message = ""
        if is_cancelled(watch.ledger.run_dir):
            return self._status(watch, "cancelled")
        if watch.plan is None:
            return self._plan(watch)
        watch.look()
        if watch.plan_is_damaged:
            return self._plan_again(watch)
        if watch.num_open:
            self._publish(watch, watch.plan)
            watch.message = watch.breaker.message
            return self._status(watch, "running")
        return self._finish(watch, watch.plan)

    def _plan(self, watch: RunState) -> RunStatus:
        if watch.planning is None and self._may_begin(watch):
            begin_step(watch.ledger.run_dir, "planning")
            watch.planning = BackgroundCall(partial(self._read_or_make_plan, watch.run))
        if watch.planning is None or not watch.planning.ended(patience_s=self._patience_s):
            watch.message = "reading the source to plan the run"
            return self._status(watch, "planned")
        planning, watch.planning = watch.planning, None
        end_step(watch.ledger.run_dir)
        watch.plan = planning.result()
        return self._advance(watch)

    def _may_begin(self, watch: RunState) -> bool:
        """Return True if a run's step may begin now.

        A run during whose step the dispatcher crashed is worked on alone, so that only the run that
        causes crashes is blamed for them.
        """
        under_way = [other for other in self._watches.values() if _has_step(other)]
        if count_unended(watch.ledger.run_dir):
            return not under_way
        return all(count_unended(other.ledger.run_dir) <= 1 for other in under_way)

    def _plan_again(self, watch: RunState) -> RunStatus:
        """Check a plan that a worker found damaged, and write it again if it is."""
        forget_plans()
        watch.plan, watch.plan_is_damaged = None, False
        watch.forget()
        return self._plan(watch)

    def _read_or_make_plan(self, run: Run) -> Plan:
        try:
            return read_plan(self._runs_dir / run.run_id)
        except NotFound:
            logger.info("planning")
        except PlanDamaged as error:
            # The same source gives an identical plan; `write_plan` refuses a different one.
            logger.warning("replanning: %s", error)
        location = self._locate(run)
        plan_run(run, location, runs_dir=self._runs_dir, services=self._services)
        return read_plan(self._runs_dir / run.run_id)

    def _finish(self, watch: RunState, plan: Plan) -> RunStatus:
        if watch.finishing is None and self._may_begin(watch):
            begin_step(watch.ledger.run_dir, "finishing")
            watch.finishing = BackgroundCall(partial(self._verify_and_write, watch, plan))
        if watch.finishing is None or not watch.finishing.ended(patience_s=self._patience_s):
            return self._status(watch, "finishing")
        finishing, watch.finishing = watch.finishing, None
        end_step(watch.ledger.run_dir)
        if finishing.result():
            return self._status(watch, "done")
        watch.forget()
        return self._status(watch, "running")

    def _publish(self, watch: RunState, plan: Plan) -> None:
        queue = _queue_of(watch.run, plan)
        queued = self._publisher.num_queued(queue)
        most = self._most_queued(watch)
        room, allowed = most - queued, watch.breaker.num_messages()
        patience_s = self._republish_s * (PATIENCE_WITH_QUEUE if queued else 1)
        for _ in range(room if allowed is None else min(room, allowed)):
            size = watch.chunks_a_message(
                self._message_s, num_messages=most, most=MAX_CHUNKS_A_MESSAGE
            )
            chunk_ids = watch.take_due(size, patience_s=patience_s)
            if not chunk_ids:
                return
            self._publisher.publish(watch.run.run_id, chunk_ids, queue=queue)
            watch.breaker.note_published()

    def _most_queued(self, watch: RunState) -> int:
        """Return twice the slots of all workers; based on the leases until a worker reports."""
        slots = count_workers(self._runs_dir).slots
        return QUEUED_PER_SLOT * slots or max(MIN_QUEUED, QUEUED_PER_SLOT * len(watch.leased))

    def _verify_and_write(self, watch: RunState, plan: Plan) -> bool:
        """Write labels, contact sheet, manifest and card; return False if a shard is damaged.

        Each file is written atomically. Every shard is first compared with its record.
        """
        if not watch.verified:
            if not all([watch.ledger.verify(chunk.id) for chunk in plan.chunks]):
                return False
            watch.verified = True
        check_models(plan, [self._services.text_encoder.model])
        watch.ledger.sweep(len(plan.chunks))
        finish_run(
            watch.ledger.run_dir,
            plan,
            text_encoder=self._services.text_encoder,
            location=self._locate(watch.run),
            decision=self._decide(watch, plan),
            notice=self._notice(watch, total=plan.num_rows),
        )
        return True

    def _locate(self, run: Run) -> SourceLocation:
        return locate_source(run, runs_dir=self._runs_dir, data_dir=self._data_dir)

    def _decide(self, watch: RunState, plan: Plan) -> Decision | None:
        """Choose thresholds and write the decided shards, once; None for a fixed threshold."""
        if plan.config.options.false_discovery_rate is not None and watch.decision is None:
            retried = watch.run.retry_of
            watch.decision = decide_run(
                watch.ledger.shards_dir,
                plan,
                retried_dir=None if retried is None else self._runs_dir / retried,
            )
        return watch.decision

    def _notice(self, watch: RunState, *, total: int) -> str:
        """Return the run's notice. A source without captions is searched once for a table."""
        tally = watch.tally
        loss = main_loss(tally.labelled, tally.dropped, tally.failed)
        if loss == "caption_empty" and not watch.searched_source and watch.run.source is not None:
            watch.searched_source = True
            location = self._locate(watch.run)
            watch.hints |= source_hints(location.source, root=location.root)
        return describe_loss(
            total=total,
            labelled=tally.labelled,
            dropped=tally.dropped,
            failed=tally.failed,
            boxes=None if watch.run.options.false_discovery_rate is not None else tally.annotations,
            hints=watch.hints,
        )

    def _status(self, watch: RunState, state: str) -> RunStatus:
        tally = watch.tally
        total = watch.plan.num_rows if watch.plan else 0
        rate_per_s, is_running = watch.rate.rows_per_s(), state == "running"
        return RunStatus.model_validate(
            {
                "run_id": watch.run.run_id,
                "state": state,
                "total": total,
                "done": tally.rows,
                "labelled": tally.labelled,
                "dropped": dict(tally.dropped),
                "failed": dict(tally.failed),
                "chunks_total": len(watch.plan.chunks) if watch.plan else 0,
                "chunks_done": tally.chunks,
                "chunks_leased": len(watch.leased) if is_running else 0,
                "attempts": watch.attempts,
                "rate_per_s": rate_per_s,
                "seconds_left": (total - tally.rows) / rate_per_s if rate_per_s else None,
                "timings_ms": {stage: round(ms) for stage, ms in tally.timings_ms.items()},
                "bottleneck": (
                    watch.bottleneck(patience_s=self._republish_s) if is_running else None
                ),
                "notice": self._notice(watch, total=total),
                "message": watch.message,
                "updated_s": time.time(),
                "output": "dataset",
            }
        )


def _has_step(watch: RunState) -> bool:
    """Return True while the run is being planned or finished."""
    return watch.planning is not None or watch.finishing is not None


def _passes(error: Exception) -> bool:
    """Return True for a transient error: one of a service, the broker or a disk.

    pyarrow, Pillow and gzip raise OSError without an errno for a damaged file; that is permanent.
    """
    if isinstance(error, OSError):
        return error.errno is not None or isinstance(error, ConnectionError)
    return isinstance(error, (ModelsChanged, *PASSING))


def _describe(error: Exception) -> str:
    """Return the message of a failed run, with the type of an unexpected error."""
    text = reason_of(error)
    return (
        text if isinstance(error, UnspokenError) else f"unexpected {type(error).__name__}: {text}"
    )


def _open_state(watch: RunState) -> str:
    if watch.plan is None:
        return "planned"
    return "running" if watch.num_open else "finishing"


def _queue_of(run: Run, plan: Plan) -> str:
    """Return the run's queue. Small inline runs do not queue behind millions of pictures."""
    return INTERACTIVE if run.source is None and plan.num_rows <= INTERACTIVE_ROWS else BULK


@contextmanager
def connect_services(settings: WorkerSettings) -> Iterator[Services]:
    """Open clients of the three services, and close them at the end."""
    with (
        connect(
            settings.llm_url, timeout_s=settings.service_timeout_s, key=settings.client_key
        ) as llm,
        connect(
            settings.detector_url, timeout_s=settings.service_timeout_s, key=settings.client_key
        ) as detector,
        connect(
            settings.segmenter_url, timeout_s=settings.service_timeout_s, key=settings.client_key
        ) as segmenter,
    ):
        yield Services(
            PrompterClient(llm),
            DetectorClient(detector),
            TextEncoderClient(segmenter),
            CropRankerClient(segmenter),
        )


def main() -> None:
    """Dispatch until SIGTERM or SIGINT."""
    settings = WorkerSettings()
    configure_logging(settings.log_level, settings.log_format)
    settings.runs_dir.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    app = create_celery(settings.broker_url)
    metrics = DispatcherMetrics(settings.runs_dir, lambda: read_broker(app))
    if settings.metrics_port:
        serve_metrics(
            metrics,
            host=settings.metrics_host,
            port=settings.metrics_port,
            allowed_hosts=settings.allowed_hosts,
        )
    with connect_services(settings) as services:
        dispatcher = Dispatcher(
            runs_dir=settings.runs_dir,
            data_dir=settings.data_dir,
            services=services,
            publisher=CeleryPublisher(app),
            lease_s=settings.lease_s,
            republish_s=settings.republish_s,
            message_s=settings.message_s,
            patience_s=settings.tick_s,
            metrics=metrics,
        )
        dispatcher.run(tick_s=settings.tick_s, stop=stop)


if __name__ == "__main__":
    run_main(main)
