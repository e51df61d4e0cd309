"""Finds tables of captions in a folder of pictures, for the hint of a run without captions."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from unspoken.errors import UnspokenError
from worker.sources.intake import TABLE_ENDINGS, list_source
from worker.sources.source_file import PICTURE_ENDINGS

MAX_FOLDERS, MAX_FILES = 100, 50
"""Largest number of folders searched, and of tables opened."""
MAX_JSON_BYTES = 32 * 1024 * 1024
"""Larger COCO files are not opened, because a JSON file is read whole."""


def find_caption_table(source: Path, *, root: Path) -> Path | None:
    """Return the first file below a folder that can be labelled as a table of captions."""
    if not source.is_dir():
        return None
    files = (file for file in _tables_below(source) if _has_captions(file, root=root))
    return next(files, None)


def source_hints(source: Path, *, root: Path) -> dict[str, str]:
    """Return hints that the source itself gives, by the reason of a dropped row."""
    table = find_caption_table(source, root=root)
    if table is None:
        return {}
    where = "this folder" if table.parent == source else "the source folder"
    name = table.relative_to(source).as_posix()
    return {"caption_empty": f"{name} in {where} contains captions: label that file"}


def _tables_below(top: Path) -> Iterator[Path]:
    def walk() -> Iterator[Path]:
        for folder, below, names in islice(os.walk(top), MAX_FOLDERS):
            below.sort()
            stems = {Path(name).stem for name in names if _ending(name) in PICTURE_ENDINGS}
            for name in sorted(names):
                if Path(name).stem not in stems:  # else the side file of a picture
                    yield Path(folder, name)

    tables = (file for file in walk() if "." + _ending(file.name) in (*TABLE_ENDINGS, ".json"))
    return islice(tables, MAX_FILES)


def _has_captions(file: Path, *, root: Path) -> bool:
    try:
        if file.suffix.lower() == ".json" and file.stat().st_size > MAX_JSON_BYTES:
            return False
        some = False
        for _, rows in list_source(file, root=root):
            # An unreadable file yields one row and then an error, so two rows are needed.
            num_rows = len(list(islice(rows, 2)))
            if num_rows == 2:
                return True
            some = some or num_rows > 0
    except (UnspokenError, OSError):
        return False
    return some


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()
