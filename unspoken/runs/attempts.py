"""Attempts at each chunk, with the items that were in progress when an attempt failed.

attempts/000007.2 is the second attempt at chunk 7. It is created exclusively before any work. Its
lines record progress: `+3` when a stage of work on item 3 starts, `-3` when the stage has ended,
`=3` when the whole item is done. A process that is killed leaves items started and not finished;
nothing else is known about why it ended. The file is removed if the attempt had to wait for a
service, because such an attempt does not count.

Attempt numbers have no gaps, so that a chunk's attempts are found without listing the folder.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unspoken.runs import storage

MAX_ATTEMPTS = 3
"""After this many attempts, a chunk is processed item by item. An item is given up if it was in
progress in this many attempts whose worker ended."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a chunk."""

    number: int
    path: Path
    journal: storage.Journal

    def succeeded(self) -> None:
        """Clear the journal once the chunk is committed, because it is no longer needed."""
        with suppress(OSError):
            self.journal.clear()

    def close(self) -> None:
        """Close the journal when the attempt ends, successful or not."""
        self.journal.close()

    def discard(self) -> None:
        """Remove the attempt so that it does not count: a service or the disk was unavailable."""
        storage.remove(self.path)

    def under_way(self, items: Sequence[int]) -> "InProgress":
        """Return a context manager that marks items in progress; the marks stay if it raises."""
        return InProgress(self.journal, items)

    def done(self, items: Sequence[int]) -> None:
        """Record items as done, so that the progress counts them before the chunk is committed."""
        if items:
            self.journal.append(b"=" + _numbers(items) + b"\n")


class InProgress:
    """A context manager that records items as started on entry and as finished on success."""

    def __init__(self, journal: storage.Journal, items: Sequence[int]) -> None:
        self._journal = journal
        self._numbers = _numbers(items)

    def __enter__(self) -> None:
        self._journal.append(b"+" + self._numbers + b"\n")

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self._journal.append(b"-" + self._numbers + b"\n")


@dataclass(frozen=True)
class PastAttempts:
    """Summary of a chunk's attempts so far."""

    number: int
    """Number of attempts that count, without those that waited for a service."""
    ended_with: Counter[int]
    """Item -> number of attempts that ended while it was in progress."""
    num_done: int = 0
    """Number of items that the last attempt has done."""


def past_attempts(folder: Path, chunk_id: int) -> PastAttempts:
    """Return a summary of one chunk's attempts.

    Costs one file system call per attempt, and one more.
    """
    number, ended_with, num_done = 0, Counter[int](), 0
    while (lines := storage.read(_path(folder, chunk_id, number + 1))) is not None:
        number += 1
        left, done = _read_journal(lines.decode())
        ended_with.update(left)
        num_done = len(done)
    return PastAttempts(number, ended_with, num_done)


def begin_attempt(folder: Path, chunk_id: int, *, after: int) -> Attempt:
    """Record a new attempt at a chunk. Call it before any work. Raises OSError.

    after: number of the chunk's attempts so far.
    """
    while True:
        after += 1
        path = _path(folder, chunk_id, after)
        journal = storage.create_journal(path)
        if journal is not None:
            return Attempt(number=after, path=path, journal=journal)


def _path(folder: Path, chunk_id: int, number: int) -> Path:
    return folder / f"{chunk_id:06d}.{number}"


def _numbers(items: Sequence[int]) -> bytes:
    return " ".join(map(str, items)).encode()


def _read_journal(lines: str) -> tuple[set[int], set[int]]:
    """Return the items that were started and not finished, and those that are done.

    A last line that was cut off is parsed as far as it goes.
    """
    left, done = set[int](), set[int]()
    for line in lines.splitlines():
        numbers = {int(number) for number in line[1:].split() if number.isdecimal()}
        left = left | numbers if line.startswith("+") else left - numbers
        if line.startswith("="):
            done |= numbers
    return left, done
