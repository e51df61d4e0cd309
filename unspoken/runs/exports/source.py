"""What exports read: the labelled rows of a dataset, and their pictures as files to hand on."""

import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from unspoken.encoded_picture import strip_metadata, trim_start
from unspoken.errors import InvalidInput, NotFound
from unspoken.file_formats import FILE_FORMATS
from unspoken.images import Picture
from unspoken.runs.picture_files import PictureFiles
from unspoken.runs.rows import Row
from unspoken.runs.shards import committed_records, iter_rows

ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


class UprightFile(NamedTuple):
    """An encoded picture that looks the same whether or not its reader knows EXIF."""

    encoded: bytes
    ending: str
    """'jpg', 'png' or 'webp': what the bytes are, whatever their source called them."""


def find_dataset(run_dir: Path) -> Path:
    """The dataset's folder, of a run's folder or of itself. Raises NotFound without any shard."""
    dataset_dir = run_dir / "dataset" if (run_dir / "dataset").is_dir() else run_dir
    if not any(dataset_dir.glob("shard-*.json")):
        raise NotFound(f"{run_dir} has no committed shards")
    return dataset_dir


def labelled_rows(dataset_dir: Path) -> Iterator[Row]:
    """The rows that exports hold, in the plan's order: an export's numbers count these, from 1."""
    return (row for row in iter_rows(dataset_dir) if row.status == "labelled")


def in_batches(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Rows, `size` at a time; the last batch may be smaller, none is empty."""
    left = iter(rows)
    while batch := list(islice(left, size)):
        yield batch


def detector_name(dataset_dir: Path) -> str:
    """name@revision of the detector that drew the boxes; several are joined by commas."""
    records = (record for _, record in committed_records(dataset_dir))
    names = {record.models["detector"] for record in records if "detector" in record.models}
    return ", ".join(sorted(names)) or "unknown"


class LabelledPictures:
    """The pictures of a dataset's rows, each checked to be the one that was labelled."""

    def __init__(self, run_dir: Path, *, root: Path | None = None) -> None:
        """`root`: what `source_shard` is relative to. Raises InvalidInput where it is not known.

        Without one it is the run's own `source/` of inline items, or the workspace's `data/`.
        """
        inside = (run_dir / "source", run_dir.parent.parent / "data")
        found = next((folder for folder in inside if folder.is_dir()), None)
        if root is None and found is None:
            raise InvalidInput(
                f"the pictures of {run_dir} lie elsewhere: name the folder that was labelled "
                "with --pictures"
            )
        self._files = PictureFiles(root or found or run_dir)

    def read(self, row: Row) -> Picture:
        """The decoded picture. Raises NotFound, InvalidInput where its file has changed."""
        size_hw = (row.image_height or 0, row.image_width or 0)  # a labelled row has both
        return self._files.read_labelled(
            row.source_shard, row.source_member, size_hw=size_hw, sha256=row.image_sha256
        )

    def read_upright(self, row: Row) -> UprightFile:
        """Return the picture's own bytes, or a new JPEG where few readers would show the same.

        Boxes count after the orientation is applied, which most readers ignore; and most read no
        GIF, BMP, TIFF or AVIF. Raises as `read`.
        """
        picture = self.read(row)
        kind, _, orientation = strip_metadata(picture.encoded, formats=FILE_FORMATS)
        if orientation == 1 and kind in ENDINGS:
            return UprightFile(trim_start(picture.encoded), ENDINGS[kind])
        return UprightFile(encode_jpeg(Image.fromarray(picture.pixels), quality=95), "jpg")


def encode_jpeg(image: Image.Image, *, quality: int) -> bytes:
    """The file's bytes."""
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()
