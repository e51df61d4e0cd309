"""Export to WebDataset: tar shards of picture, caption (.txt) and annotations (.json).

Samples are in the plan's order, and the same dataset gives the same bytes. A sample's name is its
number, because a source's own keys may repeat and may contain dots, which end a key in WebDataset.
"""

import io
import json
import shutil
import tarfile
from pathlib import Path

from unspoken.progress import NO_PROGRESS, Progress, counted
from unspoken.runs.dataset.manifest import LABELS_FILE
from unspoken.runs.dataset.rows import Annotation, Row
from unspoken.runs.exports.source import (
    LabelledPictures,
    count_labelled,
    find_dataset,
    in_batches,
    labelled_rows,
)
from unspoken.runs.files import whole_folder

SAMPLES_PER_SHARD = 1000


def export_webdataset(
    run_dir: Path,
    out: Path,
    *,
    pictures: Path | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    progress: Progress = NO_PROGRESS,
) -> dict[str, int]:
    """Write out/00000.tar, ... and the labels' vectors; return shard, sample, annotation counts.

    `pictures`: see LabelledPictures. Raises NotFound, InvalidInput; `out` is then unchanged.
    """
    dataset_dir = find_dataset(run_dir)
    files = LabelledPictures(run_dir, root=pictures)
    written = {"shards": 0, "samples": 0, "annotations": 0}
    with (
        whole_folder(out) as folder,
        progress.stage("writing pictures", total=count_labelled(dataset_dir)) as stage,
    ):
        for rows in in_batches(labelled_rows(dataset_dir), samples_per_shard):
            with tarfile.open(folder / f"{written['shards']:05d}.tar", "w") as tar:
                for row in counted(rows, stage):
                    written["samples"] += 1
                    written["annotations"] += len(row.kept)
                    _add_sample(tar, f"{written['samples']:09d}", row, files)
            written["shards"] += 1
        if (dataset_dir / LABELS_FILE).is_file():
            shutil.copyfile(dataset_dir / LABELS_FILE, folder / LABELS_FILE)
    return written


def _add_sample(tar: tarfile.TarFile, name: str, row: Row, files: LabelledPictures) -> None:
    picture = files.read_upright(row)
    described = json.dumps(_describe(row), ensure_ascii=False)
    _add(tar, f"{name}.{picture.ending}", picture.encoded)
    _add(tar, f"{name}.txt", row.caption.encode())
    _add(tar, f"{name}.json", described.encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _describe(row: Row) -> dict[str, object]:
    return {
        "key": row.key,
        "caption": row.caption,
        "captions": row.captions or (row.caption,),
        "url": row.url,
        "source_shard": row.source_shard,
        "source_member": row.source_member,
        "image_sha256": row.image_sha256,
        "image_width": row.image_width,
        "image_height": row.image_height,
        "annotations": [_annotation(each) for each in row.kept],
    }


def _annotation(annotation: Annotation) -> dict[str, object]:
    return {
        "box": annotation.box,
        "label": annotation.label,
        "alt_labels": [alt.label for alt in annotation.alt_labels],
        "score": annotation.score,
        "named": annotation.named,
        "stuff": annotation.stuff,
        "templates": annotation.templates,
    }
