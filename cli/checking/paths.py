"""Checks of paths that commands run first, so that a mistake is reported before models load."""

import os
from pathlib import Path

from unspoken.errors import InvalidInput, MissingWeights
from unspoken.problem_words import nearest


def check_exists(path: Path, *, what: str) -> None:
    """Raise InvalidInput with the nearest name in the same folder if the path does not exist.

    what: name of the input as the user knows it, such as `--sam`.
    """
    if not path.exists():
        raise InvalidInput(missing(path, what=what))


def check_file(path: Path, *, what: str) -> None:
    """Raise InvalidInput unless the path is a file that can be read."""
    check_exists(path, what=what)
    if path.is_dir():
        raise InvalidInput(f"{what} {path} is a folder. Name a file in it")
    _check_access(path, os.R_OK, what=what, verb="read")


def check_folder(path: Path, *, what: str) -> None:
    """Raise InvalidInput unless the path is a folder that can be read."""
    check_exists(path, what=what)
    if not path.is_dir():
        raise InvalidInput(f"{what} {path} is a file. Name a folder")
    _check_access(path, os.R_OK | os.X_OK, what=what, verb="read")


def check_weights(path: Path, *, what: str) -> None:
    """Raise MissingWeights if there is no weight file at the path; InvalidInput for a folder."""
    if not path.exists():
        raise MissingWeights(missing(path, what=what))
    check_file(path, what=what)


def check_output_folder(path: Path, *, what: str = "--out") -> None:
    """Raise InvalidInput unless the folder exists or can be created, and can be written."""
    above = path.absolute()
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        which = "it" if above == path.absolute() else _shown(above)
        raise InvalidInput(f"{what} {path} cannot be a folder: {which} is a file. Choose another")
    _check_access(above, os.W_OK | os.X_OK, what=what, verb="written")


def check_output_file(path: Path, *, what: str = "--out") -> None:
    """Raise InvalidInput unless the file can be written: it is no folder, and its folder exists."""
    if path.is_dir():
        raise InvalidInput(f"{what} {path} is a folder. Name a file in it, such as {path}/out.json")
    check_folder(path.parent, what=f"{what} {path}: the folder")
    _check_access(path.parent, os.W_OK | os.X_OK, what=what, verb="written")


def read_lines(path: Path, *, what: str) -> list[str]:
    """Return the lines of a UTF-8 file without blank ones. Raises InvalidInput."""
    check_file(path, what=what)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{what} {path} is not UTF-8 text. Save it as UTF-8") from error
    return [line.strip() for line in lines if line.strip()]


def missing(path: Path, *, what: str) -> str:
    """Return the message for a path that does not exist, with the nearest name beside it."""
    message = f"{what} {path} does not exist"
    above = path.absolute().parent
    if not above.is_dir():
        return f"{message}, nor does the folder {path.parent}. Check the path"
    near = nearest(path.name, (each.name for each in above.iterdir()))
    return f"{message}. " + (f"Did you mean {path.parent / near}?" if near else "Check the path")


def _check_access(path: Path, mode: int, *, what: str, verb: str) -> None:
    if not os.access(path, mode):
        raise InvalidInput(
            f"{what} {_shown(path)} cannot be {verb}: permission denied. "
            "Change its permissions, or choose another path"
        )


def _shown(path: Path) -> str:
    """Return the path relative to the working folder if it is inside."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
