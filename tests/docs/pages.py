"""The documents of the tree, and their fenced blocks."""

import re
from typing import NamedTuple

from tests.test_tree import ROOT

DOCS = ROOT / "docs"
NOT_RUN = "# not run by tests"
"""Mark of a line, or in its first line of a block, that needs real models or containers."""
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its page, its language, its text and its first line."""

    page: str
    language: str
    text: str
    line: int

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def is_right_above(self, other: "Block | None") -> bool:
        """Return True if the other block begins where this one ends."""
        return (
            other is not None
            and other.page == self.page
            and other.line == self.line + self.text.count("\n") + 2
        )


def blocks(page: str) -> list[Block]:
    """Return all blocks of a page, in order. `page`: a path from the root of the tree."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, match[1], match[2], text.count("\n", 0, match.start()) + 1)
        for match in _BLOCK.finditer(text)
    ]


def pages() -> list[str]:
    """Return every document that a reader of the project may open, except the changelog."""
    found = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found if path.name != "CHANGELOG.md")


def blocks_of(language: str) -> list[Block]:
    """Return the blocks of a language in all pages."""
    return [block for page in pages() for block in blocks(page) if block.language == language]
