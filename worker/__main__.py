"""`python -m worker`: a Celery worker that labels chunks through the services."""

import functools

from worker.celery_app import QUEUE, create_celery
from worker.settings import WorkerSettings, configure_logging
from worker.tasks import Bench, connect_bench, register_tasks


def main() -> None:
    """Serve the queue until told to stop."""
    settings = WorkerSettings()
    configure_logging(settings.log_level)
    app = create_celery(settings.broker_url)

    # Once per process that works: clients and sessions do not survive a fork.
    @functools.cache
    def bench() -> Bench:
        return connect_bench(settings)

    register_tasks(app, bench)
    app.worker_main(
        [
            "worker",
            f"--pool={settings.pool}",
            f"--concurrency={settings.concurrency}",
            f"--queues={QUEUE}",
            f"--loglevel={settings.log_level}",
            "--without-gossip",
            "--without-mingle",
            "-Ofair",
        ]
    )


if __name__ == "__main__":
    main()
