"""Pictures that came before in a run: the same bytes, or, if asked, the same look.

One file with another caption is no duplicate: tables often have a row for each caption. Duplicates
are found once, when a run is planned, in the order of its source: so which of two rows stays does
not depend on which worker was faster. Takes some 150 bytes a picture.
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
    """How a row's picture relates to the rows before it."""

    NEW = "new"
    OTHER_CAPTION = "other caption"
    """The same file came before, with other captions."""
    DUPLICATE = "duplicate"


class SeenPictures:
    """What came before; each question is also remembered."""

    def __init__(self, *, max_hash_distance: int | None = None) -> None:
        self._first: dict[bytes, int] = {}
        self._captions: set[bytes] = set()
        self._looks = None if max_hash_distance is None else _NearHashes(max_hash_distance)

    @property
    def wants_pixels(self) -> bool:
        """Whether looks are compared too."""
        return self._looks is not None

    def saw_bytes(self, encoded: bytes, *, file: str, caption: str) -> Seen:
        """Compare a picture's bytes with those before. `file` names where they are from."""
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
        """Whether a picture that looks like this one came before. pixels: (H, W, 3) uint8."""
        return self._looks is not None and self._looks.saw(difference_hash(pixels))


def difference_hash(pixels: np.ndarray) -> int:
    """64 bits: in a 9 x 8 grey thumbnail, is each cell darker than the one to its right?

    The same for a picture that was scaled, recompressed or brightened; pixels: (H, W, 3) uint8.
    """
    grey = Image.fromarray(pixels).convert("L")
    thumbnail = np.asarray(grey.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.LANCZOS))
    darker = thumbnail[:, :-1] < thumbnail[:, 1:]  # (8, 8)
    return int.from_bytes(np.packbits(darker).tobytes(), "big")


class _NearHashes:
    """Hashes that may differ in up to `distance` bits.

    Cut into distance + 1 bands, two such hashes agree in at least one of them, so that only the
    hashes that share a band are compared.
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
