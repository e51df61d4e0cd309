"""Draws labelled pictures: boxes of named labels in green, of implied labels in orange."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from unspoken.runs.dataset.picture_files import PictureFiles, Place
from unspoken.runs.dataset.rows import Row

NAMED_COLOR = (18, 140, 60)
IMPLIED_COLOR = (220, 80, 0)
MIN_WIDTH_PX = 576
FONT_PX = 13


def draw_rows(rows: Sequence[Row], shards: Path, out: Path) -> list[Path]:
    """Draw every labelled row of a folder of tar shards; return the written files, in order."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = PictureFiles(shards)
    written = []
    for row in rows:
        if row.status == "labelled":
            place = Place.of(row)._replace(shard=Path(row.source_shard).name)
            path = out / f"{Path(row.key).name}.png"
            draw_row(row, Image.fromarray(pictures.read(place).pixels)).save(path)
            written.append(path)
    return written


def draw_row(row: Row, picture: Image.Image) -> Image.Image:
    """Return the picture with its kept boxes and the caption below; small ones are enlarged."""
    zoom = max(1, -(-MIN_WIDTH_PX // picture.width))
    font = ImageFont.load_default(size=FONT_PX)
    size = (picture.width * zoom, picture.height * zoom)
    lines = textwrap.wrap(f"“{row.caption}”  green: named, orange: implied", width=size[0] // 7)
    sheet = Image.new("RGB", (size[0], size[1] + len(lines) * (FONT_PX + 5) + 8), "white")
    sheet.paste(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC), (0, 0))
    draw = ImageDraw.Draw(sheet)
    # Largest box first, so that labels of parts are drawn on top of their whole's box.
    for each in sorted(row.kept, key=lambda found: -_area(found.box)):
        color = NAMED_COLOR if each.named else IMPLIED_COLOR
        x0, y0, x1, y1 = (side * zoom for side in each.box)
        draw.rectangle((x0, y0, x1, y1), outline=color, width=3 if each.named else 2)
        text = f"{each.label} {each.score:.2f}"
        place = (x0 + 2, max(0, y0 + 1))
        draw.rectangle(draw.textbbox(place, text, font=font), fill=color)
        draw.text(place, text, fill="white", font=font)
    draw.multiline_text((4, size[1] + 3), "\n".join(lines), fill="black", font=font, spacing=3)
    return sheet


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
