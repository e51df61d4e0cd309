"""Export to Label Studio: pictures, tasks with boxes as predictions, and the labelling config.

A task's `image` is a URL that the server resolves. The default URL uses the server's local storage
and expects its document root to be the parent folder of the export. Boxes are in percent of the
picture's size.
"""

import json
from pathlib import Path
from xml.etree import ElementTree

from unspoken.errors import InvalidInput
from unspoken.progress import NO_PROGRESS, Progress, counted
from unspoken.runs.dataset.rows import Annotation, Row
from unspoken.runs.exports.source import (
    LabelledPictures,
    count_labelled,
    detector_names,
    find_dataset,
    labelled_rows,
)
from unspoken.runs.files import whole_folder

TASKS_FILE = "tasks.json"
CONFIG_FILE = "labels.xml"
PICTURES_DIR = "pictures"
LOCAL_FILES_URL = "/data/local-files/?d="

_BOXES, _IMAGE = "label", "image"  # names of the control and of its object in the labelling config


def export_label_studio(
    run_dir: Path,
    out: Path,
    *,
    pictures: Path | None = None,
    url_prefix: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> dict[str, int]:
    """Write out/pictures/, out/tasks.json, out/labels.xml; return counts of tasks, boxes, labels.

    `pictures`: see LabelledPictures; `url_prefix`: URL of out/pictures as the annotator's browser
    or the server sees it. Raises NotFound, InvalidInput; `out` is then unchanged.
    """
    dataset_dir = find_dataset(run_dir)
    files = LabelledPictures(run_dir, root=pictures)
    model = ", ".join(detector_names(dataset_dir)) or "unknown"
    prefix = url_prefix or f"{LOCAL_FILES_URL}{out.resolve().name}/{PICTURES_DIR}"
    tasks: list[dict[str, object]] = []
    labels: set[str] = set()
    num_boxes = 0
    with (
        whole_folder(out) as folder,
        progress.stage("writing pictures", total=count_labelled(dataset_dir)) as stage,
    ):
        (folder / PICTURES_DIR).mkdir()
        for number, row in enumerate(counted(labelled_rows(dataset_dir), stage), start=1):
            picture = files.read_upright(row)
            name = f"{number:09d}.{picture.ending}"
            (folder / PICTURES_DIR / name).write_bytes(picture.encoded)
            tasks.append(_task(row, image=f"{prefix.rstrip('/')}/{name}", model=model))
            labels.update(each.label for each in row.kept)
            num_boxes += len(row.kept)
        text = json.dumps(tasks, ensure_ascii=False, indent=1)
        (folder / TASKS_FILE).write_text(text, encoding="utf-8")
        (folder / CONFIG_FILE).write_text(_config(sorted(labels)), encoding="utf-8")
    return {"tasks": len(tasks), "boxes": num_boxes, "labels": len(labels)}


def _task(row: Row, *, image: str, model: str) -> dict[str, object]:
    if not row.image_width or not row.image_height:
        raise InvalidInput(f"{row.key}: a labelled row without its picture's size")
    size = (row.image_width, row.image_height)
    scores = [each.score for each in row.kept]
    prediction = {
        "model_version": model,
        "score": sum(scores) / len(scores) if scores else 0.0,
        "result": [_region(each, size) for each in row.kept],
    }
    return {
        "data": {_IMAGE: image, "caption": row.caption, "key": row.key},
        "predictions": [prediction],
    }


def _region(annotation: Annotation, size_wh: tuple[int, int]) -> dict[str, object]:
    width, height = size_wh
    x0, y0, x1, y1 = annotation.box
    return {
        "id": f"box{annotation.id}",
        "type": "rectanglelabels",
        "from_name": _BOXES,
        "to_name": _IMAGE,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": annotation.score,
        "value": {
            "x": 100 * x0 / width,
            "y": 100 * y0 / height,
            "width": 100 * (x1 - x0) / width,
            "height": 100 * (y1 - y0) / height,
            "rotation": 0,
            "rectanglelabels": [annotation.label],
        },
        "meta": {"text": [_note(annotation)]},
    }


def _note(annotation: Annotation) -> str:
    """Return the note shown beside a region, because a rectangle has only one label."""
    also = [f"also {alt.label}" for alt in annotation.alt_labels]
    return "; ".join(["named" if annotation.named else "implied", *also])


def _config(labels: list[str]) -> str:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Text", name="caption", value="$caption")
    ElementTree.SubElement(view, "Image", name=_IMAGE, value=f"${_IMAGE}", zoom="true")
    ElementTree.SubElement(view, "Filter", name="filter", toName=_BOXES, minlength="0")
    boxes = ElementTree.SubElement(
        view, "RectangleLabels", name=_BOXES, toName=_IMAGE, showInline="true"
    )
    for label in labels:
        ElementTree.SubElement(boxes, "Label", value=label)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"
