"""`python -m tests.worker.process.deaf_worker`: the real worker, which soon stops taking messages.

Celery has been observed in this state: alive and connected to Redis, but without a consumer.
"""

from celery import signals

import worker.__main__


def go_deaf(sender, **_):
    sender.task_consumer.cancel()


if __name__ == "__main__":
    signals.worker_ready.connect(go_deaf, weak=False)
    worker.__main__.main()
