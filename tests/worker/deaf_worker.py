"""`python -m tests.worker.deaf_worker`: the real worker, which soon after its start takes nothing.

So it has been seen of Celery: alive, connected to Redis, its consumer gone.
"""

from celery import signals

import worker.__main__


def go_deaf(sender, **_):
    sender.task_consumer.cancel()


if __name__ == "__main__":
    signals.worker_ready.connect(go_deaf, weak=False)
    worker.__main__.main()
