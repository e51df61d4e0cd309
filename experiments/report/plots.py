"""The experiment's plots, in the style of the dataset card's, written as PNG."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import resvg_py
from PIL import ImageFont

from unspoken.runs.dataset.plots import Curve, line_plot

SCALE = 2
Points = Sequence[tuple[float, float]]


def draw_fdr(curves: Mapping[str, Points], path: Path, *, false_discovery_rate: float) -> None:
    """Plot recall of unnamed objects against the false-discovery rate estimated by decoys."""
    lines = [
        Curve(name, _known(points), chosen=false_discovery_rate) for name, points in curves.items()
    ]
    write_png(
        line_plot(
            lines,
            title="Objects found that no caption names",
            across="upper bound of the false-discovery rate, estimated by decoys",
            up="share of unnamed objects",
        ),
        path,
    )


def draw_cumulative(curves: Mapping[str, Points], path: Path) -> None:
    """Plot the gain of each additional template over the caption's own nouns."""
    lines = [Curve(name, _known(points)) for name, points in curves.items()]
    write_png(
        line_plot(
            lines,
            title="Gain by each further template",
            across="templates in addition to the caption's nouns",
            up="share of unnamed objects",
        ),
        path,
    )


def draw_type_token(curves: Mapping[str, Points], path: Path) -> None:
    """Plot the number of distinct labels against the number of boxes."""
    lines = [Curve(name, _known(points)) for name, points in curves.items()]
    write_png(
        line_plot(
            lines, title="Distinct labels by number of boxes", across="boxes", up="distinct labels"
        ),
        path,
    )


def _known(points: Points) -> Points:
    return [(across, up) for across, up in points if not math.isnan(up)]


def write_png(svg: str, path: Path) -> None:
    """Write SVG as PNG with Pillow's own font, because some machines have no fonts."""
    font = ImageFont.load_default(12)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow's wheels have FreeType"
    with tempfile.TemporaryDirectory(prefix="unspoken-font-") as folder:
        file = Path(folder) / "font.ttf"
        file.write_bytes(font.font_bytes)
        png = resvg_py.svg_to_bytes(
            svg_string=svg,
            zoom=SCALE,
            skip_system_fonts=True,
            font_files=[str(file)],
            sans_serif_family=font.getname()[0],
        )
    path.write_bytes(bytes(png))
