"""Export to a Hugging Face dataset: parquet files with encoded pictures, for `load_dataset`.

`objects` has the fields that the detection examples of `transformers` read: `bbox` as x, y, width,
height in pixels, `area`, and `category` as a class label. `alt_labels`, `score`, `named`, `stuff`
and `templates` are additional fields, which those examples ignore.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unspoken.errors import NotFound
from unspoken.progress import NO_PROGRESS, Progress
from unspoken.runs.dataset.card import BESIDE_CARD, CARD_FILE, FDR_FILE
from unspoken.runs.dataset.manifest import LABELS_FILE
from unspoken.runs.dataset.rows import Annotation, Row
from unspoken.runs.exports.source import LabelledPictures, find_dataset, labelled_rows
from unspoken.runs.files import whole_folder

ROWS_PER_FILE = 1000
# A reader holds a whole row group in memory. It is small, because each row has its picture.
ROWS_PER_GROUP = 100

_FRONT_MATTER = """---
task_categories:
- object-detection
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
"""
_OBJECTS = pa.struct(
    [
        ("id", pa.list_(pa.int64())),
        ("bbox", pa.list_(pa.list_(pa.float32(), 4))),
        ("area", pa.list_(pa.float32())),
        ("category", pa.list_(pa.int64())),
        ("alt_labels", pa.list_(pa.list_(pa.string()))),
        ("score", pa.list_(pa.float32())),
        ("named", pa.list_(pa.bool_())),
        ("stuff", pa.list_(pa.bool_())),
        ("templates", pa.list_(pa.list_(pa.string()))),
    ]
)
_SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("image_id", pa.int64()),
        ("key", pa.string()),
        ("caption", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("url", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("objects", _OBJECTS),
    ]
)


def export_hugging_face(
    run_dir: Path,
    out: Path,
    *,
    pictures: Path | None = None,
    rows_per_file: int = ROWS_PER_FILE,
    progress: Progress = NO_PROGRESS,
) -> dict[str, int]:
    """Write out/data/train-*.parquet, the card and the labels' vectors; return the counts.

    `pictures`: see LabelledPictures. Raises NotFound, InvalidInput; `out` is then unchanged.
    """
    dataset_dir = find_dataset(run_dir)
    files = LabelledPictures(run_dir, root=pictures)
    num_rows, labels = 0, set[str]()
    for row in labelled_rows(dataset_dir):
        num_rows += 1
        labels.update(each.label for each in row.kept)
    if not num_rows:
        raise NotFound(f"{run_dir} has no labelled picture, and an empty split cannot be loaded")
    category_ids = {label: number for number, label in enumerate(sorted(labels))}
    schema = _SCHEMA.with_metadata({"huggingface": _features(list(category_ids))})
    num_files = -(-num_rows // rows_per_file)
    records = _records(labelled_rows(dataset_dir), files, category_ids)
    with (
        whole_folder(out) as folder,
        progress.stage("writing pictures", total=num_rows) as stage,
    ):
        (folder / "data").mkdir()
        for number in range(num_files):
            name = f"train-{number:05d}-of-{num_files:05d}.parquet"
            with pq.ParquetWriter(folder / "data" / name, schema, compression="zstd") as writer:
                file_records = islice(records, rows_per_file)
                while group := list(islice(file_records, ROWS_PER_GROUP)):
                    writer.write_table(pa.Table.from_pylist(group, schema=schema))
                    stage.advance(len(group))
        _write_card(dataset_dir, folder)
    return {"files": num_files, "images": num_rows, "categories": len(labels)}


def _features(categories: Sequence[str]) -> str:
    """Return the parquet metadata that tells `datasets` which columns are pictures or classes."""
    features: dict[str, Any] = {field.name: _feature(field.type) for field in _SCHEMA}
    features["image"] = {"_type": "Image"}
    # 'Sequence' is the only name of a list type that every version of `datasets` reads.
    features["objects"]["category"]["feature"] = {"names": list(categories), "_type": "ClassLabel"}
    return json.dumps({"info": {"features": features}})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_fixed_size_list(kind):
        item = _feature(kind.value_type)
        return {"feature": item, "length": kind.list_size, "_type": "Sequence"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    return {"dtype": "float32" if kind == pa.float32() else str(kind), "_type": "Value"}


def _records(
    rows: Iterator[Row], files: LabelledPictures, category_ids: dict[str, int]
) -> Iterator[dict[str, Any]]:
    num_objects = 0
    for image_id, row in enumerate(rows, start=1):
        picture = files.read_upright(row)
        objects = [_object(each, category_ids) for each in row.kept]
        ids = range(num_objects + 1, num_objects + 1 + len(objects))
        num_objects += len(objects)
        columns = {field.name: [each.get(field.name) for each in objects] for field in _OBJECTS}
        yield {
            "image": {"bytes": picture.encoded, "path": f"{image_id:09d}.{picture.ending}"},
            "image_id": image_id,
            "key": row.key,
            "caption": row.caption,
            "captions": row.captions or (row.caption,),
            "url": row.url,
            "width": row.image_width,
            "height": row.image_height,
            "objects": {**columns, "id": list(ids)},
        }


def _object(annotation: Annotation, category_ids: dict[str, int]) -> dict[str, Any]:
    x0, y0, x1, y1 = annotation.box
    return {
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "category": category_ids[annotation.label],
        "alt_labels": [alt.label for alt in annotation.alt_labels],
        "score": annotation.score,
        "named": annotation.named,
        "stuff": annotation.stuff,
        "templates": annotation.templates,
    }


def _write_card(dataset_dir: Path, folder: Path) -> None:
    """Write the dataset's card with a front matter that names the parquet files."""
    card = dataset_dir / CARD_FILE
    text = card.read_text(encoding="utf-8") if card.is_file() else "# Dataset\n"
    (folder / CARD_FILE).write_text(_FRONT_MATTER + text, encoding="utf-8")
    for name in (*BESIDE_CARD, FDR_FILE, LABELS_FILE):
        if (dataset_dir / name).is_file():
            shutil.copyfile(dataset_dir / name, folder / name)
