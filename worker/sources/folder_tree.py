"""Lists the folders below a source: those with pictures, and those that cannot be read."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from unspoken.errors import InvalidInput
from worker.sources.source_file import PICTURE_ENDINGS
from worker.sources.tables.metadata_table import NAMES


class BlockedFolder(NamedTuple):
    """A folder that cannot be read. It becomes a row of its parent folder."""

    name: str
    problem: str
    detail: str


@dataclass
class _Listing:
    """Direct content of a folder, without hidden files and folders."""

    has_rows: bool = False
    folders: list[Path] = field(default_factory=list)
    blocked: list[BlockedFolder] = field(default_factory=list)


def picture_folders(top: Path, *, root: Path) -> Iterator[Path]:
    """Yield those of `top` and the folders below it that contain pictures or blocked folders.

    Links to folders are followed if they lead to another place below `root`; each place is visited
    once. Raises InvalidInput if `top` may not be read.
    """
    waiting, seen = [top], set[Path]()
    while waiting:
        folder = waiting.pop()
        place = folder.resolve()
        if place in seen:
            continue
        seen.add(place)
        try:
            listing = _list(folder, top=top, root=root)
        except PermissionError as error:
            raise InvalidInput(f"the folder {folder.name!r} may not be read") from error
        if listing.has_rows or listing.blocked:
            yield folder
        waiting += reversed(listing.folders)


def blocked_folders(folder: Path, *, root: Path) -> list[BlockedFolder]:
    """Return the direct subfolders of `folder` that cannot be read, in order."""
    return _list(folder, top=folder, root=root).blocked


def _list(folder: Path, *, top: Path, root: Path) -> _Listing:
    listing = _Listing()
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not _is_folder(entry):
            ending = entry.name.rpartition(".")[2].lower()
            listing.has_rows |= ending in PICTURE_ENDINGS or entry.name in NAMES
            continue
        path = folder / entry.name
        problem = _problem(path, root) if entry.is_symlink() else _list_problem(path)
        if problem is not None:
            listing.blocked.append(problem)
        elif not (entry.is_symlink() and path.resolve().is_relative_to(top.resolve())):
            listing.folders.append(path)
    return listing


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to a place without access, or a cycle of links
        return False


def _problem(path: Path, root: Path) -> BlockedFolder | None:
    """Return the problem of a link to a folder; None if it has none."""
    if not path.resolve().is_relative_to(root.resolve()):
        detail = f"the link {path.name} leads to a folder outside the data folder"
        return BlockedFolder(path.name, "outside_data_folder", detail)
    return _list_problem(path)


def _list_problem(path: Path) -> BlockedFolder | None:
    try:
        os.scandir(path).close()
    except PermissionError:
        detail = f"the folder {path.name} may not be read"
        return BlockedFolder(path.name, "unreadable", detail)
    return None
