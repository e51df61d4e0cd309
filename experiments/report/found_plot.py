"""The plot of a published table: the share of unnamed objects that each source finds.

It is drawn from the table between the marks of docs/figures.md, so the two cannot differ, and
drawing needs no run of the experiment.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.report.files import between_marks
from experiments.report.plots import write_png
from unspoken.errors import InvalidInput
from unspoken.imaging.drawing import BLUE, GREY, ORANGE

TITLE_BY_NAME = {
    "B1": "n-grams of the caption",
    "B2": "nouns of the caption",
    "C1": "its nouns and random labels",
    "C2": "templates, of another caption",
    "B5": "default templates",
    "B5all": "templates, all eight",
    "B4": "a vocabulary of every label",
    "C3": "the true labels",
}
"""Sources of the plot, from the top."""
CONTROLS = ("C1", "C2", "C3")
TITLE = "Objects that the caption does not name: share found"
_WIDTH_PX, _ROW_PX, _LEFT_PX, _RIGHT_PX, _TOP_PX = 720, 32, 230, 150, 44
_ROW = re.compile(
    r"^\| (?P<name>\w+) [^|]+ \| (?P<queries>[\d.]+) \| [^|]+ \| "
    r"(?P<found>[\d.]+) \((?P<low>[\d.]+) to (?P<high>[\d.]+)\) \|",
    re.MULTILINE,
)


class Found(NamedTuple):
    """A row of the table: queries a picture, and the share found with its 95 % interval."""

    name: str
    title: str
    queries: float
    found: float
    low: float
    high: float


def read_found(page: Path) -> list[Found]:
    """Read the rows of TITLE_BY_NAME from a page that holds the table. Raises InvalidInput."""
    by_name = {
        match["name"]: Found(
            match["name"],
            TITLE_BY_NAME.get(match["name"], ""),
            *(float(match[each]) for each in ("queries", "found", "low", "high")),
        )
        for match in _ROW.finditer(between_marks(page))
    }
    if missing := [name for name in TITLE_BY_NAME if name not in by_name]:
        raise InvalidInput(f"the table of {page} has no row {', '.join(missing)}")
    return [by_name[name] for name in TITLE_BY_NAME]


def draw_found(rows: Sequence[Found], path: Path) -> None:
    """Plot a bar for each row, with its interval and its number of queries, as PNG."""
    most = max(row.high for row in rows)
    height = _TOP_PX + _ROW_PX * len(rows) + 28
    parts = [f'<text x="12" y="24" font-size="15">{TITLE}</text>']
    for index, row in enumerate(rows):
        parts += _bar(row, y=_TOP_PX + _ROW_PX * index, most=most)
    legend_y = height - 10
    for x, color, text in (
        (_LEFT_PX, BLUE, "sources"),
        (_LEFT_PX + 90, ORANGE, "controls"),
    ):
        parts.append(f'<rect x="{x}" y="{legend_y - 9}" width="12" height="10" fill="{color}"/>')
        parts.append(f'<text x="{x + 18}" y="{legend_y}">{text}</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH_PX}" height="{height}" '
        'font-family="sans-serif" font-size="13" fill="#333">'
        '<rect width="100%" height="100%" fill="white"/>'
    )
    write_png("\n".join((head, *parts, "</svg>")), path)


def _bar(row: Found, *, y: float, most: float) -> list[str]:
    def x(share: float) -> float:
        return _LEFT_PX + (_WIDTH_PX - _LEFT_PX - _RIGHT_PX) * share / most

    middle = y + _ROW_PX / 2
    color = ORANGE if row.name in CONTROLS else BLUE
    queries = f"{row.queries:.0f} queries" if row.queries >= 1.5 else "1 query"
    return [
        f'<text x="{_LEFT_PX - 10}" y="{middle + 4}" text-anchor="end">{row.title}</text>',
        f'<rect x="{_LEFT_PX}" y="{middle - 9}" width="{x(row.found) - _LEFT_PX:.1f}" '
        f'height="18" fill="{color}"/>',
        f'<path d="M{x(row.low):.1f} {middle}H{x(row.high):.1f}" stroke="{GREY}" '
        'stroke-width="2"/>',
        f'<text x="{x(row.high) + 8:.1f}" y="{middle + 4}">{row.found:.1%}, {queries}</text>',
    ]
