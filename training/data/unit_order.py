"""An endless shuffled order of units. A unit is one mask or one box of a picture.

The units at places `start` to `stop` depend only on the seed and on these two numbers. Therefore a
killed run resumes with exactly the next sample, and ranks take adjacent ranges. A step of 128 boxes
has exactly 128, however many boxes each picture has.

Pictures are shuffled within groups of OPEN_FILES files, so that few files are open at a time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from unspoken.errors import InvalidInput

OPEN_FILES = 16


class Units(NamedTuple):
    """Some units of one picture."""

    picture: int
    units: tuple[int, ...]


class UnitOrder:
    """Shuffled order over all units of P pictures.

    counts: (P,) number of units of each picture; files: (P,) index of the file that contains it.
    """

    def __init__(self, counts: np.ndarray, *, seed: int, files: np.ndarray | None = None) -> None:
        self._counts = np.asarray(counts, dtype=np.int64)
        self._files = np.zeros(len(counts), np.int64) if files is None else np.asarray(files)
        self._seed = seed
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.units_per_epoch = int(self._counts.sum())
        if not self.units_per_epoch:
            raise InvalidInput("there is nothing to train on: no picture has a mask or a box")

    def take(self, start: int, stop: int) -> list[Units]:
        """Return the units at places `start` to `stop`, grouped by picture."""
        return list(self._walk(start, stop))

    def _walk(self, start: int, stop: int) -> Iterator[Units]:
        while start < stop:
            epoch, place = divmod(start, self.units_per_epoch)
            order, ends = self._epoch(epoch)
            position = int(np.searchsorted(ends, place, side="right"))
            picture = int(order[position])
            first = place - (int(ends[position]) - int(self._counts[picture]))
            last = min(int(self._counts[picture]), first + stop - start)
            rng = np.random.default_rng((self._seed, epoch, picture))
            units = rng.permutation(int(self._counts[picture]))[first:last]
            yield Units(picture, tuple(int(unit) for unit in units))
            start += last - first

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of the pictures and the place after each picture's last unit."""
        if epoch not in self._epochs:
            rng = np.random.default_rng((self._seed, epoch))
            rank_of_file = rng.permutation(int(self._files.max()) + 1)
            window = rank_of_file[self._files] // OPEN_FILES
            order = np.lexsort((rng.random(len(self._counts)), window))
            self._epochs = {e: kept for e, kept in self._epochs.items() if e == epoch - 1}
            self._epochs[epoch] = (order, np.cumsum(self._counts[order]))
        return self._epochs[epoch]
