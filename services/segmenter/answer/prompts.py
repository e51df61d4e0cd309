"""Decoder prompts of a query: one for each of its boxes, or one for all of its points."""

from dataclasses import dataclass

from unspoken.errors import InvalidInput
from unspoken.wire.segment import SegmentQuery


@dataclass(frozen=True)
class MaskPrompt:
    """A box and points for the mask decoder, in pixels of the image.

    owner: index of the query, or another number that the caller chooses. index: position of the
    prompt among the owner's prompts.
    """

    owner: int
    index: int = 0
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, int], ...] = ()

    @property
    def kind(self) -> tuple[bool, int]:
        """Key that is equal for prompts that can share one call of the decoder."""
        return self.box is not None, len(self.points)

    @property
    def is_ambiguous(self) -> bool:
        """True for a single click, which can mean an object or a part of it."""
        return self.box is None and len(self.points) == 1


def prompts_of(query: SegmentQuery, *, owner: int, size_hw: tuple[int, int]) -> list[MaskPrompt]:
    """Return the prompts of a query. Raises InvalidInput if one lies outside the image."""
    height, width = size_hw
    for point in query.points:
        if not (0 <= point.x <= width and 0 <= point.y <= height):
            raise InvalidInput(
                f"queries.{owner}: the point ({point.x}, {point.y}) is outside of the picture of "
                f"{width} x {height}"
            )
    points = tuple((point.x, point.y, point.label) for point in query.points)
    if not query.boxes:
        return [MaskPrompt(owner, points=points)] if points else []
    prompts = []
    for index, box in enumerate(query.boxes):
        inside = clip_box((box.x0, box.y0, box.x1, box.y1), size_hw)
        if inside is None:
            raise InvalidInput(
                f"queries.{owner}: the box {(box.x0, box.y0, box.x1, box.y1)} is outside of the "
                f"picture of {width} x {height}"
            )
        prompts.append(MaskPrompt(owner, index, box=inside, points=points))
    return prompts


def clip_box(
    box: tuple[float, float, float, float], size_hw: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Return the part of a box that is inside the image; None if it is empty."""
    height, width = size_hw
    x0, y0 = max(0.0, box[0]), max(0.0, box[1])
    x1, y1 = min(float(width), box[2]), min(float(height), box[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
