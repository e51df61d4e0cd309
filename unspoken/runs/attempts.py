"""How often a chunk was tried, and which of its items were under way when a try ended badly.

attempts/000007.2 is the second try at chunk 7, created exclusively before any work. Its lines say
what was under way: `+3` where item 3 was taken up, `-3` where it was put down. A process that is
killed leaves its items taken up; that is all that anybody knows of why it ended. A try that had to
wait for a service is removed: it was none.

Numbers have no gaps, so that a chunk's tries are found without listing the folder. Runs of earlier
versions left `000007.2.waited` where a try was none, and no lines.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unspoken.runs import storage

MAX_ATTEMPTS = 3
"""A chunk that was tried so often is done item by item; an item that was under way so often when
its worker ended is given up."""


@dataclass(frozen=True)
class Attempt:
    """One try at a chunk."""

    chunk_id: int
    number: int
    path: Path
    journal: storage.Journal

    def succeeded(self) -> None:
        """The chunk is committed: nobody will ask what was under way."""
        with suppress(OSError):
            self.journal.clear()

    def close(self) -> None:
        """The try is over, for good or ill."""
        self.journal.close()

    def wait_instead(self) -> None:
        """The try is not counted: a service or a disk was in trouble; the chunk is not to blame."""
        storage.remove(self.path)

    def under_way(self, items: Sequence[int]) -> "UnderWay":
        """Mark items while they are worked on; the marks stay where that ends badly."""
        return UnderWay(self.journal, items)


class UnderWay:
    """A block in which items are worked on."""

    def __init__(self, journal: storage.Journal, items: Sequence[int]) -> None:
        self._journal = journal
        self._numbers = " ".join(map(str, items)).encode()

    def __enter__(self) -> None:
        self._journal.append(b"+" + self._numbers + b"\n")

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self._journal.append(b"-" + self._numbers + b"\n")


@dataclass(frozen=True)
class PastAttempts:
    """What is known of a chunk's tries so far."""

    number: int
    """Tries, without those that waited."""
    last: int
    """Number of the last one, 0 before the first."""
    ended_with: Counter[int]
    """Item -> how many tries ended while it was under way."""


def past_attempts(folder: Path, chunk_id: int) -> PastAttempts:
    """Look up the tries of one chunk: as many calls as there are tries, and one or two more."""
    number, last, ended_with = 0, 0, Counter[int]()
    while True:
        path = _path(folder, chunk_id, last + 1)
        lines = storage.read(path)
        if lines is None and not storage.exists(_waited(path)):
            return PastAttempts(number, last, ended_with)
        last += 1
        if lines is not None:
            number += 1
            ended_with.update(_left_under_way(lines.decode()))


def begin_attempt(folder: Path, chunk_id: int, *, after: int) -> Attempt:
    """Note, before any work, that a chunk is tried once more. Raises OSError.

    after: number of its last try.
    """
    while True:
        after += 1
        path = _path(folder, chunk_id, after)
        journal = storage.create_journal(path)
        if journal is not None:
            return Attempt(chunk_id=chunk_id, number=after, path=path, journal=journal)


def _path(folder: Path, chunk_id: int, number: int) -> Path:
    return folder / f"{chunk_id:06d}.{number}"


def _waited(path: Path) -> Path:
    return path.with_name(path.name + ".waited")


def _left_under_way(lines: str) -> set[int]:
    """Items that were taken up and not put down; a last line that was cut off counts as read."""
    left: set[int] = set()
    for line in lines.splitlines():
        numbers = {int(number) for number in line[1:].split() if number.isdecimal()}
        left = left | numbers if line.startswith("+") else left - numbers
    return left
