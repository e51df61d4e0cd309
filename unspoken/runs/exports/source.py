"""What exports read: the labelled rows of a dataset, and their pictures as files to hand on."""

import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from unspoken.encoded_picture import JPEG_END, strip_metadata, trim_start
from unspoken.errors import InvalidInput, NotFound
from unspoken.file_formats import FILE_FORMATS
from unspoken.images import Picture
from unspoken.runs.location import locate_source
from unspoken.runs.picture_files import PictureFiles, Place
from unspoken.runs.rows import Row
from unspoken.runs.shards import committed_records, iter_rows
from unspoken.runs.store import read_run

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
        """`root`: the folder that `source_shard` is relative to; the run's own when absent.

        Raises InvalidInput where that folder is not known or not there.
        """
        self._files = PictureFiles(root or picture_root(run_dir))

    def read(self, row: Row) -> Picture:
        """The decoded picture. Raises NotFound, InvalidInput where its file has changed."""
        size_hw = (row.image_height or 0, row.image_width or 0)  # a labelled row has both
        return self._files.read_labelled(Place.of(row), size_hw=size_hw)

    def read_upright(self, row: Row) -> UprightFile:
        """Return the picture's own bytes, or a new JPEG where few readers would show the same.

        Boxes count after the orientation is applied, which most readers ignore; and most read no
        GIF, BMP, TIFF or AVIF. Raises as `read`.
        """
        picture = self.read(row)
        kind, content, orientation = strip_metadata(picture.encoded, formats=FILE_FORMATS)
        is_whole = kind != "JPEG" or content.endswith(JPEG_END)
        if orientation == 1 and kind in ENDINGS and is_whole:
            return UprightFile(trim_start(picture.encoded), ENDINGS[kind])
        return UprightFile(encode_jpeg(Image.fromarray(picture.pixels), quality=95), "jpg")


def picture_root(run_dir: Path) -> Path:
    """Return the folder that a run's pictures are in, given the run's or its dataset's folder.

    Raises InvalidInput where it is not known or not there.
    """
    folder = (run_dir if (run_dir / "run.json").is_file() else run_dir.parent).resolve()
    hint = "name the folder that was labelled with --pictures"
    try:
        run = read_run(folder.parent, folder.name)
    except (NotFound, InvalidInput) as error:
        if (run_dir / "source").is_dir():
            return run_dir / "source"
        raise InvalidInput(f"{run_dir} does not say where its pictures are: {hint}") from error
    root = locate_source(run, runs_dir=folder.parent).root
    if not root.is_dir():
        raise InvalidInput(f"the pictures of {run_dir} were in {root}, which is not there: {hint}")
    return root


def encode_jpeg(image: Image.Image, *, quality: int) -> bytes:
    """The file's bytes."""
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()
