"""Draw boxes, masks, labels and captions on pictures, in one palette for pictures, plots and pages.

The colours are those of Okabe and Ito (Color Universal Design, 2008), which people with any common
form of colour blindness can tell apart.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from unspoken.imaging.boxes import box_area
from unspoken.imaging.label_layout import place_labels

BLUE, VERMILLION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY_BLUE, BLACK, GREY = "#e69f00", "#56b4e9", "#000000", "#6b6b6b"

COLORS: Final = MappingProxyType(
    {"named": BLUE, "implied": VERMILLION, "part": GREEN, "rejected": GREY}
    | {"whole": ORANGE, "right": SKY_BLUE, "wrong": PURPLE}
)
"""Meaning -> colour, the same in every picture and page."""
SERIES: Final = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK, GREY)
"""Colours of things without a meaning of their own, such as lines of a plot or queries."""

FONT_PX = 12
OPACITY = 0.35
MIN_WIDTH_PX = 576
"""Smaller pictures are enlarged, so that their labels are readable."""
_EDGE_PX = 3
_PAD_PX = 3


class LabelledBox(NamedTuple):
    """A box in pixels of the picture, with its text; an empty text has no label."""

    box_xyxy: tuple[float, float, float, float]
    text: str
    color: str
    width_px: int = 2


class LabelledMask(NamedTuple):
    """A mask of the picture, (H, W) bool, with its text; an empty text has no label."""

    mask: np.ndarray
    text: str
    color: str


def css_variables() -> str:
    """Return a CSS rule with the meanings' colours: `--named`, and `--on-named` for text on it."""
    lines = (
        f"--{name}: {color}; --on-{name}: {contrasting(color)};" for name, color in COLORS.items()
    )
    return f":root {{ {' '.join(lines)} }}\n"


def contrasting(color: str) -> str:
    """Return black or white, whichever is more readable on the colour (WCAG contrast)."""
    shares = np.array(ImageColor.getrgb(color)[:3]) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return "#ffffff" if 1.05 / (luminance + 0.05) >= (luminance + 0.05) / 0.05 else "#000000"


def draw_boxes(
    picture: Image.Image, boxes: Sequence[LabelledBox], *, scale: float = 1.0
) -> Image.Image:
    """Return the picture, resized by `scale`, with its boxes and their labels."""
    canvas = _resized(picture, scale)
    draw = ImageDraw.Draw(canvas)
    xyxy = np.array([each.box_xyxy for each in boxes], dtype=float).reshape(-1, 4) * scale
    # The largest first, so that the edges of small boxes are on top.
    for index in np.argsort(-box_area(xyxy), kind="stable").tolist():
        x0, y0, x1, y1 = xyxy[index]
        x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)  # Pillow's x1 and y1 are inclusive
        width_px = boxes[index].width_px
        # A white edge on both sides, so that a line is visible on a surface of its own colour.
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline="white", width=width_px + 2)
        draw.rectangle((x0, y0, x1, y1), outline=boxes[index].color, width=width_px)
    _draw_labels(canvas, xyxy, [each.text for each in boxes], [each.color for each in boxes])
    return canvas


def draw_masks(
    picture: Image.Image, masks: Sequence[LabelledMask], *, scale: float = 1.0
) -> Image.Image:
    """Return the picture, resized by `scale`, with tinted masks, their outlines and labels.

    Later masks are drawn over earlier ones. A mask without pixels is left out.
    """
    masks = [each for each in masks if each.mask.any()]
    pixels = np.asarray(_resized(picture, scale)).astype(np.float32)
    shapes = [_resized_mask(each.mask, (pixels.shape[1], pixels.shape[0])) for each in masks]
    colors = [np.array(ImageColor.getrgb(each.color), dtype=np.float32) for each in masks]
    untinted = pixels.copy()
    for shape, color in zip(shapes, colors, strict=True):
        # Not over the tint of other masks: the picture stays visible below many of them.
        pixels[shape] = (1 - OPACITY) * untinted[shape] + OPACITY * color
    for shape, color in zip(shapes, colors, strict=True):
        inner = _eroded(shape, _EDGE_PX)
        pixels[inner & ~_eroded(inner, 1)] = 255  # a white edge, as of boxes
        pixels[shape & ~inner] = color
    canvas = Image.fromarray(pixels.astype(np.uint8))
    xyxy = np.array([_extent(each.mask) for each in masks]).reshape(-1, 4) * scale
    _draw_labels(canvas, xyxy, [each.text for each in masks], [each.color for each in masks])
    return canvas


def scale_to_width(picture: Image.Image, *, min_width_px: int = MIN_WIDTH_PX) -> int:
    """Return the smallest whole factor that makes the picture at least `min_width_px` wide."""
    return max(1, -(-min_width_px // picture.width))


def add_caption(
    picture: Image.Image,
    text: str,
    *,
    legend: Sequence[str] = (),
    max_lines: int | None = None,
) -> Image.Image:
    """Return the picture on a white sheet with the text below it.

    legend: meanings in COLORS that are explained below the text. max_lines: later lines are left
    out.
    """
    font, line_px = _font(FONT_PX), FONT_PX + 4
    lines = _wrap(text, width_px=picture.width - 2 * _PAD_PX)[:max_lines]
    text_px = line_px * (len(lines) + bool(legend)) + 2 * _PAD_PX
    sheet = Image.new("RGB", (picture.width, picture.height + text_px), "white")
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    y = picture.height + _PAD_PX
    for line in lines:
        draw.text((_PAD_PX, y), line, fill="black", font=font)
        y += line_px
    x: float = _PAD_PX
    for name in legend:
        draw.rectangle((x, y + 3, x + 9, y + 12), fill=COLORS[name])
        draw.text((x + 14, y), name, fill="black", font=font)
        x += 14 + font.getlength(name) + 12
    return sheet


def tile(pictures: Sequence[Image.Image], *, columns: int, gap_px: int = 4) -> Image.Image:
    """Return the pictures in a grid on white, each cell as large as the largest picture.

    columns: at most so many; fewer if there are fewer pictures.
    """
    columns = max(1, min(columns, len(pictures)))
    cell_w = max((each.width for each in pictures), default=1) + gap_px
    cell_h = max((each.height for each in pictures), default=1) + gap_px
    rows = max(1, -(-len(pictures) // columns))
    sheet = Image.new("RGB", (columns * cell_w + gap_px, rows * cell_h + gap_px), "white")
    for index, each in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(each, (gap_px + column * cell_w, gap_px + row * cell_h))
    return sheet


def _draw_labels(
    canvas: Image.Image, boxes_xyxy: np.ndarray, texts: Sequence[str], colors: Sequence[str]
) -> None:
    font, draw = _font(FONT_PX), ImageDraw.Draw(canvas)
    shown = [index for index, text in enumerate(texts) if text]
    fitting = [_fit(texts[index], width_px=canvas.width - 2 * _PAD_PX) for index in shown]
    sizes = [(font.getlength(text) + 2 * _PAD_PX, FONT_PX + 4) for text in fitting]
    # Boxes without a text are passed too, so that labels avoid them. Their label has no area.
    sizes_wh = np.full((len(texts), 2), 1e-6)
    sizes_wh[shown] = np.array(sizes).reshape(-1, 2)
    labels = place_labels(boxes_xyxy, sizes_wh, canvas_wh=canvas.size)
    for index, text in zip(shown, fitting, strict=True):
        x0, y0, x1, y1 = labels[index]
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=colors[index])
        draw.text((x0 + _PAD_PX, y0), text, fill=contrasting(colors[index]), font=font)


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size_px)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow's wheels have FreeType"
    return font


def _drawable(text: str) -> str:
    """Replace characters that the font lacks: by the letter without its accent, else by '?'."""
    return "".join(char if char.isspace() or _is_in_font(char) else _plain(char) for char in text)


def _plain(char: str) -> str:
    letter = unicodedata.normalize("NFKD", char)[0]
    return letter if _is_in_font(letter) else "?"


@lru_cache(maxsize=4096)
def _is_in_font(char: str) -> bool:
    font = _font(FONT_PX)
    return bytes(font.getmask(char)) != bytes(font.getmask("\uffff"))  # the shape for "no glyph"


def _fit(text: str, *, width_px: float) -> str:
    """Shorten a text to the width, with an ellipsis."""
    font, text = _font(FONT_PX), _drawable(text)
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "…") > width_px:
        text = text[:-1]
    return text + "…"


def _wrap(text: str, *, width_px: float) -> list[str]:
    """Break a text into lines that fit; line breaks in the text stay."""
    font, lines = _font(FONT_PX), []
    for paragraph in _drawable(text).splitlines():
        lines.append("")
        for word in paragraph.split():
            longer = f"{lines[-1]} {word}".strip()
            if font.getlength(longer) <= width_px:
                lines[-1] = longer
            else:
                lines.append(word)
    return [_fit(line, width_px=width_px) for line in lines]


def _resized(picture: Image.Image, scale: float) -> Image.Image:
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _resized_mask(mask: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize(size_wh, Image.Resampling.BILINEAR)) >= 128


def _eroded(mask: np.ndarray, width_px: int) -> np.ndarray:
    """Remove the outer pixels of a mask. The picture's border counts as an edge."""
    for _ in range(width_px):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
