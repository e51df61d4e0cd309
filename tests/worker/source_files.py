"""Writes real source files for the tests of runs and worker."""

import csv
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CAPTIONS = (
    "A yellow taxi waits near the station",
    "Brown horse stands beside the old barn",
    "The white kitten sleeps under a table",
    "Blue bicycle leaning against a brick wall",
    "Fresh lemons piled in a wooden bowl",
    "Two children play near the fountain",
    "An empty bench facing the quiet harbour",
    "Green tractor crossing the muddy field",
    "A painter with a brush and a canvas",
    "Red lantern hanging over the narrow street",
    "Silver kettle standing on the black stove",
    "A sailor repairs the torn fishing net",
)


def picture(seed: int, *, size: tuple[int, int] = (96, 80)) -> bytes:
    """Return a JPEG of smooth noise; size is (width, height) in pixels."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(coarse).resize(size).save(encoded, "JPEG")
    return encoded.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_shard(
    path: Path,
    captions: Sequence[str],
    *,
    first_seed: int = 0,
    columns: Sequence[dict[str, object]] | None = None,
) -> None:
    """Write an img2dataset shard with its parquet, with LAION's column names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with tarfile.open(path, "w") as tar:
        for index, caption in enumerate(captions):
            key = f"{path.stem}{index:05d}"
            extra = columns[index] if columns else {"LANGUAGE": "en", "punsafe": 0.01}
            add(tar, f"{key}.jpg", picture(first_seed + index))
            add(tar, f"{key}.txt", caption.encode())
            add(tar, f"{key}.json", json.dumps({"key": key, "status": "success"}).encode())
            rows.append({"key": key, "status": "success", "URL": f"http://x/{key}", **extra})
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))


def write_folder(folder: Path, captions: Sequence[str], *, first_seed: int = 0) -> None:
    """Write an img2dataset folder with its parquet: the content of write_shard, unpacked."""
    folder.mkdir(parents=True)
    rows = []
    for index, caption in enumerate(captions):
        key = f"{folder.name}{index:05d}"
        (folder / f"{key}.jpg").write_bytes(picture(first_seed + index))
        (folder / f"{key}.txt").write_text(caption)
        (folder / f"{key}.json").write_text(json.dumps({"key": key, "status": "success"}))
        rows.append({"key": key, "URL": f"http://x/{key}", "LANGUAGE": "en", "punsafe": 0.01})
    pq.write_table(pa.Table.from_pylist(rows), folder.with_name(f"{folder.name}.parquet"))


def write_pictures(folder: Path, count: int) -> list[str]:
    """Write pictures without captions; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{index}.jpg" for index in range(count)]
    for index, name in enumerate(names):
        (folder / name).write_bytes(picture(index))
    return names


def write_table(table: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write a table in the format of its file ending; a parquet has row groups of three."""
    match table.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), table, row_group_size=3)
        case ".csv":
            with table.open("w", newline="", encoding="utf-8-sig") as text:
                writer = csv.DictWriter(text, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        case ".jsonl":
            table.write_text("\n".join(json.dumps(row) for row in rows))


def write_coco(file: Path, captions: Sequence[Sequence[str]]) -> None:
    """Write COCO captions: several per picture, out of order, as in COCO."""
    file.parent.mkdir(parents=True, exist_ok=True)
    numbered = [(image, caption) for image, each in enumerate(captions) for caption in each]
    content = {
        "images": [{"id": 100 + i, "file_name": f"{i}.jpg"} for i in range(len(captions))],
        "annotations": [
            {"id": number, "image_id": 100 + image, "caption": caption}
            for number, (image, caption) in enumerate(reversed(numbered))
        ],
    }
    file.write_text(json.dumps(content))
