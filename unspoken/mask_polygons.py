"""Masks as polygons, without loss: every part and every hole, along the edges of pixels.

Rings run with the mask on their right hand (y points down): outer rings clockwise, holes the other
way. Pixels that touch at a corner alone are different parts. A pixel is in the mask exactly when
its centre lies in a polygon and in none of its holes.
"""

from typing import NamedTuple

import numpy as np

Polygon = list[list[int]]
"""An outer ring, then its holes; a ring is [x0, y0, x1, y1, ...], not closed by a repeat."""

_RIGHT_TURN = {"e": "s", "s": "w", "w": "n", "n": "e"}
_LEFT_TURN = {"e": "n", "n": "w", "w": "s", "s": "e"}


class _Edge(NamedTuple):
    """A straight stretch of a boundary."""

    start: tuple[int, int]
    end: tuple[int, int]
    heading: str


def mask_polygons(mask: np.ndarray) -> list[Polygon]:
    """(H, W) bool -> its parts, the largest outer ring first."""
    outers: list[list[tuple[int, int]]] = []
    holes: list[list[tuple[int, int]]] = []
    for ring in _rings(_edges(mask)):
        (outers if _signed_area(ring) > 0 else holes).append(ring)
    outers.sort(key=lambda ring: -_signed_area(ring))
    polygons = [[_flat(ring)] for ring in outers]
    for hole in holes:
        inside = _pixel_beside(hole)
        # Parts may lie in holes of parts: the smallest ring around the pixel is its own part's.
        around = [index for index, outer in enumerate(outers) if _contains(outer, inside)]
        polygons[around[-1]].append(_flat(hole))
    return polygons


def _edges(mask: np.ndarray) -> dict[tuple[tuple[int, int], str], _Edge]:
    """Every straight stretch by where it starts and where it heads."""
    padded = np.pad(np.asarray(mask, dtype=np.int8), 1)
    down = np.diff(padded, axis=0)[:, 1:-1]  # (H + 1, W): 1 at the top of the mask, -1 at its foot
    across = np.diff(padded, axis=1)[1:-1].T  # (W + 1, H): 1 at its left, -1 at its right
    edges = {}
    for lines, value, heading in (
        (down, 1, "e"),
        (down, -1, "w"),
        (across, 1, "n"),
        (across, -1, "s"),
    ):
        for line, low, high in _runs(lines == value):
            first, last = (low, high) if heading in "es" else (high, low)
            start, end = ((first, line), (last, line))
            if heading in "ns":
                start, end = ((line, first), (line, last))
            edges[start, heading] = _Edge(start, end, heading)
    return edges


def _runs(lines: np.ndarray) -> list[tuple[int, int, int]]:
    """(line, first, past the last) of every run of True along the second axis."""
    padded = np.pad(lines.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(padded, axis=1)
    line, low = np.nonzero(steps == 1)
    _, high = np.nonzero(steps == -1)
    return list(zip(line.tolist(), low.tolist(), high.tolist(), strict=True))


def _rings(edges: dict[tuple[tuple[int, int], str], _Edge]) -> list[list[tuple[int, int]]]:
    """Follow the edges round; where two parts touch at a corner, turn right and stay on one."""
    rings = []
    while edges:
        first = next(iter(edges))
        ring, edge = [], edges.pop(first)
        while True:
            ring.append(edge.start)
            right = (edge.end, _RIGHT_TURN[edge.heading])
            left = (edge.end, _LEFT_TURN[edge.heading])
            if first in (right, left) and right not in edges:
                break
            edge = edges.pop(right if right in edges else left)
        rings.append(ring)
    return rings


def _signed_area(ring: list[tuple[int, int]]) -> int:
    """Twice the area; positive for an outer ring."""
    points = np.asarray(ring, dtype=np.int64)
    after = np.roll(points, -1, axis=0)
    return int((points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]).sum())


def _pixel_beside(ring: list[tuple[int, int]]) -> tuple[float, float]:
    """Centre of a mask pixel on the right hand of the ring's first edge."""
    (x0, y0), (x1, y1) = ring[0], ring[1]
    step_x, step_y = np.sign(x1 - x0), np.sign(y1 - y0)
    return x0 + (step_x - step_y) / 2, y0 + (step_y + step_x) / 2


def _contains(ring: list[tuple[int, int]], point: tuple[float, float]) -> bool:
    """Whether a pixel's centre lies in a ring: it crosses an odd number of upright edges."""
    x, y = point
    points = np.asarray(ring)
    after = np.roll(points, -1, axis=0)
    low = np.minimum(points[:, 1], after[:, 1])
    high = np.maximum(points[:, 1], after[:, 1])
    crossed = (low < y) & (y < high) & (points[:, 0] > x)
    return bool(crossed.sum() % 2)


def _flat(ring: list[tuple[int, int]]) -> list[int]:
    return [coordinate for vertex in ring for coordinate in vertex]
