"""`python -m worker`: a Celery worker that labels chunks through the services.

SIGTERM (and the first Ctrl-C) ends its shift: no further chunk is begun, those in hand are finished
within WORKER_GRACE_S or given back, and the process ends, also where Redis is lost.
"""

import functools
import os

from celery import Celery, signals
from celery.worker import state

from unspoken.entry_point import run_main
from unspoken.logs import configure_logging
from worker.celery_app import QUEUES, create_celery, queue_length
from worker.heartbeat import Heartbeat
from worker.inherited import let_go_of_sockets
from worker.settings import WorkerSettings
from worker.shift import Shift
from worker.tasks import Bench, connect_bench, register_tasks
from worker.watchdog import Watchdog


def main() -> None:
    """Serve the queues until told to stop."""
    settings = WorkerSettings()
    configure_logging(settings.log_level, settings.log_format)
    # Celery, asked so, leaves the log to us.
    signals.setup_logging.connect(_leave_logging_alone)
    app = create_celery(settings.broker_url)
    shift = Shift()

    # Once per process that works: clients and sessions do not survive a fork.
    @functools.cache
    def bench() -> Bench:
        return connect_bench(settings, shift)

    register_tasks(app, bench)
    _release_children()
    _watch(app, shift, settings)
    heartbeat = Heartbeat(settings.runs_dir, slots=settings.concurrency)
    signals.worker_ready.connect(lambda **_: heartbeat.start(), weak=False)
    signals.worker_shutdown.connect(lambda **_: heartbeat.end(), weak=False)
    app.worker_main(
        [
            "--quiet",  # no banner: the log is lines
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
    """Somebody listens to the signal: that is all that Celery looks at."""


def _release_children() -> None:
    """Have processes of the pool let go of the main process's connections."""
    main_pid = os.getpid()

    def release(**_: object) -> None:
        if os.getpid() != main_pid:  # other pools than prefork send the signal, too
            let_go_of_sockets()

    signals.worker_process_init.connect(release, weak=False)


def _watch(app: Celery, shift: Shift, settings: WorkerSettings) -> None:
    """End the shift at Celery's signal, and keep an eye on the main process."""
    watchdog = Watchdog(
        shift=shift,
        slots=settings.concurrency,
        patience_s=settings.watchdog_s,
        num_queued=lambda: sum(queue_length(app, queue) for queue in QUEUES),
        num_busy=lambda: len(state.active_requests),
    )

    def end_shift(**_: object) -> None:
        shift.end(grace_s=settings.grace_s)

    def took_message(**_: object) -> None:
        watchdog.took_message()

    signals.worker_shutting_down.connect(end_shift, weak=False)
    signals.task_received.connect(took_message, weak=False)
    signals.worker_init.connect(lambda **_: watchdog.start(), weak=False)


if __name__ == "__main__":
    run_main(main)
