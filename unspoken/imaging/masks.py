"""Masks: their IoU, and their encoding as bytes in COCO's compressed RLE or PNG.

A mask is (H, W) bool in pixels of the original picture. RLE is in the column-major format of
pycocotools, which other tools can load; masks are stored in it everywhere.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from pycocotools import mask as coco


def encode_rle(masks: np.ndarray) -> list[bytes]:
    """Encode masks: (N, H, W) bool -> N compressed COCO counts."""
    if not len(masks):
        return []
    columns = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))  # (H, W, N)
    return [run["counts"] for run in coco.encode(columns)]


def decode_rle(counts: Sequence[bytes], size_hw: tuple[int, int]) -> np.ndarray:
    """Decode N compressed COCO counts -> (N, H, W) bool."""
    if not counts:
        return np.zeros((0, *size_hw), dtype=bool)
    runs = [{"size": list(size_hw), "counts": each} for each in counts]
    return np.ascontiguousarray(coco.decode(runs).transpose(2, 0, 1)).astype(bool)


def rle_boxes(counts: Sequence[bytes], size_hw: tuple[int, int]) -> np.ndarray:
    """Return the tightest boxes around masks: (N, 4) xyxy float32; zeros for an empty mask."""
    runs = [{"size": list(size_hw), "counts": each} for each in counts]
    boxes = np.asarray(coco.toBbox(runs) if runs else [], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def rle_areas(counts: Sequence[bytes], size_hw: tuple[int, int]) -> np.ndarray:
    """Return areas in pixels: (N,) int64."""
    # One by one, because with numpy 2 pycocotools 2.0.11 overflows for over 255 masks.
    areas = [int(coco.area({"size": list(size_hw), "counts": each})) for each in counts]
    return np.asarray(areas, dtype=np.int64)


def mask_png(mask: np.ndarray) -> str:
    """Encode an (H, W) bool mask as a PNG with one bit per pixel, in base64."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def mask_iou(first: np.ndarray, second: np.ndarray, *, if_empty: float = 0.0) -> np.ndarray:
    """Return the IoU of pairs of masks: (N, H, W) bool twice -> (N,).

    if_empty: the IoU of two empty masks.
    """
    overlap = (first & second).sum((-2, -1))
    union = (first | second).sum((-2, -1))
    return np.where(union > 0, overlap / np.maximum(union, 1), if_empty)
