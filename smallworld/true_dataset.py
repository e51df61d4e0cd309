"""A perfect dataset: the ground truth of scenes as annotations, in the worker's output format.

It is used to measure the upper limit of training on true labels. The truth is read from the truth
files beside a small world's shards.
"""

from pathlib import Path

from smallworld.truth import SceneTruth, read_truth_file
from unspoken.ports import TextEncoder
from unspoken.runs.dataset.manifest import write_labels
from unspoken.runs.dataset.rows import Annotation, Candidate, Row
from unspoken.runs.dataset.shards import (
    CommitRecord,
    count_rows,
    record_name,
    shard_name,
    write_shard,
)
from unspoken.runs.files import file_sha256, write_json


def write_true_dataset(
    out: Path,
    shards: Path,
    encoder: TextEncoder,
    *,
    rows_per_shard: int = 256,
    with_parts: bool = True,
) -> None:
    """Write a dataset folder like a run's to `out`; its pictures stay in `shards`."""
    out.mkdir(parents=True)
    rows = [
        row
        for path in sorted(shards.glob("*.truth.jsonl"))
        for row in _read(path, with_parts=with_parts)
    ]
    for chunk, start in enumerate(range(0, len(rows), rows_per_shard)):
        part = rows[start : start + rows_per_shard]
        path = out / shard_name(chunk)
        write_shard(path, part)
        record = CommitRecord(
            shard=path.name,
            sha256=file_sha256(path),
            attempt=1,
            models={"truth": "small world"},
            **count_rows(part),
        )
        write_json(out / record_name(chunk), record.model_dump(mode="json"))
    write_labels(out, sorted({each.label for row in rows for each in row.kept}), encoder)


def _read(path: Path, *, with_parts: bool) -> list[Row]:
    tar = path.name.removesuffix(".truth.jsonl") + ".tar"
    return [
        _row(truth, tar=tar, place=place, with_parts=with_parts)
        for place, truth in enumerate(read_truth_file(path))
    ]


def _row(truth: SceneTruth, *, tar: str, place: int, with_parts: bool) -> Row:
    objects = [each for each in truth.objects if with_parts or not each.is_part]
    candidates, annotations = [], []
    for number, each in enumerate(objects):
        named = each.label in truth.named
        candidates.append(
            Candidate(
                id=number, phrase=each.label, sources=(), named=named, stuff=False, decoy=False
            )
        )
        annotations.append(
            Annotation(
                id=number,
                box=each.box_xyxy,
                label=each.label,
                score=1.0,
                candidate_id=number,
                kept=True,
                named=named,
                stuff=False,
                decoy=False,
            )
        )
    return Row(
        key=truth.key,
        source_shard=tar,
        source_member=f"{truth.key}.jpg",
        source_row=place,
        caption="",
        image_width=truth.size_hw[1],
        image_height=truth.size_hw[0],
        status="labelled",
        candidates=tuple(candidates),
        annotations=tuple(annotations),
    )
