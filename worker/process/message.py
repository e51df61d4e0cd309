"""Messages that tell a worker which chunks are ready: their queues, content and publisher port.

A module of its own because the rules of publishing must not depend on Celery or Redis.
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field

INTERACTIVE, BULK = "interactive", "bulk"
QUEUES = (INTERACTIVE, BULK)
"""The queues, in the order in which a worker empties them."""
MAX_CHUNKS_PER_MESSAGE = 1024


class Message(BaseModel):
    """Content of a message: a run id and chunk ids only."""

    model_config = ConfigDict(frozen=True, strict=True)

    run_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    chunk_ids: Annotated[
        list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_CHUNKS_PER_MESSAGE)
    ]


class Publisher(Protocol):
    """A publisher of messages. Methods raise ConnectionError if the broker does not answer.

    The dispatcher publishes lost messages again.
    """

    def publish(self, run_id: str, chunk_ids: Sequence[int], *, queue: str) -> None:
        """Publish a message to a queue."""

    def num_queued(self, queue: str) -> int:
        """Return the number of messages in a queue that no worker has taken."""
