"""Links and pictures of README and docs exist, and the site has every page."""

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import DOCS, pages
from tests.test_tree import ROOT

MAX_README_WORDS = 700
MAX_PICTURE_BYTES = 150_000
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", flags=re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", flags=re.MULTILINE)


def links(page: str) -> list[tuple[bool, str, str]]:
    """Return (is a picture, text, target) of every link of a page, outside of code."""
    text = CODE.sub("``", (ROOT / page).read_text(encoding="utf-8"))
    return [(bool(mark), label, target) for mark, label, target in LINK.findall(text)]


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as GitHub and mkdocs write them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    slugs = set()
    for heading in HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slugs.add(re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return frozenset(slugs)


@pytest.mark.parametrize("page", pages())
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    broken = []
    for _, _, target in links(page):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors(path.resolve())):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", pages())
def test_every_picture_has_a_description(page):
    assert not [target for is_picture, text, target in links(page) if is_picture and not text]


def test_pictures_are_small():
    large = [
        path.name
        for path in (DOCS / "pictures").iterdir()
        if path.stat().st_size > MAX_PICTURE_BYTES
    ]
    assert not large


def test_every_tutorial_has_a_picture():
    for path in (DOCS / "tutorials").glob("*.md"):
        assert any(mark for mark, _, _ in links(str(path.relative_to(ROOT)))), path.name


def test_every_page_of_docs_is_in_the_navigation_once_or_a_listed_decision():
    listed = list(_leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    decisions = [target for _, _, target in links("docs/decisions/index.md")]
    listed += [f"decisions/{target}" for target in decisions]
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MAX_README_WORDS


def _leaves(entry):
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        for value in entry.values():
            yield from _leaves(value)
    else:
        for value in entry:
            yield from _leaves(value)
