"""Access to the broker: publish messages; read queue lengths and memory use."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from unspoken.errors import InvalidInput
from unspoken.safe_text import reason_of
from worker.process.celery_app import LABEL_TASK, create_celery
from worker.process.message import QUEUES

ANSWER_S = 2.0
_UNREACHABLE = (OperationalError, RedisError, OSError)


@dataclass(frozen=True)
class CeleryPublisher:
    """A publisher that sends Celery messages over Redis."""

    app: Celery

    def publish(self, run_id: str, chunk_ids: Sequence[int], *, queue: str) -> None:
        """See Publisher."""
        try:
            self.app.send_task(LABEL_TASK, args=[run_id, list(chunk_ids)], queue=queue, retry=False)
        except _UNREACHABLE as error:
            raise ConnectionError(
                f"the broker did not accept a message: {reason_of(error)}"
            ) from error

    def num_queued(self, queue: str) -> int:
        """See Publisher."""
        return queue_length(self.app, queue)


def queue_length(app: Celery, queue: str) -> int:
    """Return the number of messages that no worker has taken. Raises ConnectionError."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=ANSWER_S)
            return int(connection.default_channel.client.llen(queue))
    except _UNREACHABLE as error:
        raise ConnectionError(f"the broker does not answer: {reason_of(error)}") from error


def check_broker_answers(url: str, *, name: str) -> None:
    """Raise InvalidInput if no Redis answers at the address, which messages do not contain.

    name: the option that holds the address.
    """
    try:
        with create_celery(url).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=ANSWER_S)
    except _UNREACHABLE as error:
        raise InvalidInput(
            f"{name}: no Redis answers at this address ({reason_of(error)}). Start it, or omit "
            f"{name} to use a Redis of this stack"
        ) from error


class BrokerState(NamedTuple):
    """State of the Redis that Celery uses; memory in bytes."""

    queued: dict[str, int]
    """Queue -> number of messages that no worker has taken."""
    unacked: int
    """Number of messages that a worker has taken and not acknowledged."""
    oldest_s: float
    """Age of the oldest unacknowledged message; 0 if there is none. It is this host's time minus
    the worker's time stamp, so it is wrong by the difference of their clocks."""
    memory: int
    memory_limit: int
    """Redis's `maxmemory`; 0 means no limit."""


def read_broker(app: Celery) -> BrokerState:
    """Read the state once. Raises ConnectionError if Redis does not answer in a few seconds."""
    timeouts = {"socket_timeout": ANSWER_S, "retry_on_timeout": False}
    try:
        with app.connection_for_write(transport_options=timeouts) as connection:
            connection.ensure_connection(max_retries=1, timeout=ANSWER_S)
            channel = connection.default_channel
            client = channel.client
            oldest = client.zrange(channel.unacked_index_key, 0, 0, withscores=True)
            memory = client.info("memory")
            return BrokerState(
                queued={queue: int(client.llen(queue)) for queue in QUEUES},
                unacked=int(client.hlen(channel.unacked_key)),
                oldest_s=max(0.0, time.time() - oldest[0][1]) if oldest else 0.0,
                memory=int(memory["used_memory"]),
                memory_limit=int(memory.get("maxmemory", 0)),
            )
    except _UNREACHABLE as error:
        raise ConnectionError(f"the broker does not answer: {reason_of(error)}") from error
