"""`python -m worker`: a Celery worker that labels chunks through the services.

SIGTERM (and the first Ctrl-C) starts a graceful shutdown. The worker starts no further chunk. It
has WORKER_GRACE_S to finish the chunks it is working on, then releases the others and exits. This
also works when the connection to Redis is lost.
"""

import functools
import os

from celery import Celery, signals
from celery.worker import state

from unspoken.config.settings import run_main, start_logging
from worker.process.attempt import WorkerContext
from worker.process.broker import queue_length
from worker.process.celery_app import create_celery, release_inherited_sockets
from worker.process.graceful_shutdown import GracefulShutdown
from worker.process.heartbeat import Heartbeat
from worker.process.message import QUEUES
from worker.process.settings import WorkerSettings
from worker.process.tasks import connect_context, register_tasks
from worker.process.watchdog import Watchdog


def main() -> None:
    """Run the worker until it is told to stop."""
    settings = WorkerSettings()
    start_logging(settings)
    # Celery does not configure logging when a receiver is connected to this signal.
    signals.setup_logging.connect(_leave_logging_alone)
    app = create_celery(settings.broker_url)
    shutdown = GracefulShutdown()

    # Built once per pool process, because clients and sessions do not survive a fork.
    @functools.cache
    def context() -> WorkerContext:
        return connect_context(settings, shutdown)

    register_tasks(app, context)
    _release_children()
    _connect_shutdown(app, shutdown, settings)
    heartbeat = Heartbeat(settings.runs_dir, slots=settings.concurrency)
    signals.worker_ready.connect(lambda **_: heartbeat.start(), weak=False)
    signals.worker_shutdown.connect(lambda **_: heartbeat.end(), weak=False)
    app.worker_main(
        [
            "--quiet",  # no banner, so that the log consists of log lines only
            "worker",
            f"--pool={settings.pool}",
            f"--concurrency={settings.concurrency}",
            f"--queues={','.join(QUEUES)}",
            f"--loglevel={settings.log_level}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "-Ofair",
        ]
    )


def _leave_logging_alone(**_: object) -> None:
    """Do nothing. Celery only checks that the signal has a receiver."""


def _release_children() -> None:
    """Release the main process's connections in each process that the pool forks."""
    main_pid = os.getpid()

    def release(**_: object) -> None:
        if os.getpid() != main_pid:  # pools other than prefork also send the signal
            release_inherited_sockets()

    signals.worker_process_init.connect(release, weak=False)


def _connect_shutdown(app: Celery, shutdown: GracefulShutdown, settings: WorkerSettings) -> None:
    """Begin the shutdown at Celery's signal, and start the watchdog of the main process."""
    watchdog = Watchdog(
        shutdown=shutdown,
        slots=settings.concurrency,
        patience_s=settings.watchdog_s,
        num_queued=lambda: sum(queue_length(app, queue) for queue in QUEUES),
        num_busy=lambda: len(state.active_requests),
    )

    def begin_shutdown(**_: object) -> None:
        shutdown.end(grace_s=settings.grace_s)

    def took_message(**_: object) -> None:
        watchdog.took_message()

    signals.worker_shutting_down.connect(begin_shutdown, weak=False)
    signals.task_received.connect(took_message, weak=False)
    signals.worker_init.connect(lambda **_: watchdog.start(), weak=False)


if __name__ == "__main__":
    run_main(main)
