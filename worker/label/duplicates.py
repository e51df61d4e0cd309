"""Finds duplicate pictures in a run: the same bytes or, if asked, a similar look.

The same file with another caption is not a duplicate, because tables often have a row for each
caption. Duplicates are found once, when a run is planned, in the order of its source. So which of
two rows is kept does not depend on which worker was faster. Takes about 150 bytes per picture.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from enum import Enum
from itertools import pairwise
from zlib import crc32

import numpy as np
from PIL import Image

HASH_SIDE = 8
HASH_BITS = HASH_SIDE * HASH_SIDE


class Seen(Enum):
    """Relation of a row's picture to the rows before it."""

    NEW = "new"
    OTHER_CAPTION = "other caption"
    """The same file was seen before, with other captions."""
    DUPLICATE = "duplicate"


class SeenPictures:
    """Remembers the pictures of a run. Each picture that is checked is also added."""

    def __init__(self, *, max_hash_distance: int | None = None) -> None:
        self._first: dict[bytes, int] = {}
        self._captions: set[bytes] = set()
        self._looks = None if max_hash_distance is None else _NearHashes(max_hash_distance)

    @property
    def wants_pixels(self) -> bool:
        """True if pictures are also compared by their look."""
        return self._looks is not None

    def saw_bytes(self, encoded: bytes, *, file: str, caption: str) -> Seen:
        """Compare a picture's bytes with earlier ones. `file`: name of the file it comes from."""
        picture = hashlib.blake2b(encoded, digest_size=16).digest()
        here, said = crc32(file.encode()), crc32(caption.encode())
        first = self._first.get(picture)
        if first is None:
            self._first[picture] = here << 32 | said  # takes less memory than a tuple
            return Seen.NEW
        again = picture + said.to_bytes(4, "big")
        if first >> 32 != here or first & 0xFFFFFFFF == said or again in self._captions:
            return Seen.DUPLICATE
        self._captions.add(again)
        return Seen.OTHER_CAPTION

    def saw_look(self, pixels: np.ndarray) -> bool:
        """Return True if a similar picture was seen before. pixels: (H, W, 3) uint8."""
        return self._looks is not None and self._looks.saw(difference_hash(pixels))


def difference_hash(pixels: np.ndarray) -> int:
    """Return the 64-bit difference hash of a picture. pixels: (H, W, 3) uint8.

    Each bit is 1 if a cell of the 9 x 8 grey thumbnail is darker than the cell to its right.
    Scaling, recompressing or brightening a picture keeps its hash.
    """
    grey = Image.fromarray(pixels).convert("L")
    thumbnail = np.asarray(grey.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.LANCZOS))
    darker = thumbnail[:, :-1] < thumbnail[:, 1:]  # (8, 8)
    return int.from_bytes(np.packbits(darker).tobytes(), "big")


class _NearHashes:
    """An index of hashes that finds those within `distance` bits of a given one.

    Hashes are split into distance + 1 bands. Two hashes that differ in at most `distance` bits
    agree in at least one band, so only hashes that share a band are compared.
    """

    def __init__(self, distance: int) -> None:
        self._distance = distance
        self._bands: dict[tuple[int, int], list[int]] = defaultdict(list)

    def saw(self, value: int) -> bool:
        keys = list(self._keys(value))
        near = (other for key in keys for other in self._bands.get(key, ()))
        if any((value ^ other).bit_count() <= self._distance for other in near):
            return True
        for key in keys:
            self._bands[key].append(value)
        return False

    def _keys(self, value: int) -> Iterable[tuple[int, int]]:
        num_bands = self._distance + 1
        cuts = [HASH_BITS * band // num_bands for band in range(num_bands + 1)]
        for band, (start, stop) in enumerate(pairwise(cuts)):
            yield band, value >> start & (1 << stop - start) - 1
