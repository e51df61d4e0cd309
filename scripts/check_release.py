"""`python -m scripts.check_release TAG`: check that a release is ready, and print its notes.

The tag is v and the version of `unspoken/__init__.py`. CHANGELOG.md has a section of this version
with a date, and nothing is left under "Unreleased". The notes are the section's text.
"""

import re
import sys
from pathlib import Path

from unspoken import __version__

ROOT = Path(__file__).parents[1]
SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", flags=re.MULTILINE | re.DOTALL)


def release_notes(tag: str, *, version: str, changelog: str) -> str:
    """Return the notes of a release. Raises ValueError with what is left to do."""
    if tag != f"v{version}":
        raise ValueError(f"the tag {tag} is not v{version}, the version of unspoken/__init__.py")
    sections = dict(SECTION.findall(changelog))
    if sections.get("Unreleased", "").strip():
        raise ValueError(f"CHANGELOG.md: move what is under Unreleased into a section of {version}")
    for title, text in sections.items():
        if re.fullmatch(rf"{re.escape(version)} - \d{{4}}-\d\d-\d\d", title):
            return str(text).strip()
    raise ValueError(f'CHANGELOG.md has no section "{version} - YYYY-MM-DD"')


def main() -> None:
    """Print the notes of the tag in the only argument, or exit with the reason against it."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m scripts.check_release TAG")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    try:
        print(release_notes(sys.argv[1], version=__version__, changelog=changelog))  # noqa: T201
    except ValueError as error:
        sys.exit(f"not ready for {sys.argv[1]}: {error}")


if __name__ == "__main__":
    main()
