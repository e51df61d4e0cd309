"""References in documents, docstrings and comments: files and modules that they name must exist."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.test_tree import ROOMS, ROOT, python_files, tracked_files

TEXTS = {".py", ".md", ".toml", ".yml", ".yaml", ""}
WRITTEN_BY_RUNS = {"bias.md", "proposals.md"}
KEYS_OF_FILES = {"unspoken.format_version"}  # written like modules
PATH = re.compile(rf"(?<![\w./<>{{}}*-])((?:{'|'.join((*ROOMS, 'docs', 'scripts'))})/[\w./-]*\w)")
DECISION = re.compile(r"docs/decisions/\d{4}")
PAGE = re.compile(r"(?<![\w./{}-])[\w-]+\.md\b")
MODULE = re.compile(rf"(?:`|-m )((?:{'|'.join(ROOMS)})(?:\.\w+)+)")
PLACEHOLDER = re.compile(r"[./][A-Z]+$")
"""A part in capitals stands for any name: services/NAME, bench.NAME."""


@cache
def paths_of_the_tree() -> frozenset[str]:
    files = {str(path.relative_to(ROOT)) for path in tracked_files()}
    folders = {str(folder) for name in files for folder in Path(name).parents}
    return frozenset(files | folders)


def found(pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yield the file and the match for each reference in the tree's texts."""
    for path in tracked_files():
        if path.suffix in TEXTS and path != Path(__file__) and path.name != "CHANGELOG.md":
            for match in pattern.finditer(path.read_text(encoding="utf-8", errors="replace")):
                yield str(path.relative_to(ROOT)), match[match.lastindex or 0]


def exists(path: str) -> bool:
    known = paths_of_the_tree()
    return path in known or any(
        DECISION.fullmatch(path) and name.startswith(f"{path}-") for name in known
    )


def names_a_module(dotted: str) -> bool:
    """Return True for a module, or a name in the text of a module."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        folder = "/".join(parts[:length])
        for path in (f"{folder}.py", f"{folder}/__init__.py"):
            if path in paths_of_the_tree():
                text = (ROOT / path).read_text()
                return all(re.search(rf"\b{name}\b", text) for name in parts[length:])
    return False


def test_every_path_that_a_text_names_exists():
    missing = [
        each for each in found(PATH) if not exists(each[1]) and not PLACEHOLDER.search(each[1])
    ]
    assert not missing


def test_every_page_that_the_code_names_exists():
    pages = {Path(name).name for name in paths_of_the_tree()} | WRITTEN_BY_RUNS
    code = {
        str(path.relative_to(ROOT))
        for path in python_files()
        if "tests" not in path.relative_to(ROOT).parts
    }
    assert not [(file, page) for file, page in found(PAGE) if file in code and page not in pages]


def test_every_module_that_a_text_names_exists():
    missing = [
        each
        for each in found(MODULE)
        if not names_a_module(each[1])
        and not PLACEHOLDER.search(each[1])
        and each[1] not in KEYS_OF_FILES
    ]
    assert not missing
