"""Labelled boxes of a generated dataset, joined with its pictures by key.

Only shards with a commit record and only kept annotations are read. Label vectors come from the
dataset's own `labels.safetensors`. A picture whose file changed after it was labelled is refused,
because its boxes would no longer match it.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.data.unit_order import UnitOrder, Units
from unspoken.errors import NotFound
from unspoken.runs.dataset.manifest import read_labels
from unspoken.runs.dataset.picture_files import PictureFiles, Place
from unspoken.runs.dataset.rows import Annotation
from unspoken.runs.dataset.shards import committed_records, read_shard


class BoxedPicture(NamedTuple):
    """A picture and its requested boxes."""

    key: str
    pixels: np.ndarray  # (H, W, 3) uint8
    boxes_xyxy: np.ndarray  # (N, 4) pixels
    labels: tuple[tuple[str, ...], ...]  # N of: the label, then its alternatives
    negatives: tuple[str, ...]  # labels that were asked for and are not in the picture


@dataclass(frozen=True)
class _Row:
    """The fields of a labelled row that training needs."""

    key: str
    place: Place
    size_hw: tuple[int, int]
    boxes_xyxy: tuple[tuple[float, float, float, float], ...]
    labels: tuple[tuple[str, ...], ...]
    negatives: tuple[str, ...]


class BoxPictures:
    """The labelled pictures of a run's dataset that have at least one kept annotation.

    named_only: skip implied boxes, to measure what they add.
    """

    def __init__(
        self,
        dataset_dir: Path,
        *,
        pictures: Path,
        boxes_per_picture: int,
        seed: int,
        named_only: bool = False,
    ) -> None:
        self._files = PictureFiles(pictures)
        self._rows, shards = _read_rows(dataset_dir, named_only=named_only)
        if not self._rows:
            raise NotFound(f"no labelled picture with a box in {dataset_dir}")
        self.vectors = read_labels(dataset_dir)
        self.label_counts = Counter(names[0] for row in self._rows for names in row.labels)
        counts = np.array([min(boxes_per_picture, len(row.labels)) for row in self._rows])
        self.order = UnitOrder(counts, seed=seed, files=np.array(shards))

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, asked: Units) -> BoxedPicture:
        """Return the picture with the requested boxes. Raises NotFound, InvalidInput."""
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
    """Return True if training can use the annotation. Stuff is skipped: it has no instances."""
    return not annotation.stuff and (annotation.named or not named_only)
