"""Convert masks to polygons without loss: all parts and holes, along the edges of pixels.

Rings have the mask on their right (y points down): outer rings run clockwise, holes
counter-clockwise. Pixels that touch only at a corner belong to different parts. A pixel is in the
mask exactly if its centre lies in a polygon and in none of its holes.

The time is linear in the number of pixels and of corners. A mask may have up to `MAX_CORNERS`.
"""

from typing import NamedTuple

import numpy as np

from unspoken.errors import InvalidInput

Polygon = list[list[int]]
"""An outer ring, then its holes. A ring is [x0, y0, x1, y1, ...] without a closing point."""

MAX_CORNERS = 200_000
"""Some 2 MB of JSON. Masks of things have a few thousand corners; noise nearly one per pixel."""
_HEADINGS = "ewns"
_RIGHT_TURN = {"e": "s", "s": "w", "w": "n", "n": "e"}
_LEFT_TURN = {"e": "n", "n": "w", "w": "s", "s": "e"}


class _RunLengths(NamedTuple):
    """Runs of True along the rows of a matrix, in the order of row and column; (N,) each."""

    line: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """Index after the last True."""


class _Edges(NamedTuple):
    """All straight edges of one heading, ordered by line and place; (N,) each."""

    runs: _RunLengths
    start: np.ndarray
    """Number of the start vertex, ascending; see _Grid."""
    start_xy: tuple[np.ndarray, np.ndarray]
    end_xy: tuple[np.ndarray, np.ndarray]


class _Grid(NamedTuple):
    """The grid of vertices between pixels, numbered by row or by column."""

    height: int
    width: int

    def number(self, heading: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return vertex numbers in the order in which edges of this heading are sorted."""
        along, across, side = (y, x, self.width) if heading in "ew" else (x, y, self.height)
        numbers: np.ndarray = along * (side + 1) + across
        return numbers


class _Rings(NamedTuple):
    """Closed boundaries; the vertices of ring i are `points[bounds[i]:bounds[i + 1]]`."""

    points: np.ndarray  # (N, 2) xy
    bounds: np.ndarray  # (R + 1,)
    ring_of: dict[str, np.ndarray]
    """Heading -> the ring index of each of its edges."""
    doubled_areas: np.ndarray
    """(R,) doubled signed areas; positive for an outer ring."""


def mask_polygons(mask: np.ndarray) -> list[Polygon]:
    """Return the parts of an (H, W) bool mask, the largest outer ring first.

    Raises InvalidInput for over MAX_CORNERS corners.
    """
    mask = np.asarray(mask, dtype=bool)
    grid = _Grid(*mask.shape)
    edges = _edges(mask, grid)
    if not len(edges["e"].start):
        return []
    rings = _rings(edges, grid)
    is_outer = rings.doubled_areas > 0
    outers = np.flatnonzero(is_outer)
    polygon_of = {}
    polygons: list[Polygon] = []
    flat = rings.points.ravel().tolist()
    bounds = (2 * rings.bounds).tolist()
    for ring in outers[np.argsort(-rings.doubled_areas[outers], kind="stable")].tolist():
        polygon_of[ring] = len(polygons)
        polygons.append([flat[bounds[ring] : bounds[ring + 1]]])
    for hole, outer in sorted(_owners(mask, edges, rings, grid).items()):
        polygons[polygon_of[outer]].append(flat[bounds[hole] : bounds[hole + 1]])
    return polygons


def _edges(mask: np.ndarray, grid: _Grid) -> dict[str, _Edges]:
    padded = np.pad(mask.astype(np.int8), 1)
    down = np.diff(padded, axis=0)[:, 1:-1]  # (H + 1, W): 1 at the mask's top, -1 at its bottom
    across = np.diff(padded, axis=1)[1:-1].T  # (W + 1, H): 1 at its left, -1 at its right
    edges = {}
    for heading, lines in zip(
        _HEADINGS, (down == 1, down == -1, across == 1, across == -1), strict=True
    ):
        runs = _runs(lines, max_runs=MAX_CORNERS // len(_HEADINGS))
        first, last = (runs.low, runs.high) if heading in "es" else (runs.high, runs.low)
        starts, ends = (
            (place, runs.line) if heading in "ew" else (runs.line, place) for place in (first, last)
        )
        edges[heading] = _Edges(runs, grid.number(heading, *starts), starts, ends)
    return edges


def _runs(lines: np.ndarray, *, max_runs: int | None = None) -> _RunLengths:
    """Return runs of True along the second axis. Raises InvalidInput above `max_runs`."""
    padded = np.pad(lines, ((0, 0), (1, 1)))
    changes = padded[:, 1:] != padded[:, :-1]
    if max_runs is not None and np.count_nonzero(changes) > 2 * max_runs:
        raise InvalidInput(
            f"a mask has over {MAX_CORNERS} corners, the limit for polygons: request the mask "
            "as 'rle' or 'png'"
        )
    line, column = np.nonzero(changes)
    return _RunLengths(line[::2], column[::2], column[1::2])


def _rings(edges: dict[str, _Edges], grid: _Grid) -> _Rings:
    """Follow the edges around each ring. Where two parts touch at a corner, turn right."""
    lengths = [len(edges[heading].start) for heading in _HEADINGS]
    offsets = {heading: sum(lengths[:place]) for place, heading in enumerate(_HEADINGS)}
    following = np.concatenate(
        [_next_edges(heading, edges, offsets, grid) for heading in _HEADINGS]
    )
    order, bounds = _cycles(following.tolist())
    starts = [np.stack(edges[heading].start_xy, axis=1) for heading in _HEADINGS]
    points = np.concatenate(starts)[order]
    after = np.roll(points, -1, axis=0)
    after[bounds[1:] - 1] = points[bounds[:-1]]
    crossed = points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]
    ring_of_edge = np.empty(len(order), dtype=np.int64)
    ring_of_edge[order] = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    ring_of = {
        heading: ring_of_edge[offsets[heading] : offsets[heading] + len(edges[heading].start)]
        for heading in _HEADINGS
    }
    return _Rings(points, bounds, ring_of, np.add.reduceat(crossed, bounds[:-1]))


def _next_edges(
    heading: str, edges: dict[str, _Edges], offsets: dict[str, int], grid: _Grid
) -> np.ndarray:
    """Return, for each edge of a heading, the number of the edge that follows it."""
    right, left = _RIGHT_TURN[heading], _LEFT_TURN[heading]
    x, y = edges[heading].end_xy
    wanted = grid.number(right, x, y)
    starts = edges[right].start
    places = np.minimum(np.searchsorted(starts, wanted), len(starts) - 1)
    has_right = starts[places] == wanted
    left_places = np.searchsorted(edges[left].start, grid.number(left, x, y))
    return np.where(has_right, places + offsets[right], left_places + offsets[left])


def _cycles(following: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges ordered by ring, and the start of each ring; the last bound is the end."""
    order: list[int] = []
    bounds = [0]
    is_done = bytearray(len(following))
    for first in range(len(following)):
        edge = first
        while not is_done[edge]:
            is_done[edge] = 1
            order.append(edge)
            edge = following[edge]
        if len(order) > bounds[-1]:
            bounds.append(len(order))
    return np.array(order), np.array(bounds)


def _owners(
    mask: np.ndarray, edges: dict[str, _Edges], rings: _Rings, grid: _Grid
) -> dict[int, int]:
    """Return hole -> the outer ring of its part.

    The pixel next to a hole's leftmost edge belongs to a run of the mask. The left end of that run
    is on a ring of the same part that extends further left: the outer ring, or another hole.
    """
    # Edges are sorted by x, so the first edge of a ring is its leftmost.
    touched, firsts = np.unique(rings.ring_of["s"], return_index=True)
    is_hole = rings.doubled_areas[touched] < 0
    holes, firsts = touched[is_hole], firsts[is_hole]
    x, y = edges["s"].runs.line[firsts], edges["s"].runs.low[firsts]
    runs = _runs(mask)
    beside = np.searchsorted(grid.number("e", runs.high, runs.line), grid.number("e", x, y))
    upright = edges["n"].runs
    places = np.searchsorted(
        grid.number("n", upright.line, upright.low),
        grid.number("n", runs.low[beside], y),
        side="right",
    )
    parents = rings.ring_of["n"][places - 1]
    owner_of: dict[int, int] = {}
    for place in np.argsort(x, kind="stable").tolist():
        parent = int(parents[place])
        owner_of[int(holes[place])] = owner_of.get(parent, parent)
    return owner_of
