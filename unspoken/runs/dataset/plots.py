"""SVG plots for the card. Every markdown viewer shows SVG, and no plotting library is needed."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from unspoken.imaging.drawing import BLUE, COLORS, SERIES

WIDTH_PX, HEIGHT_PX = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 28, 40, 44
_INK, _DOT = "#333", BLUE
# Beyond this number, dots overlap.
MAX_DOTS = 2000
_SWATCH_PX = 12
_CHAR_PX = 7
"""More than the mean width of a character, to reserve space for names beside a plot."""
_MAX_LOG_TICKS = 8
_DASHED = f'stroke="{_INK}" stroke-dasharray="4 4"'


def zipf_plot(frequencies: Sequence[int]) -> str:
    """Plot the boxes of each label by its rank, on log-log axes.

    frequencies: positive, in any order.
    """
    ordered = sorted(frequencies, reverse=True)
    shown = list(enumerate(ordered, start=1))
    if len(shown) > MAX_DOTS:
        # Choose ranks evenly on the log axis, because the tail is dense.
        steps = {round(len(shown) ** (step / MAX_DOTS)) for step in range(MAX_DOTS + 1)}
        shown = [shown[rank - 1] for rank in sorted(steps)]
    ticks_x, ticks_y = _log_ticks(len(ordered)), _log_ticks(max(ordered, default=1))
    axes = _Axes(math.log10(ticks_x[-1]), math.log10(ticks_y[-1]))

    def x(rank: float) -> float:
        return axes.x(math.log10(rank))

    def y(boxes: float) -> float:
        return axes.y(math.log10(boxes))

    parts = [_tick_x(x(each), f"{each:,}") for each in ticks_x]
    parts += [_tick_y(y(each), f"{each:,}") for each in ticks_y]
    parts += [
        f'<circle cx="{x(rank):.1f}" cy="{y(boxes):.1f}" r="2.5" fill="{_DOT}"/>'
        for rank, boxes in shown
    ]
    return _svg(
        parts,
        title="How often each label occurs",
        across="rank of the label, the most frequent first",
        up="boxes",
    )


def bar_plot(heights: Mapping[int, int], *, title: str, across: str, up: str) -> str:
    """Plot a bar for every whole number from 0 to the largest key."""
    last = max(heights, default=0)
    most = max(heights.values(), default=0) or 1
    step_px = (WIDTH_PX - _LEFT - _RIGHT) / (last + 1)
    unit_px = (HEIGHT_PX - _TOP - _BOTTOM) / most
    every = max(1, -(-(last + 1) // 12))
    base = HEIGHT_PX - _BOTTOM
    ticks = [value for value in _round_ticks(most) if value.is_integer()]
    parts = [_tick_y(base - unit_px * value, f"{value:,.0f}") for value in ticks]
    for value in range(last + 1):
        left, height = _LEFT + value * step_px, unit_px * heights.get(value, 0)
        if value % every == 0:
            parts.append(_tick_x(left + step_px / 2, str(value)))
        parts.append(
            f'<rect x="{left + step_px * 0.1:.1f}" y="{base - height:.1f}" '
            f'width="{step_px * 0.8:.1f}" height="{height:.1f}" fill="{_DOT}"/>'
        )
    return _svg(parts, title=title, across=across, up=up)


class Curve(NamedTuple):
    """A named line of (x, y) points; `chosen`: the x that a dot marks, if any."""

    name: str
    points: Sequence[tuple[float, float]]
    chosen: float | None = None


def rate_plot(curves: Sequence[Curve], *, limit: float, title: str, across: str, up: str) -> str:
    """Plot lines on axes from 0 to 1, with a dot at each `chosen`, and a dashed line at `limit`."""
    ticks = [step / 5 for step in range(6)]
    axes = _Axes(1.0, 1.0)
    y = axes.y(limit)
    parts = [_tick_x(axes.x(each), f"{each:.1f}") for each in ticks]
    parts += [_tick_y(axes.y(each), f"{each:.0%}") for each in ticks]
    parts.append(f'<path d="M{axes.x(0):.1f} {y:.1f}H{axes.x(1):.1f}" {_DASHED}/>')
    return _svg([*parts, *_lines(curves, axes)], title=title, across=across, up=up)


def line_plot(curves: Sequence[Curve], *, title: str, across: str, up: str) -> str:
    """Plot lines on axes that start at 0, with a dot at each `chosen` and names at the right."""
    points = [point for curve in curves for point in curve.points]
    x_most = max((across for across, _ in points), default=0.0) or 1.0
    y_most = max((up for _, up in points), default=0.0) or 1.0
    longest = max((len(curve.name) for curve in curves), default=0)
    axes = _Axes(x_most, y_most, beside_px=_RIGHT + _SWATCH_PX + _CHAR_PX * longest)
    parts = [_tick_x(axes.x(each), f"{each:,g}") for each in _round_ticks(x_most)]
    parts += [_tick_y(axes.y(each), f"{each:,g}") for each in _round_ticks(y_most)]
    return _svg(
        [*parts, *_lines(curves, axes)],
        title=title,
        across=across,
        up=up,
        beside_px=axes.beside_px,
    )


class _Axes(NamedTuple):
    """Two axes from 0 to these values; `beside_px`: space for names at their right."""

    x_most: float
    y_most: float
    beside_px: int = 0

    def x(self, value: float) -> float:
        return _LEFT + (WIDTH_PX - _LEFT - _RIGHT) * value / self.x_most

    def y(self, value: float) -> float:
        return HEIGHT_PX - _BOTTOM - (HEIGHT_PX - _BOTTOM - _TOP) * value / self.y_most


def _round_ticks(most: float) -> list[float]:
    """Return at most six multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(most / 5))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= most / 5 * (1 - 1e-9))
    return [round(number * step, 10) for number in range(int(most / step + 1e-9) + 1)]


def _log_ticks(most: int) -> list[int]:
    """Return 1, 2, 5, 10, ... up to the first number that is at least `most`; decades if many."""
    for steps in ((1, 2, 5), (1,)):
        ticks = [1]
        while ticks[-1] < max(2, most):
            ticks.append(steps[len(ticks) % len(steps)] * 10 ** (len(ticks) // len(steps)))
        if len(ticks) <= _MAX_LOG_TICKS:
            break
    return ticks


def _lines(curves: Sequence[Curve], axes: _Axes) -> list[str]:
    assert len(curves) <= len(SERIES), "every curve has a colour of its own"
    parts, right = [], WIDTH_PX - _RIGHT
    for row, (curve, series) in enumerate(zip(curves, SERIES, strict=False)):
        colour = COLORS.get(curve.name, series)
        line = " ".join(f"{axes.x(across):.1f},{axes.y(up):.1f}" for across, up in curve.points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        height = dict(curve.points).get(curve.chosen) if curve.chosen is not None else None
        if curve.chosen is not None and height is not None:
            x, y = axes.x(curve.chosen), axes.y(height)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
        # The text is in ink with a swatch, because thin letters in light colours are hard to read.
        x = right + 12 if axes.beside_px else right - _SWATCH_PX
        text_x, anchor = (x + _SWATCH_PX + 4, "start") if axes.beside_px else (x - 4, "end")
        y = _TOP + 12 + 16 * row
        parts += [
            f'<rect x="{x}" y="{y - 7}" width="{_SWATCH_PX}" height="4" fill="{colour}"/>',
            f'<text x="{text_x}" y="{y}" text-anchor="{anchor}">{html.escape(curve.name)}</text>',
        ]
    return parts


def _tick_x(x: float, text: str) -> str:
    y = HEIGHT_PX - _BOTTOM
    return (
        f'<path d="M{x:.1f} {y}v5" stroke="{_INK}"/>'
        f'<text x="{x:.1f}" y="{y + 17}" text-anchor="middle">{text}</text>'
    )


def _tick_y(y: float, text: str) -> str:
    return (
        f'<path d="M{_LEFT} {y:.1f}h-5" stroke="{_INK}"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _svg(parts: Iterable[str], *, title: str, across: str, up: str, beside_px: int = 0) -> str:
    base, middle, width = HEIGHT_PX - _BOTTOM, (WIDTH_PX + _LEFT - _RIGHT) / 2, WIDTH_PX + beside_px
    title, across, up = map(html.escape, (title, across, up))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT_PX}" '
        f'width="{width}" height="{HEIGHT_PX}" font-family="sans-serif" font-size="12" '
        f'fill="{_INK}" role="img">',
        f"<title>{title}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15" font-weight="bold">{title}</text>',
        f'<path d="M{_LEFT} {_TOP}V{base}H{WIDTH_PX - _RIGHT}" stroke="{_INK}" fill="none"/>',
        *parts,
        f'<text x="{middle}" y="{HEIGHT_PX - 8}" text-anchor="middle">{across}</text>',
        f'<text transform="translate(13 {base / 2}) rotate(-90)" text-anchor="middle">{up}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
