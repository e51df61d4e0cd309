"""Input of the exports: the labelled rows of a dataset, and their pictures as encoded files."""

import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from unspoken.errors import InvalidInput, NotFound
from unspoken.imaging.encoded_picture import JPEG_END, strip_metadata, trim_start
from unspoken.imaging.file_formats import FILE_FORMATS
from unspoken.imaging.images import Picture
from unspoken.runs.dataset.picture_files import PictureFiles, Place
from unspoken.runs.dataset.rows import Row
from unspoken.runs.dataset.shards import committed_records, iter_rows
from unspoken.runs.location import locate_source
from unspoken.runs.store import read_run, read_status

ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


class UprightFile(NamedTuple):
    """An encoded picture that looks the same in readers with and without EXIF support."""

    encoded: bytes
    ending: str
    """'jpg', 'png' or 'webp', from the bytes and not from the source's file name."""


def find_dataset(run_dir: Path) -> Path:
    """Return the dataset's folder, given the run's folder or the dataset's own.

    Raises NotFound if it has no committed shard.
    """
    dataset_dir = run_dir / "dataset" if (run_dir / "dataset").is_dir() else run_dir
    if not any(dataset_dir.glob("shard-*.json")):
        raise NotFound(f"{run_dir} has no committed shards")
    return dataset_dir


def missing_pictures(run_dir: Path) -> str:
    """Return a warning that says how many pictures a run has not done; empty if it is done."""
    if not (run_dir / "run.json").is_file():
        return ""
    status = read_status(run_dir.parent, run_dir.name)
    if status.state == "done":
        return ""
    if not status.total:
        return f"the run is {status.state}, and none of its pictures is done"
    return (
        f"the run is {status.state}: only {status.done} of {status.total} pictures are done, "
        f"{status.total - status.done} are missing"
    )


def labelled_rows(dataset_dir: Path) -> Iterator[Row]:
    """Return the labelled rows in the plan's order. Exports number them from 1."""
    return (row for row in iter_rows(dataset_dir) if row.status == "labelled")


def count_labelled(dataset_dir: Path) -> int:
    """Return the number of labelled rows, from the commit records."""
    return sum(record.labelled for _, record in committed_records(dataset_dir))


def in_batches(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Yield rows in batches of `size`. The last batch may be smaller; no batch is empty."""
    left = iter(rows)
    while batch := list(islice(left, size)):
        yield batch


def detector_names(dataset_dir: Path) -> list[str]:
    """Return name@revision of each detector that answered, sorted."""
    records = (record for _, record in committed_records(dataset_dir))
    return sorted({record.models["detector"] for record in records if "detector" in record.models})


class LabelledPictures:
    """Reads the pictures of a dataset's rows and checks that they have not changed."""

    def __init__(self, run_dir: Path, *, root: Path | None = None) -> None:
        """Open the pictures' folder. `root`: the folder that `source_shard` is relative to.

        None takes the folder that the run recorded. Raises InvalidInput if it is unknown or does
        not exist.
        """
        self._files = PictureFiles(root or picture_root(run_dir))

    def read(self, row: Row) -> Picture:
        """Return the picture. Raises NotFound; InvalidInput if its file has changed."""
        size_hw = (row.image_height or 0, row.image_width or 0)  # a labelled row has both
        return self._files.read_labelled(Place.of(row), size_hw=size_hw)

    def read_upright(self, row: Row) -> UprightFile:
        """Return the picture's own bytes, or a new JPEG if many readers would show it differently.

        Boxes refer to the picture after EXIF orientation, which most readers ignore. Most readers
        also do not read GIF, BMP, TIFF or AVIF. Raises the same errors as `read`.
        """
        picture = self.read(row)
        kind, content, orientation = strip_metadata(picture.encoded, formats=FILE_FORMATS)
        is_whole = kind != "JPEG" or content.endswith(JPEG_END)
        if orientation == 1 and kind in ENDINGS and is_whole:
            return UprightFile(trim_start(picture.encoded), ENDINGS[kind])
        return UprightFile(encode_jpeg(Image.fromarray(picture.pixels), quality=95), "jpg")


def picture_root(run_dir: Path) -> Path:
    """Return the folder that a run's pictures are in, given the run's or its dataset's folder.

    Raises InvalidInput if it is unknown or does not exist.
    """
    folder = (run_dir if (run_dir / "run.json").is_file() else run_dir.parent).resolve()
    hint = "name the folder that they are in now with --moved-to"
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
    """Encode an image as JPEG; return the file's bytes."""
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()
