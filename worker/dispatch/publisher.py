"""Publishes messages that tell workers which chunks are open. Lost messages are sent again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from unspoken.safe_text import reason_of
from worker.process.celery_app import LABEL_TASK, queue_length


class Publisher(Protocol):
    """A publisher of open chunks. Methods raise ConnectionError while the broker is away."""

    def publish(self, run_id: str, chunk_ids: Sequence[int], *, queue: str) -> None:
        """Publish a message to a queue."""

    def num_queued(self, queue: str) -> int:
        """Return the number of messages that no worker has taken yet."""


@dataclass(frozen=True)
class CeleryPublisher:
    """A publisher that sends Celery messages over Redis."""

    app: Celery

    def publish(self, run_id: str, chunk_ids: Sequence[int], *, queue: str) -> None:
        """See Publisher."""
        try:
            self.app.send_task(LABEL_TASK, args=[run_id, list(chunk_ids)], queue=queue, retry=False)
        except (OperationalError, RedisError, OSError) as error:
            raise ConnectionError(
                f"the broker did not take a message: {reason_of(error)}"
            ) from error

    def num_queued(self, queue: str) -> int:
        """See Publisher."""
        return queue_length(self.app, queue)
