"""Telling workers that chunks are open. A message that is lost is sent again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from unspoken.safe_text import reason_of
from worker.celery_app import LABEL_TASK, queue_length


class Doorbell(Protocol):
    """Tells workers that chunks are open. Raises ConnectionError while nobody can be told."""

    def ring(self, run_id: str, chunk_ids: Sequence[int], *, queue: str) -> None:
        """Put a message into a queue."""

    def num_queued(self, queue: str) -> int:
        """Messages that no worker has taken yet."""


@dataclass(frozen=True)
class CeleryDoorbell:
    """The doorbell as Celery messages over Redis."""

    app: Celery

    def ring(self, run_id: str, chunk_ids: Sequence[int], *, queue: str) -> None:
        """See Doorbell."""
        try:
            self.app.send_task(LABEL_TASK, args=[run_id, list(chunk_ids)], queue=queue, retry=False)
        except (OperationalError, RedisError, OSError) as error:
            raise ConnectionError(
                f"the broker did not take a message: {reason_of(error)}"
            ) from error

    def num_queued(self, queue: str) -> int:
        """See Doorbell."""
        return queue_length(self.app, queue)
