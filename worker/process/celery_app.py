"""The Celery app, and the workarounds that it needs when the broker is lost.

With late acknowledgement, Redis may lose a message and may deliver it twice (celery#4354,
kombu#1836). Therefore a message only names a run and chunks. The commit record beside each shard
decides what is done, and the dispatcher publishes missing messages again.
"""

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection, Queue
from kombu.transport import virtual
from kombu.transport.redis import Channel, QoS, Transport
from redis.exceptions import RedisError

from worker.process.message import BULK, QUEUES

LABEL_TASK = "unspoken.label_chunks"
SOFT_TIME_LIMIT_S = 480
TIME_LIMIT_S = 600
# Redis delivers a task again after this time. Keep it above the time limit, or chunks run twice.
VISIBILITY_TIMEOUT_S = 900
# Longest pause between two attempts of a worker to reconnect to Redis.
RECONNECT_S = 5.0
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
"""Errors that kombu raises for a message that is not JSON or has an incomplete envelope."""
logger = logging.getLogger(__name__)


class _ForgettingUnacked(QoS):  # type: ignore[misc]
    """Forgets a message whose acknowledgement failed because the broker was lost.

    kombu 5.7 counts such a message as still being processed. A worker with too many of them
    requests no further message. It then never notices that the broker was lost, and waits forever.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        except (RedisError, OSError):
            virtual.QoS.ack(self, delivery_tag)
            raise

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002
        """Put a lost worker's message back into its queue; drop it if it cannot be read."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except _UNREADABLE:
            logger.exception("dropped a message that cannot be read")
            self._remove_from_indices(tag).execute()


class _Channel(Channel):  # type: ignore[misc]
    """Drops messages that cannot be parsed. With kombu 5.7 such a message would end the worker.

    Redis may hold such messages after damage to its append-only file. The dispatcher publishes the
    missing chunks again.
    """

    QoS = _ForgettingUnacked

    def _brpop_read(self, **options: Any) -> Any:
        delivered_before = set(self.qos._delivered)
        try:
            return super()._brpop_read(**options)
        except _UNREADABLE:
            logger.exception("dropped a message that cannot be read")
            # Otherwise the message stays unacknowledged, and is delivered again after shutdown.
            for tag in set(self.qos._delivered) - delivered_before:
                self.qos.ack(tag)
            raise Empty from None


class _Transport(Transport):  # type: ignore[misc]
    Channel = _Channel


class _QuickConnection(Connection):  # type: ignore[misc]
    """Pauses at most five seconds between attempts to reconnect; kombu pauses up to thirty.

    It also survives the loss of the broker. kombu 5.7 then returns messages to a broker whose
    address it has already dropped, and the resulting AttributeError would end the worker.
    """

    def get_transport_cls(self) -> Any:
        found = super().get_transport_cls()
        return _Transport if found is Transport else found

    def _ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("interval_start", 1)
        kwargs.setdefault("interval_step", 1)
        kwargs.setdefault("interval_max", RECONNECT_S)
        return super()._ensure_connection(*args, **kwargs)

    def maybe_close_channel(self, channel: Any) -> None:
        with suppress(AttributeError):
            super().maybe_close_channel(channel)


class _Amqp(AMQP):  # type: ignore[misc]
    Connection = _QuickConnection


def create_celery(broker_url: str) -> Celery:
    """Return a Celery app with the project's settings and without tasks."""
    app = Celery("unspoken", broker=broker_url, set_as_current=False, amqp=_Amqp)
    app.conf.update(
        task_default_queue=BULK,
        task_queues=[Queue(name) for name in QUEUES],
        task_create_missing_queues=False,
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
        # Remote control is off, so that nobody with access to the broker can use it.
        worker_enable_remote_control=False,
        # A running chunk does not need the broker, so it is finished and committed.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_prefetch_count_reduction=False,
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
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "socket_timeout": 30,
            # After a reset, a retry would wait forever for the reply to a command that the new
            # connection never sent, and block the main process. Celery itself reconnects.
            "retry_on_timeout": False,
            "global_keyprefix": "unspoken:",
            "queue_order_strategy": "priority",
        },
    )
    return app


def release_inherited_sockets() -> None:
    """Replace every socket that a pool process inherited across fork by /dev/null.

    A child inherits its parent's connections to Redis. If such a connection breaks, the parent
    closes it. But epoll goes on reporting the socket while the child holds it, under a descriptor
    that the parent can no longer unregister. The parent's event loop then spins on a whole core
    until the child exits (celery#1845, celery#5299).

    The descriptors stay open, because inherited objects still refer to them. Such an object would
    otherwise close whatever file gets the same descriptor next. The standard streams stay.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for path in list(Path("/dev/fd").iterdir()):
        descriptor = int(path.name)
        if descriptor > 2 and _is_socket(descriptor):
            os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # the descriptor of the directory listing itself
        return False
