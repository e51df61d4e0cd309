"""Write scenes as SA-1B folders: masks without labels, in SA-1B's layout and fields."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from smallworld.pictures import encode_jpeg
from smallworld.scenes import Scene

# SA-1B keeps masks of predicted IoU >= .88 and stability >= .95; ours are exact.
EXACT_SCORE = 1.0


def write_sa1b(out: Path, scenes: Iterable[Scene], *, seed: int) -> Path:
    """Write `out/sa_000000/sa_N.jpg` and `sa_N.json`, one pair per scene; return the folder.

    Boxes are XYWH in pixels. Masks are compressed COCO RLE, each with one prompt point inside.
    """
    folder = out / "sa_000000"
    folder.mkdir(parents=True, exist_ok=True)
    annotation_id = 1
    for image_id, scene in enumerate(scenes, start=1):
        rng = np.random.default_rng((seed, image_id))
        height, width = scene.image.shape[:2]
        annotations = []
        for each in scene.objects:
            x0, y0, x1, y1 = each.box_xyxy
            annotations.append(
                {
                    "id": annotation_id,
                    "segmentation": encode_mask(each.mask),
                    "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                    "area": int(each.mask.sum()),
                    "predicted_iou": EXACT_SCORE,
                    "stability_score": EXACT_SCORE,
                    "crop_box": [0.0, 0.0, float(width), float(height)],
                    "point_coords": [_point_inside(each.mask, rng)],
                }
            )
            annotation_id += 1
        stem = f"sa_{image_id}"
        image = {"image_id": image_id, "width": width, "height": height, "file_name": f"{stem}.jpg"}
        (folder / f"{stem}.jpg").write_bytes(encode_jpeg(scene.image))
        (folder / f"{stem}.json").write_text(
            json.dumps({"image": image, "annotations": annotations}), encoding="utf-8"
        )
    return folder


def encode_mask(mask: np.ndarray) -> dict[str, object]:
    """Encode (H, W) bool as compressed COCO RLE: {"size": [H, W], "counts": str}."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _point_inside(mask: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Return the centre (x, y) of a random pixel of the mask."""
    rows, columns = np.nonzero(mask)
    index = int(rng.integers(len(rows)))
    return [float(columns[index]) + 0.5, float(rows[index]) + 0.5]
