"""Reader of a dataset's source pictures: bytes of a tar, cells of a parquet table, or files.

A row has the picture's offset and size in its tar. If the tar was packed again since, the picture
is found by its member name, which may repeat.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from unspoken.errors import InvalidInput, NotFound
from unspoken.imaging.file_formats import FILE_FORMATS
from unspoken.imaging.images import MAX_BYTES, Picture, read_picture
from unspoken.imaging.parquet_pictures import PictureColumn
from unspoken.imaging.tar_members import TAR_ENDINGS, find_link_targets, iter_members
from unspoken.runs.dataset.rows import Row

OPEN_TABLES = 16
"""Maximum number of open parquet files; training mixes the pictures of the same number of files."""


class Bytes(NamedTuple):
    """A byte range of a file."""

    start: int
    size: int


class Place(NamedTuple):
    """A picture's place according to its dataset, and the digest of its bytes."""

    shard: str
    member: str
    at: Bytes | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, row: Row) -> "Place":
        """Return the place of a row's picture."""
        at = None
        if row.source_offset is not None and row.source_size is not None:
            at = Bytes(row.source_offset, row.source_size)
        return cls(row.source_shard, row.source_member, at, row.image_sha256)

    def is_of(self, encoded: bytes) -> bool:
        """Return True unless the dataset has another digest."""
        return self.sha256 in (None, hashlib.sha256(encoded).hexdigest())


class PictureFiles:
    """Reads pictures from the places that a generated dataset records."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._members: dict[str, dict[str, list[Bytes]]] = {}
        self._columns: dict[tuple[str, str], PictureColumn] = {}

    def read(self, place: Place) -> Picture:
        """Read the picture; its pixels are decoded on first use. Raises NotFound, NotAnImage."""
        return read_picture(self._encoded(place), formats=FILE_FORMATS)

    def read_labelled(self, place: Place, *, size_hw: tuple[int, int]) -> Picture:
        """Read the picture and check that it is the one that was labelled.

        Raises NotFound, NotAnImage; InvalidInput if the file has changed.
        """
        picture, member, sha256 = self.read(place), place.member, place.sha256
        if picture.size_hw != size_hw:
            (height, width), (was_height, was_width) = picture.size_hw, size_hw
            raise InvalidInput(
                f"{member} is not the picture that was labelled: it has {width} x {height} pixels, "
                f"and had {was_width} x {was_height}"
            )
        if sha256 not in (None, picture.sha256):
            raise InvalidInput(
                f"{member} is not the picture that was labelled: it has the same size in pixels "
                f"and other content (sha256 {picture.sha256[:12]}, was {(sha256 or '')[:12]})"
            )
        return picture

    def _encoded(self, place: Place) -> bytes:
        if place.shard.lower().endswith(TAR_ENDINGS):
            return self._of_tar(place)
        if place.shard.lower().endswith(".parquet") and place.member.startswith(f"{place.shard}/"):
            return self._of_table(place)
        return self._inside(place.member).read_bytes()

    def _of_tar(self, place: Place) -> bytes:
        if place.at is not None:
            encoded = self._read(place.shard, place.at)
            if place.is_of(encoded):
                return encoded
        if place.shard not in self._members:
            self._members[place.shard] = self._scan(place.shard)
        named = self._members[place.shard].get(place.member)
        if not named:
            raise NotFound(f"{place.shard} has no member {place.member!r}")
        found = (self._read(place.shard, at) for at in named)
        return next((each for each in found if place.is_of(each)), None) or self._read(
            place.shard, named[0]
        )

    def _read(self, shard: str, at: Bytes) -> bytes:
        if not 0 <= at.size <= MAX_BYTES or at.start < 0:
            raise InvalidInput(f"{shard}: no picture has {at.size} bytes at byte {at.start}")
        with self._inside(shard).open("rb") as file:
            file.seek(at.start)
            return file.read(at.size)

    def _scan(self, shard: str) -> dict[str, list[Bytes]]:
        """Index a tar's members by name. For a damaged tar, index those before the damage."""
        named: dict[str, list[Bytes]] = {}
        with self._inside(shard).open("rb") as stream:
            try:
                targets = find_link_targets(stream)
                for member in iter_members(stream):
                    target = targets.get(member.offset, member)
                    if target.refused is None and target.link_to is None:
                        named.setdefault(member.name, []).append(Bytes(target.start, target.size))
            except InvalidInput as error:
                if not named:
                    raise NotFound(f"{shard} is not a readable tar: {error}") from error
        return named

    def _of_table(self, place: Place) -> bytes:
        row, _, column = place.member.removeprefix(f"{place.shard}/").partition("/")
        key = (place.shard, column)
        if key not in self._columns:
            if len(self._columns) == OPEN_TABLES:
                self._columns.pop(next(iter(self._columns))).close()
            self._columns[key] = PictureColumn(self._inside(place.shard), column)
        encoded = self._columns[key].read(int(row)) if row.isdecimal() else None
        if encoded is None:
            raise NotFound(f"{place.shard} has no picture {place.member!r}")
        return encoded

    def _inside(self, name: str) -> Path:
        root = self._root.resolve()
        try:
            path = (root / name).resolve()
            if path.is_relative_to(root) and path.is_file():
                return path
        except (ValueError, RuntimeError):  # a zero byte, a loop of symbolic links
            pass
        raise NotFound(f"no file {name!r} below {self._root}: are these the dataset's pictures?")
