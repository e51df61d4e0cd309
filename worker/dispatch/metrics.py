"""The dispatcher's `/metrics`: Prometheus metrics of runs, queues and workers.

Metrics of runs come from the statuses that the dispatcher writes. Counters sum the differences
between them since this process started. The broker and the workers are read when Prometheus
scrapes. Only runs under way have series of their own, at most MAX_RUNS of them.
"""

import threading
import time
from collections import Counter as Sums
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from wsgiref.simple_server import WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from unspoken.config.browser_rules import BrowserRules, is_loopback_name, parse_rules
from unspoken.errors import Forbidden
from unspoken.wire.runs import ENDED, RunStatus
from worker.process.broker import BrokerState
from worker.process.heartbeat import count_workers

MAX_RUNS = 50
MAX_CONNECTIONS = 32
REQUEST_TIMEOUT_S = 10.0


class DispatcherMetrics:
    """A Prometheus collector of the dispatcher's metrics.

    broker: reads the broker's state; raises ConnectionError if the broker does not answer.
    """

    def __init__(self, runs_dir: Path, broker: Callable[[], BrokerState]) -> None:
        self._runs_dir = runs_dir
        self._read_broker = broker
        self._lock = threading.Lock()
        self._tick_s = 0.0
        self._open: dict[str, RunStatus] = {}
        self._commits = self._attempts = 0
        self._rows, self._dropped, self._failed = Sums[str](), Sums[str](), Sums[str]()
        self._stage_ms: defaultdict[str, float] = defaultdict(float)

    def note_tick(self) -> None:
        """Record that the dispatcher has just looked at all runs."""
        with self._lock:
            self._tick_s = time.time()

    def note_standby(self) -> None:
        """Clear the statuses, because another dispatcher works now and they are out of date."""
        with self._lock:
            self._tick_s = 0.0
            self._open.clear()

    def note_status(self, status: RunStatus) -> None:
        """Record a run's status and count what is new; the first status is only the baseline."""
        with self._lock:
            before = self._open.get(status.run_id)
            if before is not None:
                self._count(before, status)
            if status.state in ENDED:
                self._open.pop(status.run_id, None)
            else:
                most = max(status.attempts, before.attempts if before else 0)
                self._open[status.run_id] = status.model_copy(update={"attempts": most})

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; called when Prometheus scrapes."""
        with self._lock:
            runs = list(self._open.values())
            counters = list(self._counters())
            tick_s = self._tick_s
        yield _gauge(
            "unspoken_dispatcher_last_look_timestamp_seconds",
            "Time of the last tick of this dispatcher; 0 while it is on standby",
            tick_s,
        )
        yield from counters
        yield from _of_runs(runs)
        yield from self._of_workers()
        yield from self._of_broker()

    def _count(self, before: RunStatus, now: RunStatus) -> None:
        # A shard found damaged lowers the figures of a status, but a counter never decreases.
        self._commits += max(0, now.chunks_done - before.chunks_done)
        self._attempts += max(0, now.attempts - before.attempts)
        self._rows["labelled"] += max(0, now.labelled - before.labelled)
        # Subtracting Counters removes figures that are not positive.
        dropped = Sums(now.dropped) - Sums(before.dropped)
        failed = Sums(now.failed) - Sums(before.failed)
        self._dropped += dropped
        self._failed += failed
        self._rows["dropped"] += dropped.total()
        self._rows["failed"] += failed.total()
        for stage, ms in now.timings_ms.items():
            self._stage_ms[stage] += max(0.0, ms - before.timings_ms.get(stage, 0.0))

    def _counters(self) -> Iterator[Metric]:
        yield _counter("unspoken_commits", "Chunks committed", self._commits)
        yield _counter("unspoken_attempts", "Attempts at chunks", self._attempts)
        for name, about, label, sums in (
            ("unspoken_rows", "Rows committed", "status", self._rows),
            ("unspoken_rows_dropped", "Rows dropped by a filter", "reason", self._dropped),
            ("unspoken_rows_failed", "Rows that failed", "reason", self._failed),
        ):
            yield _labelled(CounterMetricFamily(name, about, labels=[label]), sums.items())
        seconds = ((stage, ms / 1000) for stage, ms in self._stage_ms.items() if stage != "total")
        stages = CounterMetricFamily(
            "unspoken_stage_seconds", "Time of workers in committed chunks", labels=["stage"]
        )
        yield _labelled(stages, seconds)

    def _of_workers(self) -> Iterator[Metric]:
        try:
            workers = count_workers(self._runs_dir)
        except OSError:  # the alert on the dispatcher's last look covers this case
            return
        family = GaugeMetricFamily(
            "unspoken_workers", "Worker processes by the state of their heartbeat", labels=["state"]
        )
        yield _labelled(family, [("alive", workers.alive), ("silent", workers.silent)])
        yield _gauge(
            "unspoken_worker_slots",
            "Number of chunks that live workers can process at once",
            workers.slots,
        )

    def _of_broker(self) -> Iterator[Metric]:
        try:
            state = self._read_broker()
        except ConnectionError:
            yield _gauge("unspoken_broker_up", "1 if Redis answers, else 0", 0)
            return
        yield _gauge("unspoken_broker_up", "1 if Redis answers, else 0", 1)
        family = GaugeMetricFamily(
            "unspoken_queue_messages", "Messages not yet delivered to a worker", labels=["queue"]
        )
        yield _labelled(family, state.queued.items())
        for name, about, value in (
            ("unspoken_unacked_messages", "Unacknowledged messages", state.unacked),
            (
                "unspoken_oldest_unacked_seconds",
                "Age of the oldest unacknowledged message",
                state.oldest_s,
            ),
            ("unspoken_broker_memory_bytes", "Memory used by Redis", state.memory),
            (
                "unspoken_broker_memory_limit_bytes",
                "Redis maxmemory; 0: no limit",
                state.memory_limit,
            ),
        ):
            yield _gauge(name, about, value)


def serve_metrics(
    metrics: DispatcherMetrics, *, host: str, port: int, allowed_hosts: str = ""
) -> int:
    """Serve /metrics from threads of this process; return the port. Raises OSError.

    allowed_hosts: accepted names in the Host header, in the form of UNSPOKEN_ALLOWED_HOSTS.
    """
    registry = CollectorRegistry()
    registry.register(metrics)
    rules = parse_rules(is_loopback=is_loopback_name(host), hosts=allowed_hosts, origins="")
    server, _ = start_http_server(port, addr=host, registry=registry)
    _bound_connections(server)
    app = server.get_app()
    assert app is not None, "start_http_server has set it"
    server.set_app(_guarded(app, rules))
    return int(server.server_port)


def _bound_connections(server: WSGIServer) -> None:
    """Close connections that send no request in time, and those beyond `MAX_CONNECTIONS`.

    They are limited because each takes a thread and a file descriptor of the dispatcher.
    """
    places = threading.BoundedSemaphore(MAX_CONNECTIONS)

    class Handler(server.RequestHandlerClass):  # type: ignore[name-defined, misc]
        timeout = REQUEST_TIMEOUT_S

        def handle(self) -> None:
            if not places.acquire(blocking=False):
                return
            try:
                with suppress(TimeoutError, ConnectionError):
                    super().handle()
            finally:
                places.release()

    server.RequestHandlerClass = Handler


def _guarded(app: WSGIApplication, rules: BrowserRules) -> WSGIApplication:
    """Wrap the app in middleware that replies 403 to requests with a foreign Host or Origin."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            rules.check(
                method=environ["REQUEST_METHOD"],
                host=environ.get("HTTP_HOST"),
                origin=environ.get("HTTP_ORIGIN"),
                fetch_site=environ.get("HTTP_SEC_FETCH_SITE"),
            )
        except Forbidden as error:
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [error.message.encode()]
        return app(environ, start_response)

    return answer


def _of_runs(runs: list[RunStatus]) -> Iterator[Metric]:
    states = Sums(run.state for run in runs)
    family = GaugeMetricFamily("unspoken_runs", "Runs in progress", labels=["state"])
    yield _labelled(family, [(s, states[s]) for s in ("planned", "running", "finishing")])
    some = runs[:MAX_RUNS]
    for name, about, values in (
        ("unspoken_run_rows", "Rows planned", [(r.run_id, r.total) for r in some]),
        ("unspoken_run_rows_done", "Rows committed", [(r.run_id, r.done) for r in some]),
        ("unspoken_run_leases", "Chunks with a lease", [(r.run_id, r.chunks_leased) for r in some]),
        (
            "unspoken_run_waits",
            "1 if the run is waiting or paused",
            [(r.run_id, int(r.state == "running" and bool(r.message))) for r in some],
        ),
        (
            "unspoken_run_seconds_left",
            "Estimated remaining time by the recent rate",
            [(r.run_id, r.seconds_left) for r in some if r.seconds_left is not None],
        ),
    ):
        yield _labelled(GaugeMetricFamily(name, about, labels=["run"]), values)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(name, about, value=value)


def _labelled(
    family: GaugeMetricFamily | CounterMetricFamily, values: Iterable[tuple[str, float]]
) -> Metric:
    for label, value in values:
        family.add_metric([label], value)
    return family
