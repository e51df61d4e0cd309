"""Shards: one parquet file per chunk, one row per input, under an explicit schema.

The schema's metadata describes each field. A test compares these texts with the table of
docs/reference/dataset-format.md.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from unspoken.runs.dataset.rows import Row
from unspoken.wire.base import FileModel

FORMAT_VERSION = 1


def _field(name: str, kind: pa.DataType, about: str, *, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"about": about, "unit": unit})


_FILTER = pa.struct(
    [
        _field("name", pa.string(), "`language`, `safety`, `watermark` or `similarity`"),
        _field("source", pa.string(), "column of the source, or name of the classifier"),
        _field("value", pa.string(), "language code or rating, if there is one"),
        _field("score", pa.float32(), "the column's or the classifier's score"),
    ]
)
_SOURCE = pa.struct(
    [
        _field("template", pa.string(), "template that proposed it; `caption`: the caption's noun"),
        _field(
            "example_set",
            pa.int32(),
            "number of the set of worked examples that preceded the caption",
        ),
        _field("model", pa.string(), "language model that proposed it"),
        _field("rank", pa.int32(), "place in the model's list, 0 first"),
        _field("mean_logprob", pa.float32(), "mean log-probability of its tokens", unit="nats"),
        _field("part_of", pa.string(), "noun whose parts were asked for; null for other templates"),
    ]
)
_CANDIDATE = pa.struct(
    [
        _field("id", pa.int32(), "number within the row; annotations refer to it"),
        _field("phrase", pa.string(), "normalised phrase; the raw text if it was rejected"),
        _field(
            "named",
            pa.bool_(),
            "true if the caption contains it or a synonym of it; otherwise it is implied",
        ),
        _field(
            "stuff", pa.bool_(), "true for a region without a definite shape, such as sky or grass"
        ),
        _field(
            "decoy",
            pa.bool_(),
            "true for a decoy: not proposed, only used to measure false detections",
        ),
        _field("sources", pa.list_(_SOURCE), "where the phrase comes from"),
        _field(
            "rejected",
            pa.string(),
            "reason for which the detector was not queried for it; null if it was",
        ),
    ]
)
_ALT_LABEL = pa.struct(
    [
        _field("label", pa.string(), "another label of the same object"),
        _field("candidate_id", pa.int32(), "id of the candidate that the label comes from"),
        _field("score", pa.float32(), "detector's score of that label", unit="0 to 1"),
    ]
)
_ANNOTATION = pa.struct(
    [
        _field("id", pa.int32(), "number within the row, the best score first"),
        _field("box", pa.list_(pa.float32(), 4), "corners x0, y0, x1, y1", unit="px, after EXIF"),
        _field("label", pa.string(), "phrase of the candidate with the best score"),
        _field("score", pa.float32(), "detector's mean over the label's tokens", unit="0 to 1"),
        _field("candidate_id", pa.int32(), "id of the candidate that the label comes from"),
        _field("named", pa.bool_(), "copied from the candidate"),
        _field("stuff", pa.bool_(), "copied from the candidate"),
        _field(
            "decoy", pa.bool_(), "copied from the candidate; if true, this is a false detection"
        ),
        _field(
            "alt_labels",
            pa.list_(_ALT_LABEL),
            "other labels of the same object, whose boxes were merged into this one",
        ),
        _field("templates", pa.list_(pa.string()), "templates that proposed the label"),
        _field(
            "clip_rank",
            pa.int32(),
            "rank of the label for its crop among other labels, 1 is best; null if not computed",
        ),
        _field(
            "kept", pa.bool_(), "true if it is part of the dataset; otherwise see `drop_reason`"
        ),
        _field(
            "drop_reason",
            pa.string(),
            "`decoy`, `below_threshold`, `too_small`, `covers_image`, `repeated`, "
            "`outside_its_whole`, `over_limit`, `unlike_its_label`",
        ),
    ]
)
_RAW_TEXT = pa.struct(
    [
        _field("template", pa.string(), "template of the prompt"),
        _field("text", pa.string(), "the language model's raw text"),
    ]
)

SCHEMA = pa.schema(
    [
        _field("key", pa.string(), "the sample's name in its source"),
        _field("source_shard", pa.string(), "file of the source, relative to its root"),
        _field(
            "source_member",
            pa.string(),
            "picture: member of that tar, path from the root, or FILE.parquet/ROW/COLUMN",
        ),
        _field("source_row", pa.int64(), "number of the row in that file, from 0", unit="rows"),
        _field(
            "source_offset",
            pa.int64(),
            "byte at which the picture begins in that tar, because names may repeat in a tar",
            unit="bytes",
        ),
        _field("source_size", pa.int64(), "size of the picture in that tar", unit="bytes"),
        _field("url", pa.string(), "URL of the picture, if the source has it"),
        _field(
            "caption",
            pa.string(),
            "caption with whitespace folded; several are joined as sentences",
        ),
        _field("captions", pa.list_(pa.string()), "all captions, if the picture has several"),
        _field("image_sha256", pa.string(), "digest of the picture's file", unit="hex"),
        _field("image_width", pa.int32(), "width after EXIF orientation", unit="px"),
        _field("image_height", pa.int32(), "height after EXIF orientation", unit="px"),
        _field("status", pa.string(), "`labelled`, `dropped` by a filter, or `failed`"),
        _field("reason", pa.string(), "why it was dropped or failed, as a code"),
        _field("detail", pa.string(), "explanation of the reason"),
        _field("filters", pa.list_(_FILTER), "values that the filters checked"),
        _field("candidates", pa.list_(_CANDIDATE), "all phrases, queried or rejected"),
        _field("annotations", pa.list_(_ANNOTATION), "boxes, kept or not"),
        _field(
            "negatives",
            pa.list_(pa.string()),
            "implied phrases that are absent: there is no stored box of them or of related phrases",
        ),
        _field("raw_texts", pa.list_(_RAW_TEXT), "raw answers of the language model"),
        _field(
            "num_detector_chunks",
            pa.int32(),
            "forward passes of the detector over the picture",
            unit="passes",
        ),
        _field(
            "prompt_sha256",
            pa.string(),
            "digest of the templates, their worked examples and the prompt style",
            unit="hex",
        ),
    ],
    metadata={"unspoken.format_version": str(FORMAT_VERSION)},
)


class CommitRecord(FileModel):
    """The commit record beside a shard. A shard counts only with a record of the same sha256."""

    shard: str
    sha256: str
    num_rows: int
    labelled: int
    dropped: dict[str, int]
    failed: dict[str, int]
    annotations: int
    """Number of kept annotations."""
    attempt: int
    adopted: bool = False
    """True if the shard's writer ended before it wrote the record, which was written later."""
    models: dict[str, str] = Field(default_factory=dict)
    """Kind -> name@revision of the models that answered."""
    timings_ms: dict[str, float] = Field(default_factory=dict)
    """Stage -> the worker's time; `total` is the whole attempt. Empty if `adopted`."""


def shard_name(chunk_id: int) -> str:
    """Return the file name of a chunk's shard."""
    return f"shard-{chunk_id:06d}.parquet"


def record_name(chunk_id: int) -> str:
    """Return the file name of a chunk's commit record."""
    return f"shard-{chunk_id:06d}.json"


def chunk_of(path: Path) -> int:
    """Return the chunk id of a shard's or record's file name."""
    return int(path.stem.removeprefix("shard-"))


def write_shard(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as parquet. The same rows give the same bytes."""
    table = pa.Table.from_pylist([row.model_dump() for row in rows], schema=SCHEMA)
    pq.write_table(table, path, compression="zstd")


def read_shard(path: Path) -> list[Row]:
    """Read all rows of a shard.

    Raises OSError, pyarrow.ArrowInvalid or pydantic.ValidationError for any other file.
    """
    table = pq.read_table(path, schema=SCHEMA, partitioning=None)
    return [Row(**row) for row in table.to_pylist()]


def read_record(path: Path) -> CommitRecord:
    """Read a commit record. Raises OSError, pydantic.ValidationError."""
    return CommitRecord.model_validate_json(path.read_bytes())


def committed_records(dataset_dir: Path) -> list[tuple[Path, CommitRecord]]:
    """Return (shard, record) of every committed shard, in order."""
    return [
        (dataset_dir / record.shard, record)
        for record in map(read_record, sorted(dataset_dir.glob("shard-*.json")))
    ]


def iter_rows(dataset_dir: Path) -> Iterator[Row]:
    """Yield the rows of all committed shards, in the plan's order."""
    for path, _ in committed_records(dataset_dir):
        yield from read_shard(path)


def count_rows(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the counts of a commit record."""
    dropped: dict[str, int] = {}
    failed: dict[str, int] = {}
    for row in rows:
        if row.status != "labelled":
            counts = dropped if row.status == "dropped" else failed
            counts[row.reason or "unknown"] = counts.get(row.reason or "unknown", 0) + 1
    return {
        "num_rows": len(rows),
        "labelled": sum(row.status == "labelled" for row in rows),
        "dropped": dropped,
        "failed": failed,
        "annotations": sum(len(row.kept) for row in rows),
    }


def dump_record(record: CommitRecord) -> bytes:
    """Return the bytes of a commit record."""
    return record.model_dump_json(indent=1).encode() + b"\n"
