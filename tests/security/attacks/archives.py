"""Sources that refer to files outside of them: these must not be read, and nothing is written.

ROOT/data/        readable by the worker: a vector writes its source here
ROOT/outside/     forbidden: a picture and a caption, which must not be read or changed
"""

import gzip
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.security.attacks.pictures import GOOD_PNG, encode
from unspoken.errors import UnspokenError
from unspoken.imaging.images import decode_picture
from unspoken.runs.dataset.picture_files import PictureFiles, Place
from worker.sources.intake import list_source
from worker.sources.row import SourceRow

SECRET = encode("PNG", size=(31, 17))
CAPTION = "A caption that nobody may read"

Vector = Callable[[Path], Path]
"""Function that writes a source below the data folder and returns its path."""


def member(name: str, content: bytes = GOOD_PNG, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    about = tarfile.TarInfo(name)
    about.size = len(content)
    for field, value in fields.items():
        setattr(about, field, value)
    return about, content


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, b"", type=kind, linkname=to)


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> Vector:
    """Return a vector: a shard of these members, with a good picture at its end."""

    def write(data: Path) -> Path:
        path = data / "shard.tar"
        with tarfile.open(path, "w", format=form) as shard:
            for about, content in (*members, member("last.png")):
                shard.addfile(about, io.BytesIO(content))
        return path

    return write


def table(name: str, path_of: Callable[[Path], str]) -> Vector:
    """Return a vector: a table of one row, with a picture path derived from the data folder's."""

    def write(data: Path) -> Path:
        file, path = data / name, path_of(data)
        match file.suffix:
            case ".csv":
                file.write_text(f'image_path,caption\n"{path}",{CAPTION}\n')
            case ".jsonl":
                file.write_text(json.dumps({"image_path": path, "caption": "A dog"}) + "\n")
            case _:
                images = [{"id": 1, "file_name": path}]
                captions = [{"image_id": 1, "caption": "A dog"}]
                file.write_text(json.dumps({"images": images, "annotations": captions}))
        return file

    return write


def folder(*links: tuple[str, str]) -> Vector:
    """Return a vector: a folder with one good picture and links to files outside."""

    def write(data: Path) -> Path:
        source = data / "pictures"
        source.mkdir()
        (source / "good.png").write_bytes(GOOD_PNG)
        for name, to in links:
            (source / name).symlink_to(to)
        return source

    return write


def packed(data: Path) -> Path:
    """Write 100 MB of zeros as a gzip file whose name ends like a tar's."""
    path = data / "shard.tar"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(100):
            file.write(bytes(1_000_000))
    return path


def linked_shard(data: Path) -> Path:
    outside = tar(member("secret.png", SECRET))(data.parent / "outside")
    (data / "shard.tar").symlink_to(outside)
    return data / "shard.tar"


def linked_folder(data: Path) -> Path:
    (data / "pictures").symlink_to("../outside")
    return data / "pictures"


PAX_PATH = {"path": "../../outside/evil.png"}
PAX_LINK = {"linkpath": "../outside/secret.png"}
VECTORS: dict[str, Vector] = {
    "parent": tar(member("../outside/evil.png")),
    "parents": tar(member("../../../../../../outside/evil.png")),
    "parent-below": tar(member("a/../../outside/evil.png")),
    "absolute": tar(member("/outside/evil.png")),
    "absolute-secret": tar(member("/etc/passwd.png")),
    "windows": tar(member("..\\..\\outside\\evil.png")),
    "drive": tar(member("C:\\outside\\evil.png")),
    "dots": tar(member(".."), member("."), member("...png")),
    "home": tar(member("~/evil.png")),
    "pax-path": tar(member("a.png", pax_headers=PAX_PATH)),
    "pax-absolute": tar(member("a.png", pax_headers={"path": "/outside/evil.png"})),
    "pax-size": tar(member("a.png", pax_headers={"size": "99999999999"})),
    "long-name": tar(member("../" * 200 + "outside/evil.png"), form=tarfile.GNU_FORMAT),
    "symlink": tar(link("a.png", "../outside/secret.png")),
    "symlink-absolute": tar(link("a.png", "/etc/passwd")),
    "symlink-then-through": tar(link("d", "../outside"), member("d/evil.png")),
    "hard-link": tar(link("a.png", "../outside/secret.png", tarfile.LNKTYPE)),
    "hard-link-in-pax": tar(member("a.png", b"", type=tarfile.LNKTYPE, pax_headers=PAX_LINK)),
    "hard-link-to-symlink": tar(
        link("s.png", "../outside/secret.png"), link("a.png", "s.png", tarfile.LNKTYPE)
    ),
    "symlink-caption": tar(link("last.txt", "../outside/secret.txt")),
    "character-device": tar(member("a.png", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
    "block-device": tar(member("a.png", b"", type=tarfile.BLKTYPE)),
    "fifo": tar(member("a.png", b"", type=tarfile.FIFOTYPE)),
    "folder-with-size": tar(member("a.png", b"", type=tarfile.DIRTYPE)),
    "same-name-twice": tar(member("a.png"), member("a.png", SECRET[:40])),
    "set-uid": tar(member("a.png", mode=0o4777, uid=0)),
    "gzip-bomb": packed,
    "shard-that-is-a-link": linked_shard,
    "csv-parent": table("t.csv", lambda data: "../outside/secret.png"),
    "csv-absolute": table("t.csv", lambda data: str(data.parent / "outside" / "secret.png")),
    "csv-url": table("t.csv", lambda data: f"file://{data.parent}/outside/secret.png"),
    "csv-device": table("t.csv", lambda data: "/dev/zero"),
    "jsonl-parent": table("t.jsonl", lambda data: "a/../../outside/secret.png"),
    "jsonl-zero-byte": table("t.jsonl", lambda data: "../outside/secret.png\0.png"),
    "jsonl-windows": table("t.jsonl", lambda data: "..\\outside\\secret.png"),
    "jsonl-process": table("t.jsonl", lambda data: "/proc/self/environ"),
    "coco-parent": table("captions.json", lambda data: "../outside/secret.png"),
    "folder-picture-link": folder(("evil.png", "../../outside/secret.png")),
    "folder-caption-link": folder(("good.txt", "../../outside/secret.txt")),
    "folder-json-link": folder(("good.json", "../../outside/secret.json")),
    "folder-link": folder(("below", "../../outside")),
    "folder-ring": folder(("ring", "."), ("evil.png", "evil.png")),
    "folder-that-is-a-link": linked_folder,
}


def judge() -> dict[str, Any]:
    """Read every vector as a worker does; report files that were wrongly read or written."""
    problems: list[str] = []
    for name, write in VECTORS.items():
        with tempfile.TemporaryDirectory() as place:
            problems += [f"{name}: {problem}" for problem in _problems(Path(place), write)]
    return {"vectors": len(VECTORS), "problems": problems}


def _problems(root: Path, write: Vector) -> Iterator[str]:
    data, outside = root / "data", root / "outside"
    data.mkdir()
    outside.mkdir()
    (outside / "secret.png").write_bytes(SECRET)
    (outside / "secret.txt").write_text(CAPTION)
    (outside / "secret.json").write_text(json.dumps({"caption": CAPTION}))
    source = write(data)
    before = snapshot(root)
    for row in read_all(source, root=data):
        if row.picture == SECRET:
            yield f"{row.member} was read"
        if row.caption == CAPTION and source.suffix != ".csv":
            yield f"the caption of {row.member} was read"
        # Read again by the names in the dataset, as a card or an export does.
        with suppress(UnspokenError):
            again = PictureFiles(data).read(Place(row.shard, row.member))
            if again.sha256 == decode_picture(SECRET).sha256:
                yield f"{row.member} was read by its name"
    if snapshot(root) != before:
        yield "something was written"


def read_all(source: Path, *, root: Path) -> list[SourceRow]:
    """Return rows with their pictures; if the source is refused, the rows before the error."""
    rows: list[SourceRow] = []

    def note(row: SourceRow) -> bool:
        rows.append(row)
        return False

    with suppress(UnspokenError):
        for _, listed in list_source(source, root=root, is_duplicate=note):
            for _ in listed:
                pass
    return rows


def snapshot(root: Path) -> list[tuple[str, int, int]]:
    """Return every file and folder with its size and modification time."""
    return sorted(
        (path, about.st_size, about.st_mtime_ns)
        for place, below, files in os.walk(root)
        for path in (place, *(str(Path(place) / name) for name in (*below, *files)))
        for about in (os.lstat(path),)
    )
