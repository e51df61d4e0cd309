"""Masks of SA-1B folders: `sa_*.jpg` beside `sa_*.json`, COCO RLE, no labels.

Every picture gives the same number of units, so no file has to be read in advance: SA-1B has eleven
million pictures. If a picture has fewer masks, some of them are used twice.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from training.data.unit_order import UnitOrder, Units
from unspoken.errors import InvalidInput, NotFound
from unspoken.imaging.images import decode_picture

MAX_AREA_SHARE = 0.9  # larger masks are left out (Segment Anything, section 'Training')


class MaskedPicture(NamedTuple):
    """A picture and its requested masks."""

    key: str
    pixels: np.ndarray  # (H, W, 3) uint8
    masks: np.ndarray  # (N, H, W) bool


class MaskPictures:
    """All pairs of picture and annotation file below a folder."""

    def __init__(self, folder: Path, *, masks_per_picture: int, seed: int) -> None:
        self._files = sorted(path for path in folder.rglob("sa_*.json"))
        if not self._files:
            raise NotFound(f"no sa_*.json below {folder}: give an SA-1B folder")
        folders = {name: n for n, name in enumerate(sorted({p.parent for p in self._files}))}
        self.order = UnitOrder(
            np.full(len(self._files), masks_per_picture),
            seed=seed,
            files=np.array([folders[path.parent] for path in self._files]),
        )

    def __len__(self) -> int:
        return len(self._files)

    def load(self, asked: Units) -> MaskedPicture:
        """Return the picture with the requested masks. Raises InvalidInput."""
        path = self._files[asked.picture]
        record = json.loads(path.read_bytes())
        picture = path.with_name(record["image"]["file_name"])
        pixels = decode_picture(picture.read_bytes()).pixels
        annotations = [each for each in record["annotations"] if _is_usable(each, pixels)]
        if not annotations:
            raise InvalidInput(f"{path} has no mask to train on")
        chosen = [annotations[unit % len(annotations)] for unit in asked.units]
        masks = np.stack([decode_rle(each["segmentation"], source=path) for each in chosen])
        if masks.shape[1:] != pixels.shape[:2]:
            raise InvalidInput(f"{path}: masks of {masks.shape[1:]}, picture {pixels.shape[:2]}")
        return MaskedPicture(path.stem, pixels, masks)


def decode_rle(written: object, *, source: Path) -> np.ndarray:
    """Decode compressed or plain COCO RLE to (H, W) bool. Raises InvalidInput."""
    if not isinstance(written, dict) or not {"size", "counts"} <= set(written):
        raise InvalidInput(f"{source} has a segmentation that is not RLE")
    counts, (height, width) = written["counts"], written["size"]
    rle = coco_mask.frPyObjects(written, height, width) if isinstance(counts, list) else written
    decoded: np.ndarray = coco_mask.decode(rle).astype(bool)
    return decoded


def _is_usable(annotation: dict[str, object], pixels: np.ndarray) -> bool:
    area = annotation["area"]
    height, width = pixels.shape[:2]
    return isinstance(area, int | float) and 0 < area <= MAX_AREA_SHARE * height * width
