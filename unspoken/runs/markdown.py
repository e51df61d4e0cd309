"""The little markdown that the card and the page on bias are made of."""

import re
from collections.abc import Iterable


def table(header: tuple[str, ...], lines: Iterable[tuple[object, ...]]) -> str:
    """A table; what a cell holds is one line of text, whatever it was."""
    rows = [header, tuple("---" for _ in header), *lines]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows) + "\n"


def percent(value: float | None) -> str:
    """A share with one decimal; '-' where there is none."""
    return "-" if value is None else f"{value:.1%}"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def plain(text: str) -> str:
    """Return a text on one line whose signs mean nothing in markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", " ".join(text.split()))
