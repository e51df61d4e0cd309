"""A generated dataset, joined to its pictures by key: boxes with labels for contrast.

Rows come from the shards that have a commit record, kept annotations only; a label's vector is that
of the dataset's own `labels.safetensors`. A picture whose file changed since it was labelled is
refused: its boxes would lie about it.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.data.unit_order import UnitOrder, Units
from unspoken.errors import NotFound
from unspoken.runs.manifest import read_labels
from unspoken.runs.picture_files import PictureFiles, Place
from unspoken.runs.rows import Annotation
from unspoken.runs.shards import committed_records, read_shard


class BoxedPicture(NamedTuple):
    """A picture and the boxes that were asked for."""

    key: str
    pixels: np.ndarray  # (H, W, 3) uint8
    boxes_xyxy: np.ndarray  # (N, 4) pixels
    labels: tuple[tuple[str, ...], ...]  # N of: the label, then its alternates
    negatives: tuple[str, ...]  # what was asked and is not in the picture


@dataclass(frozen=True)
class _Row:
    """What training needs of a labelled row."""

    key: str
    place: Place
    size_hw: tuple[int, int]
    boxes_xyxy: tuple[tuple[float, float, float, float], ...]
    labels: tuple[tuple[str, ...], ...]
    negatives: tuple[str, ...]


class BoxPictures:
    """The labelled pictures of a run's dataset that have at least one kept box.

    named_only: leave out what captions do not name, to measure what the implied boxes add.
    """

    def __init__(
        self,
        dataset_dir: Path,
        *,
        pictures: Path,
        boxes_a_picture: int,
        seed: int,
        named_only: bool = False,
    ) -> None:
        self._files = PictureFiles(pictures)
        self._rows, shards = _read_rows(dataset_dir, named_only=named_only)
        if not self._rows:
            raise NotFound(f"no labelled picture with a box in {dataset_dir}")
        self.vectors = read_labels(dataset_dir)
        self.label_counts = Counter(names[0] for row in self._rows for names in row.labels)
        counts = np.array([min(boxes_a_picture, len(row.labels)) for row in self._rows])
        self.order = UnitOrder(counts, seed=seed, files=np.array(shards))

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, asked: Units) -> BoxedPicture:
        """The picture with the boxes at the asked units. Raises NotFound, InvalidInput."""
        row = self._rows[asked.picture]
        picture = self._files.read_labelled(row.place, size_hw=row.size_hw)
        return BoxedPicture(
            key=row.key,
            pixels=picture.pixels,
            boxes_xyxy=np.array([row.boxes_xyxy[unit] for unit in asked.units]),
            labels=tuple(row.labels[unit] for unit in asked.units),
            negatives=row.negatives,
        )


def _read_rows(dataset_dir: Path, *, named_only: bool) -> tuple[list[_Row], list[int]]:
    rows: list[_Row] = []
    shards: list[int] = []
    for number, (path, _) in enumerate(committed_records(dataset_dir)):
        for row in read_shard(path):
            kept = [each for each in row.kept if _is_usable(each, named_only=named_only)]
            if not kept or row.image_height is None or row.image_width is None:
                continue
            rows.append(
                _Row(
                    key=row.key,
                    place=Place.of(row),
                    size_hw=(row.image_height, row.image_width),
                    boxes_xyxy=tuple(each.box for each in kept),
                    labels=tuple(
                        (each.label, *(alt.label for alt in each.alt_labels)) for each in kept
                    ),
                    negatives=row.negatives,
                )
            )
            shards.append(number)
    return rows, shards


def _is_usable(annotation: Annotation, *, named_only: bool) -> bool:
    """Stuff has no shape of its own: it is no instance to learn."""
    return not annotation.stuff and (annotation.named or not named_only)
