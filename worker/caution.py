"""Which items of a chunk are done together, after what became of its earlier tries.

Whoever was under way when a try ended badly may be why. So the suspects go first, and by
themselves: the worst ends the try before its neighbours cost anything. Twice suspected goes alone;
once suspected goes in an eighth of them all; the rest goes at once. Nobody is begun a fourth time.
"""

from unspoken.runs.attempts import MAX_ATTEMPTS, PastAttempts

_PARTS = 8


def poisonous(past: PastAttempts) -> frozenset[int]:
    """Items that are given up: so many tries ended while they were under way."""
    return frozenset(item for item, times in past.ended_with.items() if times >= MAX_ATTEMPTS)


def batches(num_items: int, past: PastAttempts) -> list[list[int]]:
    """All items but the poisonous, in the order in which to do them."""
    never, once, twice = (
        [item for item in range(num_items) if past.ended_with[item] == times] for times in range(3)
    )
    if past.number >= MAX_ATTEMPTS:
        return [[item] for item in (*twice, *once, *never)]
    parts = [[item] for item in twice]
    size = max(1, len(once) // _PARTS)
    parts += [once[start : start + size] for start in range(0, len(once), size)]
    return [*parts, never] if never else parts
