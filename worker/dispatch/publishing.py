"""Publishes messages for the open chunks of a run: how many, in which queue, and when again.

A message counts as lost if its chunks are neither committed nor leased some time after it was
published; its chunks are then published again. While the queue is not empty this time is longer,
because the message may still be in it.
"""

from unspoken.runs.plan import Plan
from unspoken.runs.store import Run
from worker.dispatch.run_state import RunState
from worker.process.message import BULK, INTERACTIVE, MAX_CHUNKS_PER_MESSAGE, Publisher

# Limits of the queue's length, chosen so that workers never wait for the dispatcher.
MIN_QUEUED, QUEUED_PER_SLOT = 4, 2
REPUBLISH_FACTOR_WITH_QUEUE = 30
# An inline run of at most this many rows is interactive: a person is waiting for it.
INTERACTIVE_ROWS = 100


def publish_open_chunks(
    run_state: RunState,
    plan: Plan,
    publisher: Publisher,
    *,
    num_slots: int,
    republish_s: float,
    message_s: float,
) -> None:
    """Fill the run's queue with messages, as far as its circuit breaker allows.

    num_slots: chunks that all workers can process at once; 0 until a worker reports. message_s:
    work time of one message. Raises ConnectionError if the broker does not answer.
    """
    queue = queue_of(run_state.run, plan)
    queued = publisher.num_queued(queue)
    most = _most_queued(num_slots, num_leased=len(run_state.leased))
    room, allowed = most - queued, run_state.breaker.num_messages()
    unanswered_s = republish_s * (REPUBLISH_FACTOR_WITH_QUEUE if queued else 1)
    for _ in range(room if allowed is None else min(room, allowed)):
        size = run_state.chunks_per_message(
            message_s, num_messages=most, most=MAX_CHUNKS_PER_MESSAGE
        )
        chunk_ids = run_state.take_due(size, unanswered_s=unanswered_s)
        if not chunk_ids:
            return
        publisher.publish(run_state.run.run_id, chunk_ids, queue=queue)
        run_state.breaker.note_published()


def queue_of(run: Run, plan: Plan) -> str:
    """Return the run's queue. Small inline runs do not queue behind millions of pictures."""
    return INTERACTIVE if run.source is None and plan.num_rows <= INTERACTIVE_ROWS else BULK


def _most_queued(num_slots: int, *, num_leased: int) -> int:
    """Return the longest length of a queue; based on the leases until a worker reports."""
    return QUEUED_PER_SLOT * num_slots or max(MIN_QUEUED, QUEUED_PER_SLOT * num_leased)
