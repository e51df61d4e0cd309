"""Choose where the texts of labelled boxes go in a picture, so that they stay readable.

Each label tries places around its box. Overlapping another label costs most, then covering boxes,
by the covered share of each, so a label avoids small boxes first. Small boxes choose first, because
they have the fewest good places.

Legend: N labels, M places that one label tries.
"""

import numpy as np

from unspoken.imaging.boxes import box_area, box_intersection

OVERLAP_COST = 10.0
"""Cost of covering another label completely; covering one box completely costs 1."""
ANY_OVERLAP_COST = 1.0
"""Added for each label that is overlapped at all."""
PLACE_COST = 0.01
"""Cost of each step down the list of places, so that equally good places are taken in order."""
MAX_ROWS_AWAY = 5
"""Largest distance from the box, in heights of the label."""


def place_labels(
    boxes_xyxy: np.ndarray, sizes_wh: np.ndarray, *, canvas_wh: tuple[int, int]
) -> np.ndarray:
    """Return the rectangles of the labels, inside the picture: (N, 4), (N, 2) -> (N, 4) xyxy.

    boxes_xyxy: in pixels of the picture. sizes_wh: width and height of each label in pixels. A
    label larger than the picture starts at its left or top edge.
    """
    areas = np.maximum(box_area(boxes_xyxy), 1.0)
    labels = np.zeros((len(boxes_xyxy), 4))
    placed: list[int] = []
    for index in np.argsort(areas, kind="stable").tolist():
        places = _places(boxes_xyxy[index], sizes_wh[index], np.array(canvas_wh))  # (M, 4)
        overlaps = box_intersection(places, labels[placed]) / sizes_wh[index].prod()
        cost = (
            OVERLAP_COST * overlaps.sum(1)
            + ANY_OVERLAP_COST * (overlaps > 0).sum(1)
            + (box_intersection(places, boxes_xyxy) / areas).sum(1)
            + PLACE_COST * np.arange(len(places))
        )
        labels[index] = places[cost.argmin()]
        placed.append(index)
    return labels


def _places(box_xyxy: np.ndarray, size_wh: np.ndarray, canvas_wh: np.ndarray) -> np.ndarray:
    """Return rectangles for a label around and in its box, best first, moved into the picture."""
    x0, y0, x1, y1 = box_xyxy
    width, height = size_wh
    right = x1 - width
    corners = [(x0, y0 - height), (x0, y0), (x0, y1), (right, y0 - height), (right, y0)]
    corners += [(right, y1), (x0, y1 - height), (right, y1 - height)]
    corners += [(x1, y0), (x0 - width, y0), (x1, y1 - height), (x0 - width, y1 - height)]
    for rows in range(1, MAX_ROWS_AWAY + 1):
        away = rows * height
        corners += [(x, y0 - height - away) for x in (x0, right, x1, x0 - width)]
        corners += [(x, y1 + away) for x in (x0, right, x1, x0 - width)]
    low = np.clip(np.array(corners), 0, np.maximum(canvas_wh - size_wh, 0))
    return np.concatenate([low, low + size_wh], axis=1)
