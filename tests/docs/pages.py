"""The fenced blocks of a page of docs/."""

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent.parent.parent / "docs"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, its text and its first line."""

    language: str
    text: str
    line: int

    def is_right_above(self, other: "Block | None") -> bool:
        """Return True if the other block begins where this one ends."""
        return other is not None and other.line == self.line + self.text.count("\n") + 2


def blocks(page: str) -> list[Block]:
    """Return all blocks of a page, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [
        Block(match[1], match[2], text.count("\n", 0, match.start()) + 1)
        for match in _BLOCK.finditer(text)
    ]
