"""Celery as a doorbell: messages name a run and chunks, and losing one loses nothing.

Redis with late acknowledgement is neither at-least-once nor at-most-once (celery#4354, kombu#1836);
the truth is the commit record beside each shard, and the dispatcher rings again.
"""

from celery import Celery

QUEUE = "bulk"
LABEL_TASK = "unspoken.label_chunks"
SOFT_TIME_LIMIT_S = 480
TIME_LIMIT_S = 600
# Redis hands a task out again after this; keep it above the time limit, or chunks run twice.
VISIBILITY_TIMEOUT_S = 900


def create_celery(broker_url: str) -> Celery:
    """A Celery app with the project's settings and no tasks yet."""
    app = Celery("unspoken", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_queues=None,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_track_started=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_soft_time_limit=SOFT_TIME_LIMIT_S,
        task_time_limit=TIME_LIMIT_S,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_soft_shutdown_timeout=60,
        worker_enable_soft_shutdown_on_idle=True,
        worker_max_tasks_per_child=500,
        worker_max_memory_per_child=1_000_000,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        visibility_timeout=VISIBILITY_TIMEOUT_S,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "health_check_interval": 25,
            "socket_timeout": 30,
            "retry_on_timeout": True,
            "global_keyprefix": "unspoken:",
        },
    )
    return app
