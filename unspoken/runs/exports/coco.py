"""Export to COCO instances JSON: boxes as x, y, width, height in pixels. Copies no pictures."""

import json
from pathlib import Path

from unspoken.errors import InvalidInput
from unspoken.progress import NO_PROGRESS, Progress, counted
from unspoken.runs import storage
from unspoken.runs.dataset.rows import Annotation, Row
from unspoken.runs.exports.source import count_labelled, find_dataset, labelled_rows


def export_coco(run_dir: Path, out: Path, *, progress: Progress = NO_PROGRESS) -> dict[str, int]:
    """Write kept annotations as COCO JSON; return the counts of images, annotations, categories.

    `run_dir`: a run's folder, or its dataset folder. `file_name` is the picture's member in its
    source shard. Raises NotFound if there are no committed shards, InvalidInput for `out`.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise InvalidInput(f"{out} must be a file in a folder that exists")
    dataset_dir = find_dataset(run_dir)
    with progress.stage("reading the dataset", total=count_labelled(dataset_dir)) as stage:
        rows = list(counted(labelled_rows(dataset_dir), stage))
    labels = sorted({label for row in rows for each in row.kept for label in each.all_labels})
    category_ids = {label: number for number, label in enumerate(labels, start=1)}
    annotations: list[dict[str, object]] = []
    for image_id, row in enumerate(rows, start=1):
        for annotation in row.kept:
            entry = _coco_annotation(annotation, category_ids)
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **entry})
    coco = {
        "info": {"description": "labels proposed by a language model, located by a detector"},
        "licenses": [],
        "images": [_coco_image(image_id, row) for image_id, row in enumerate(rows, start=1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for label, number in category_ids.items()],
    }
    storage.replace(out, json.dumps(coco, ensure_ascii=False).encode())
    return {"images": len(rows), "annotations": len(annotations), "categories": len(labels)}


def _coco_image(image_id: int, row: Row) -> dict[str, object]:
    return {
        "id": image_id,
        "file_name": row.source_member,
        "width": row.image_width,
        "height": row.image_height,
        "caption": row.caption,
        "captions": row.captions or (row.caption,),
        "key": row.key,
        "source_shard": row.source_shard,
        "sha256": row.image_sha256,
    }


def _coco_annotation(annotation: Annotation, category_ids: dict[str, int]) -> dict[str, object]:
    x0, y0, x1, y1 = annotation.box
    return {
        "category_id": category_ids[annotation.label],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "iscrowd": 0,
        "segmentation": [],
        "score": annotation.score,
        "named": annotation.named,
        "alt_category_ids": [category_ids[alt.label] for alt in annotation.alt_labels],
    }
