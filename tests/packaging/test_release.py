"""A release: its tag, the version and the changelog agree; the changelog's section is its notes."""

import pytest
import yaml

from scripts.check_release import release_notes
from tests.test_tree import ROOT
from unspoken import __version__

CHANGELOG = """# Changelog

## Unreleased

## 1.2.0 - 2030-01-31
### Added
- A thing.

## 1.1.0 - 2029-01-31
- Older.
"""


def test_the_notes_of_a_release_are_its_section():
    notes = release_notes("v1.2.0", version="1.2.0", changelog=CHANGELOG)
    assert notes == "### Added\n- A thing."


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "message"),
    [
        ("v1.2.1", "1.2.0", CHANGELOG, "is not v1.2.0"),
        ("v1.3.0", "1.3.0", CHANGELOG, 'no section "1.3.0 - YYYY-MM-DD"'),
        ("v1.2.0", "1.2.0", CHANGELOG.replace("## 1.2.0", "- More.\n## 1.2.0"), "Unreleased"),
    ],
)
def test_a_tree_that_is_not_ready_is_refused_with_what_is_left_to_do(
    tag, version, changelog, message
):
    with pytest.raises(ValueError, match=message):
        release_notes(tag, version=version, changelog=changelog)


def test_the_version_is_written_once():
    files = [ROOT / "pyproject.toml", *(ROOT / "stack").glob("*.*")]
    assert not [path for path in files if path.is_file() and __version__ in path.read_text()]


def test_the_release_workflow_runs_the_commands_of_the_makefile():
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    targets = (ROOT / "Makefile").read_text()
    called = [line.split()[1] for run in steps for line in run.splitlines() if "make " in line]
    assert {"check", "test", "dist"} <= set(called)
    assert all(f"\n{name}:" in targets for name in called)
