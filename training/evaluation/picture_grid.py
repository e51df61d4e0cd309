"""A picture grid of a network's names: masks of true boxes with their predicted words."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from training.evaluation.measure import EncodeTexts
from training.evaluation.pictures import TruePicture
from unspoken.model.sam.checkpoint import LoadedSam
from unspoken.model.sam.mask_upscaling import MaskUpscaler
from unspoken.model.sam.semantic_sam import Prompts
from unspoken.model.text_space import TextSpace

TILE_PX = 320
COLUMNS = 4
RIGHT, WRONG = (30, 160, 70), (210, 50, 50)


@torch.inference_mode()
def write_grid(
    loaded: LoadedSam,
    pictures: Sequence[TruePicture],
    *,
    encode_texts: EncodeTexts,
    vocabulary: Sequence[str],
    path: Path,
) -> None:
    """Draw the mask and word of each whole's true box, green if the word is right, else red."""
    vectors = TextSpace.of(loaded, encode_texts).vectors(vocabulary)
    tiles = [_tile(loaded, picture, vectors, vocabulary) for picture in pictures]
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE_PX, rows * TILE_PX), "white")
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % COLUMNS * TILE_PX, place // COLUMNS * TILE_PX))
    sheet.save(path)


def _tile(
    loaded: LoadedSam, picture: TruePicture, vectors: np.ndarray, vocabulary: Sequence[str]
) -> Image.Image:
    model = loaded.model
    wholes = [each for each in picture.objects if not each.is_part]
    upscaler = MaskUpscaler.of(picture.pixels, model.config.sam)
    output = model.decode(
        model.embed_images([upscaler.frame.to_input(picture.pixels)]),
        Prompts(
            torch.zeros(len(wholes), dtype=torch.long),
            boxes=upscaler.frame.boxes_to_input(np.array([each.box_xyxy for each in wholes])),
        ),
        multimask_output=False,
    )
    masks = upscaler.masks(output.mask_logits[:, 0]).numpy()
    words = (output.mask_embedding[:, 0].numpy() @ vectors.T).argmax(1)
    canvas = picture.pixels.copy()
    colours = [
        RIGHT if vocabulary[word] == each.label else WRONG
        for word, each in zip(words, wholes, strict=True)
    ]
    for mask, colour in zip(masks, colours, strict=True):
        canvas[mask] = (0.55 * canvas[mask] + 0.45 * np.array(colour)).astype(np.uint8)
    scale = TILE_PX / max(canvas.shape[:2])
    size = (round(canvas.shape[1] * scale), round(canvas.shape[0] * scale))
    tile = Image.new("RGB", (TILE_PX, TILE_PX), "white")
    tile.paste(Image.fromarray(canvas).resize(size), (0, 0))
    pen = ImageDraw.Draw(tile)
    for each, word, colour in zip(wholes, words, colours, strict=True):
        x, y = each.box_xyxy[0] * scale, each.box_xyxy[1] * scale
        pen.text((x + 2, y + 2), vocabulary[word], fill=colour, stroke_width=2, stroke_fill="white")
    return tile
