"""Pictures of scenes: JPEG bytes for files, and a contact sheet with boxes and labels."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from smallworld.scenes import Scene
from unspoken.errors import InvalidInput
from unspoken.imaging.drawing import COLORS, LabelledBox, add_caption, draw_boxes, tile

NOTE_LINES = 3


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 as JPEG; the same picture and Pillow version give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()


def contact_sheet(
    scenes: Sequence[Scene],
    *,
    captions: Sequence[str] = (),
    num_columns: int = 4,
    zoom: int = 2,
) -> Image.Image:
    """Lay scenes out in a grid with every box and label drawn.

    `captions` has one text per scene, or is empty; each is written below its scene. Raises
    InvalidInput without scenes.
    """
    if not scenes:
        raise InvalidInput("a contact sheet needs at least one scene, got none")
    if captions and len(captions) != len(scenes):
        raise InvalidInput(f"{len(scenes)} scenes need as many captions, got {len(captions)}")
    tiles = []
    for index, scene in enumerate(scenes):
        note = f"{scene.key}  {scene.theme}, {scene.style}"
        if captions:
            note = f"{note}\n{captions[index]}"
        drawn = draw_truth(scene, zoom=zoom)
        tiles.append(add_caption(drawn, note, max_lines=NOTE_LINES))
    return add_caption(tile(tiles, columns=num_columns), "", legend=("whole", "part"))


def draw_truth(scene: Scene, *, zoom: int = 2) -> Image.Image:
    """Draw an enlarged scene with its boxes and labels."""
    boxes = [
        LabelledBox(each.box_xyxy, each.label, COLORS["part" if each.is_part else "whole"])
        for each in scene.objects
    ]
    return draw_boxes(Image.fromarray(scene.image), boxes, scale=zoom)
