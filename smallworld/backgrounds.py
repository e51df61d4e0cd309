"""Procedural backgrounds: ground and sky in random colours, with colour noise at three scales.

No photograph is used, so no licence applies to the backgrounds.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

# Mean colours (upper, lower) of a theme's background; other themes draw both at random.
PALETTES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "street": ((186, 200, 212), (120, 120, 124)),
    "garden": ((176, 208, 226), (112, 152, 84)),
    "farm": ((182, 212, 230), (150, 156, 88)),
    "sea": ((150, 200, 226), (44, 110, 150)),
    "sky": ((128, 182, 228), (196, 220, 236)),
    "forest": ((150, 178, 140), (84, 104, 62)),
    "kitchen": ((226, 216, 198), (178, 146, 112)),
    "home": ((222, 212, 200), (164, 130, 104)),
    "desk": ((214, 214, 208), (160, 122, 90)),
    "music": ((96, 76, 104), (132, 92, 76)),
}
# Half of the scenes ignore the palette, so that the background does not reveal classes.
PALETTE_P = 0.5
# Colours and noise are drawn on one small grid, which is enlarged once, because enlarging is most
# of the cost.
GRID = 48


def paint_background(rng: np.random.Generator, *, size_px: int, theme: str) -> np.ndarray:
    """Paint one background -> (H, W, 3) float32 in [0, 255]."""
    upper, lower = rng.uniform(40, 225, (2, 1)) + rng.uniform(-70, 70, (2, 3)) * rng.random((2, 1))
    if theme in PALETTES and rng.random() < PALETTE_P:
        upper, lower = np.array(PALETTES[theme], float) + rng.uniform(-30, 30, (2, 3))
    # Blend from the upper to the lower colour: a sharp horizon, or a gradient in any direction.
    angle = rng.uniform(-0.4, 0.4) if rng.random() < 0.6 else rng.uniform(0, 2 * np.pi)
    sharpness = rng.choice([1.0, 2.0, 40.0])
    axis = np.linspace(-1, 1, GRID)
    along = np.cos(angle) * axis[:, None] + np.sin(angle) * axis[None, :] - rng.uniform(-0.4, 0.4)
    weight = np.clip(along * sharpness * 0.5 + 0.5, 0, 1)[..., None]  # (G, G, 1)
    grid = upper + weight * (lower - upper)  # (G, G, 3)
    grid += _color_noise(rng, cells=4) * rng.uniform(5, 30)
    grid += _color_noise(rng, cells=GRID // 3) * rng.uniform(0, 12)
    canvas = _stretch(grid.clip(0, 255).astype(np.uint8), size_px).astype(np.float32)
    canvas += _grain(rng, size_px=size_px) * np.float32(rng.uniform(0, 8))
    return canvas


def _stretch(grid: np.ndarray, size_px: int) -> np.ndarray:
    """Smoothly enlarge (G, G, 3) uint8 to (size_px, size_px, 3)."""
    return np.asarray(Image.fromarray(grid).resize((size_px, size_px), Image.Resampling.BICUBIC))


def _color_noise(rng: np.random.Generator, *, cells: int) -> np.ndarray:
    """Draw smooth noise with `cells` bumps per side -> (G, G, 3) float of about unit spread."""
    bumps = rng.normal(128, 42, (cells, cells, 3)).clip(0, 255).astype(np.uint8)
    return (_stretch(bumps, GRID) - 128.0) / 42


def _grain(rng: np.random.Generator, *, size_px: int) -> np.ndarray:
    """Draw a fine grey texture -> (H, W, 1) float32. Long cells look like planks."""
    wide, high = (int(side) for side in rng.choice([1, 2, 3, 8], 2))
    shape = (size_px // high + 1, size_px // wide + 1)
    fine = rng.standard_normal(shape, dtype=np.float32).repeat(high, axis=0).repeat(wide, axis=1)
    return fine[:size_px, :size_px, None]
