"""A picture grid of a network's names: masks of true boxes with their predicted words."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.evaluation.measure import EncodeTexts
from training.evaluation.pictures import TruePicture
from unspoken.imaging.drawing import COLORS, LabelledMask, add_caption, draw_masks, tile
from unspoken.model.sam.checkpoint import LoadedSam
from unspoken.model.sam.mask_upscaling import MaskUpscaler
from unspoken.model.sam.semantic_sam import Prompts
from unspoken.model.text_space import TextSpace

TILE_PX = 400
COLUMNS = 4


@torch.inference_mode()
def write_grid(
    loaded: LoadedSam,
    pictures: Sequence[TruePicture],
    *,
    encode_texts: EncodeTexts,
    vocabulary: Sequence[str],
    path: Path,
) -> None:
    """Draw the mask and word of each whole's true box, coloured by whether the word is right."""
    vectors = TextSpace.of(loaded, encode_texts).vectors(vocabulary)
    tiles = [_tile(loaded, picture, vectors, vocabulary) for picture in pictures]
    add_caption(tile(tiles, columns=COLUMNS), "", legend=("right", "wrong")).save(path)


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
    labelled = [
        LabelledMask(mask, *_verdict(vocabulary[word], each.label))
        for mask, word, each in zip(masks, words, wholes, strict=True)
    ]
    image = Image.fromarray(picture.pixels)
    return draw_masks(image, labelled, scale=TILE_PX / max(image.size))


def _verdict(word: str, label: str) -> tuple[str, str]:
    """Return the text and the colour of a predicted word; a wrong one also shows the label."""
    if word == label:
        return word, COLORS["right"]
    return f"{word}, not {label}", COLORS["wrong"]
