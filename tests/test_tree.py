"""Rules of the source tree: short files, no paths of one machine, documented settings."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (
    *("unspoken", "services", "worker", "training", "smallworld"),
    *("cli", "experiments", "bench", "tests"),
)
MAX_LINES = 500


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
        *("chaos", "chaos-long", "compose-test", "bench"),
    ],
)
def test_make_help_tells_every_target(target):
    text = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert re.search(rf"^{target}\s+\S", text, flags=re.MULTILINE)


def test_weights_stay_small():
    weights = ROOT / "weights"
    total = sum(path.stat().st_size for path in weights.rglob("*") if path.is_file())
    assert total <= 60 * 1024 * 1024


def test_the_page_of_settings_is_what_the_code_says():
    from cli.settings_table import settings_table

    assert (ROOT / "docs" / "settings.md").read_text() == settings_table()
