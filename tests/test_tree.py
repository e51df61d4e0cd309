"""Rules of the source tree: short files, no paths of one machine, documented settings."""

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (
    *("unspoken", "services", "worker", "training", "smallworld"),
    *("cli", "experiments", "bench", "tests"),
)
MIN_LINES, MAX_LINES = 40, 500
MAX_MODULES = 15


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = [name for name in listed.stdout.split("\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def python_files() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def test_no_file_is_longer_than_a_reader_bears():
    long = [
        f"{path.relative_to(ROOT)}: {count}"
        for path in python_files()
        if (count := len(path.read_text().splitlines())) > MAX_LINES
    ]
    assert not long


def test_no_folder_has_more_modules_than_a_reader_can_survey():
    modules = Counter(path.parent for path in python_files() if path.name != "__init__.py")
    assert not {str(folder): count for folder, count in modules.items() if count > MAX_MODULES}


def test_a_small_module_says_why_it_is_one():
    """Tests are left out, because a test file follows its module."""
    reason = re.compile(r"^A module of its own because \S", flags=re.MULTILINE)
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if path.name not in ("__init__.py", "__main__.py")
        and "tests" not in path.relative_to(ROOT).parts
        and len((source := path.read_text()).splitlines()) < MIN_LINES
        and not reason.search(ast.get_docstring(ast.parse(source)) or "")
    ]
    assert not silent


def test_every_module_says_what_it_is():
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if path.stat().st_size
        and "tests" not in path.relative_to(ROOT).parts
        and not path.read_text().lstrip().startswith(('"""', "'''"))
    ]
    assert not silent


def test_no_file_names_a_machines_folders():
    pattern = re.compile(r"/(?:work|root|opt/pypi|home/[a-z]+)/")
    guilty = []
    for path in tracked_files():
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ".example"}:
            text = path.read_text(encoding="utf-8", errors="replace")
            guilty += [str(path.relative_to(ROOT))] if pattern.search(text) else []
    assert guilty in ([], ["tests/test_tree.py"])


@pytest.mark.parametrize(
    "target",
    [
        *("help", "setup", "check", "openapi", "test", "security-test", "audit", "demo", "up"),
        *("chaos", "chaos-long", "compose-test", "bench", "dist"),
    ],
)
def test_make_help_tells_every_target(target):
    text = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert re.search(rf"^{target}\s+\S", text, flags=re.MULTILINE)


def test_weights_stay_small():
    weights = ROOT / "smallworld" / "weights"
    total = sum(path.stat().st_size for path in weights.rglob("*") if path.is_file())
    assert total <= 60 * 1024 * 1024


def test_the_page_of_settings_is_what_the_code_says():
    from cli.settings_table import settings_table

    assert (ROOT / "docs" / "reference" / "settings.md").read_text() == settings_table()
