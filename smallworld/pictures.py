"""Pictures of scenes: JPEG bytes for files, and a contact sheet with boxes and labels."""

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from smallworld.scenes import Scene
from unspoken.errors import InvalidInput

WHOLE_COLOR = (255, 64, 32)
PART_COLOR = (24, 110, 255)
GAP_PX = 6
FONT_PX = 11


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
    """Lay scenes out in a grid with every box and label drawn, wholes red and parts blue.

    `captions` has one text per scene, or is empty; each is written below its scene. Raises
    InvalidInput without scenes.
    """
    if not scenes:
        raise InvalidInput("a contact sheet needs at least one scene, got none")
    if captions and len(captions) != len(scenes):
        raise InvalidInput(f"{len(scenes)} scenes need as many captions, got {len(captions)}")
    font = ImageFont.load_default(size=FONT_PX)
    tile_w = max(each.image.shape[1] for each in scenes) * zoom
    tile_h = max(each.image.shape[0] for each in scenes) * zoom
    text_h = 3 * (FONT_PX + 3) if captions else FONT_PX + 3
    num_rows = math.ceil(len(scenes) / num_columns)
    size_wh = (
        num_columns * (tile_w + GAP_PX) + GAP_PX,
        num_rows * (tile_h + text_h + GAP_PX) + GAP_PX,
    )
    sheet = Image.new("RGB", size_wh, "white")
    draw = ImageDraw.Draw(sheet)
    for index, scene in enumerate(scenes):
        x = GAP_PX + index % num_columns * (tile_w + GAP_PX)
        y = GAP_PX + index // num_columns * (tile_h + text_h + GAP_PX)
        sheet.paste(draw_truth(scene, zoom=zoom), (x, y))
        note = f"{scene.key}  {scene.theme}, {scene.style}"
        if captions:
            note = "\n".join([note, *_wrap(captions[index], font=font, width_px=tile_w)[:2]])
        draw.multiline_text((x, y + tile_h + 1), note, fill="black", font=font, spacing=2)
    return sheet


def draw_truth(scene: Scene, *, zoom: int = 2) -> Image.Image:
    """Draw an enlarged scene with its boxes and labels."""
    height, width = scene.image.shape[:2]
    picture = Image.fromarray(scene.image).resize(
        (width * zoom, height * zoom), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=FONT_PX)
    # Parts first, so that the labels of wholes stay readable.
    for each in sorted(scene.objects, key=lambda found: not found.is_part):
        color = PART_COLOR if each.is_part else WHOLE_COLOR
        x0, y0, x1, y1 = (side * zoom for side in each.box_xyxy)
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=color, width=1 if each.is_part else 2)
        corner = (x0 + 2, y1 - FONT_PX - 3) if each.is_part else (x0 + 2, y0 + 1)
        draw.rectangle(draw.textbbox(corner, each.label, font=font), fill=color)
        draw.text(corner, each.label, fill="white", font=font)
    return picture


def _wrap(
    text: str, *, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int
) -> list[str]:
    """Break a text into lines that fit."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width_px:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
