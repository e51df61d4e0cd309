"""Pictures of a dataset's rows: boxes coloured by the source of their label, and the caption below.

One size is for a page of its own, as in the demo; the other for the contact sheet of the card.
"""

import io
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from PIL import Image

from unspoken.errors import InvalidInput
from unspoken.imaging.drawing import COLORS, LabelledBox, add_caption, draw_boxes, tile
from unspoken.imaging.file_formats import FILE_FORMATS
from unspoken.imaging.images import decode_picture
from unspoken.runs import storage
from unspoken.runs.dataset.false_discovery import SOURCES, annotation_source
from unspoken.runs.dataset.rows import Row

SHEET_FILE = "contact-sheet.jpg"
LoadPicture = Callable[[Row], bytes | None]

_TILE_PX, _COLUMNS, _MAX_TILES, _CAPTION_LINES = 320, 4, 24, 2


def draw_row(
    row: Row, picture: Image.Image, *, scale: float, max_lines: int | None = None
) -> Image.Image:
    """Return the resized picture with its kept boxes, and the caption below it."""
    boxes = []
    for each in row.kept:
        source = annotation_source(each, row)
        text = f"{each.label} {each.score:.2f}"
        width_px = 3 if source == "named" else 2
        boxes.append(LabelledBox(each.box, text, COLORS[source], width_px))
    drawn = draw_boxes(picture, boxes, scale=scale)
    return add_caption(drawn, row.caption, max_lines=max_lines)


def draw_contact_sheet(dataset_dir: Path, rows: Iterable[Row], load_picture: LoadPicture) -> int:
    """Write contact-sheet.jpg of the first labelled rows; return the number of pictures shown.

    Pictures without boxes come last.
    """
    shown = list(islice(_tiles(rows, load_picture), _MAX_TILES))
    tiles = [drawn for _, drawn in sorted(shown, key=lambda each: not each[0].kept)]
    encoded = io.BytesIO()
    sheet = add_caption(tile(tiles, columns=_COLUMNS), "", legend=SOURCES)
    sheet.save(encoded, "JPEG", quality=90)
    storage.replace(dataset_dir / SHEET_FILE, encoded.getvalue())
    return len(tiles)


def _tiles(rows: Iterable[Row], load_picture: LoadPicture) -> Iterable[tuple[Row, Image.Image]]:
    for row in rows:
        encoded = load_picture(row) if row.status == "labelled" else None
        if encoded is None:
            continue
        try:
            picture = Image.fromarray(decode_picture(encoded, formats=FILE_FORMATS).pixels)
        except InvalidInput:
            continue
        scale = _TILE_PX / max(picture.size)
        yield row, draw_row(row, picture, scale=scale, max_lines=_CAPTION_LINES)
