"""Markdown tables, percentages and escaped text.

A module of its own because the card, the bias page and the pages of experiments share it.
"""

import re
from collections.abc import Iterable


def table(header: tuple[str, ...], lines: Iterable[tuple[object, ...]]) -> str:
    """Return a markdown table. Each cell's text is folded into one line."""
    rows = [header, tuple("---" for _ in header), *lines]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows) + "\n"


def percent(value: float | None) -> str:
    """Format a share as a percentage with one decimal; '-' for None."""
    return "-" if value is None else f"{value:.1%}"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def plain(text: str) -> str:
    """Return a text on one line, with all markdown and HTML characters escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", " ".join(text.split()))
