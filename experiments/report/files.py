"""Output files of the experiment: JSON with all results, a page with tables, and plots."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.report.page import Result, answer, main_table, render_page
from experiments.report.plots import draw_cumulative, draw_fdr, draw_type_token
from experiments.sources import CUMULATIVE, LEGENDS
from unspoken.errors import InvalidInput

JSON_FILE, PAGE_FILE = "proposals.json", "proposals.md"
FDR_PLOT = "unnamed-against-fdr.png"
CUMULATIVE_PLOT = "templates-one-by-one.png"
TYPE_TOKEN_PLOT = "type-token.png"
PLOTS = (FDR_PLOT, CUMULATIVE_PLOT, TYPE_TOKEN_PLOT)
BEGIN, END = "<!-- proposals:begin -->", "<!-- proposals:end -->"


def write_report(result: Result, out: Path) -> list[Path]:
    """Write all files into `out` and return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_without_nan(result), indent=1, allow_nan=False)
    (out / JSON_FILE).write_text(text + "\n", encoding="utf-8")
    (out / PAGE_FILE).write_text(render_page(result, PLOTS), encoding="utf-8")
    draw_fdr(
        {
            LEGENDS[name]: [
                (point["false_discovery_rate"], point["unnamed_recall_50"]) for point in points
            ]
            for name, points in result["fdr_curves"].items()
        },
        out / FDR_PLOT,
        false_discovery_rate=result["config"]["false_discovery_rate"],
    )
    draw_cumulative(_cumulative(result), out / CUMULATIVE_PLOT)
    labels = result["richness"]["equal_fdr"]
    draw_type_token(
        {LEGENDS[name]: labels[name]["type_token"] for name in result["fdr_curves"]},
        out / TYPE_TOKEN_PLOT,
    )
    return [out / name for name in (JSON_FILE, PAGE_FILE, *PLOTS)]


def put_into(page: Path, result: Result) -> None:
    """Write table and answer between the marks of a page. Raises InvalidInput without the marks."""
    before, after = around_marks(page)
    between = f"{BEGIN}\n{main_table(result)}\n{answer(result)}"
    page.write_text(f"{before}{between}{after}", encoding="utf-8")


def between_marks(page: Path) -> str:
    """Return the table and the answer that `put_into` wrote. Raises InvalidInput."""
    before, after = around_marks(page)
    return page.read_text(encoding="utf-8")[len(before) : -len(after)]


def around_marks(page: Path) -> tuple[str, str]:
    """Return a page's text before the first mark, and from the second mark on.

    Raises InvalidInput if the page cannot be read or lacks the marks.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{page} cannot be read: {error.strerror}. Check the path") from error
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InvalidInput(f"{page} must contain {BEGIN} and then {END}, each once")
    return text[: text.index(BEGIN)], text[text.index(END) :]


def _cumulative(result: Result) -> dict[str, Sequence[tuple[float, float]]]:
    """Return figures by the number of templates; with none, only the caption's own nouns."""
    figures = result["figures"]["equal_fdr"]
    names = ("B2", *(each.name for each in CUMULATIVE))
    return {
        title: [(float(number), figures[name][figure][0]) for number, name in enumerate(names)]
        for title, figure in (
            ("label is proposed", "unnamed_label_recall"),
            ("object is found", "unnamed_recall_50"),
        )
    }


def _without_nan(value: Any) -> Any:
    """Replace NaN by None at any depth, because JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
