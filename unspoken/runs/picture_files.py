"""Pictures of a dataset's source: members of tar shards by their name, or files beside a table.

A tar is scanned for its headers once a process; after that any member is one seek away.
"""

import tarfile
from pathlib import Path

from unspoken.errors import InvalidInput, NotFound
from unspoken.file_formats import FILE_FORMATS
from unspoken.images import Picture, decode_picture


class PictureFiles:
    """Reads pictures by the names that a generated dataset gives them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._members: dict[str, dict[str, tuple[int, int]]] = {}

    def read(self, shard: str, member: str) -> Picture:
        """The decoded picture, EXIF orientation applied. Raises NotFound, NotAnImage."""
        return decode_picture(self._encoded(shard, member), formats=FILE_FORMATS)

    def read_labelled(
        self, shard: str, member: str, *, size_hw: tuple[int, int], sha256: str | None
    ) -> Picture:
        """The same, where it is still the picture that was labelled: else its boxes would lie.

        Raises NotFound, NotAnImage, InvalidInput where the file has changed.
        """
        picture = self.read(shard, member)
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

    def _encoded(self, shard: str, member: str) -> bytes:
        if not shard.endswith(".tar"):
            return self._inside(member).read_bytes()
        if shard not in self._members:
            self._members[shard] = self._scan(shard)
        if member not in self._members[shard]:
            raise NotFound(f"{shard} has no member {member!r}")
        offset, size = self._members[shard][member]
        with self._inside(shard).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _scan(self, shard: str) -> dict[str, tuple[int, int]]:
        try:
            # Plain alone, as sources are read: a packed one may be a bomb.
            with tarfile.open(self._inside(shard), "r:") as tar:
                return {each.name: (each.offset_data, each.size) for each in tar if each.isfile()}
        except tarfile.TarError as error:
            raise NotFound(f"{shard} is no tar that can be read: {error}") from error

    def _inside(self, name: str) -> Path:
        root = self._root.resolve()
        try:
            path = (root / name).resolve()
            if path.is_relative_to(root) and path.is_file():
                return path
        except (ValueError, RuntimeError):  # a zero byte, a ring of links
            pass
        raise NotFound(f"no file {name!r} below {self._root}: are these the dataset's pictures?")
