"""A run over a real tar shard, with hostile text and one picture that EXIF turns."""

import hashlib
import io
import tarfile
from pathlib import Path

from PIL import ExifTags, Image

from tests.unspoken.runs.rows import annotation, labelled_row, plan, unlabelled_row
from tests.worker.source_files import add, picture
from unspoken.runs.dataset.rows import Row
from unspoken.runs.ledger import Ledger
from unspoken.runs.plan import write_plan
from unspoken.runs.store import create_run
from unspoken.wire.runs import RunRequest

HOSTILE = "A <script>alert('x')</script> & </script><!-- <img src=x onerror=alert(1)> | a\u2028car"


def turned_picture() -> bytes:
    """Return a picture of 80 x 100 pixels that EXIF rotates to 100 x 80, with a red top left."""
    image = Image.new("RGB", (80, 100), "white")
    image.paste("red", (40, 0, 80, 50))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=95, exif=exif)
    return encoded.getvalue()


def pictured_rows(files: dict[str, bytes], *, shard: str) -> list[Row]:
    rows = []
    for index, (member, encoded) in enumerate(files.items()):
        update = {
            "key": Path(member).stem,
            "source_member": member,
            "source_shard": shard,
            "image_sha256": hashlib.sha256(encoded).hexdigest(),
        }
        rows.append(labelled_row(index).model_copy(update=update))
    return rows


def write_run(folder: Path, *, chunks: int = 1) -> Path:
    """Create a run with three labelled rows and one dropped per chunk; pictures in folder/data."""
    (folder / "data" / "shards").mkdir(parents=True)
    create_run(folder / "data", folder / "runs", RunRequest(source="shards", run_id="run"))
    run_dir = folder / "runs" / "run"
    for chunk in range(chunks):
        shard = f"shards/{chunk:05d}.tar"
        files = {
            f"{chunk}/a.b.jpg": picture(3 + chunk, size=(100, 80)),
            f"{chunk}/a.c.png": as_png(picture(9, size=(100, 80))),
            f"{chunk}/turned.jpg": turned_picture(),
        }
        with tarfile.open(folder / "data" / shard, "w") as tar:
            for member, encoded in files.items():
                add(tar, member, encoded)
        first, second, third = pictured_rows(files, shard=shard)
        spoon = annotation(0, (50.5, 0, 100, 40), 'sp"oon & <b>', 0.625, named=False)
        second = second.model_copy(update={"caption": HOSTILE, "annotations": (spoon,)})
        third = third.model_copy(update={"annotations": ()})
        dropped = unlabelled_row(3, status="dropped", reason="language")
        models = {"llm": "fake-llm@0", "detector": "fake-detector@0"}
        rows = [first, second, third, dropped]
        Ledger(run_dir).publish(chunk, rows, attempt=1, models=models)
    write_plan(run_dir, plan(chunks=chunks))
    return run_dir


def as_png(encoded: bytes) -> bytes:
    written = io.BytesIO()
    Image.open(io.BytesIO(encoded)).save(written, "PNG")
    return written.getvalue()
