"""Splits the items of a chunk into batches for a retry, so that poison items are found.

An item that was in progress when an attempt failed is a suspect. Suspects go first and in small
batches, so that a poison item ends the attempt before other items have cost time:

* an item suspected twice is a batch of its own,
* items suspected once are split into batches of an eighth of their number,
* all other items are the last batch.

After MAX_ATTEMPTS attempts, every item is a batch of its own. An item suspected MAX_ATTEMPTS times
is a poison item and is not started again.
"""

from unspoken.runs.attempts import MAX_ATTEMPTS, PastAttempts

_PARTS = 8


def poison_items(past: PastAttempts) -> frozenset[int]:
    """Return the poison items: MAX_ATTEMPTS attempts failed while they were in progress."""
    return frozenset(item for item, times in past.ended_with.items() if times >= MAX_ATTEMPTS)


def batches(num_items: int, past: PastAttempts) -> list[list[int]]:
    """Return batches of all items except the poison items, in the order in which to do them."""
    never, once, twice = (
        [item for item in range(num_items) if past.ended_with[item] == times] for times in range(3)
    )
    if past.number >= MAX_ATTEMPTS:
        return [[item] for item in (*twice, *once, *never)]
    parts = [[item] for item in twice]
    size = max(1, len(once) // _PARTS)
    parts += [once[start : start + size] for start in range(0, len(once), size)]
    return [*parts, never] if never else parts
