"""Sample pictures during training: masks that the network predicts for true boxes."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.data.batches import TrainBatch
from unspoken.imaging.drawing import (
    SERIES,
    LabelledBox,
    LabelledMask,
    draw_boxes,
    draw_masks,
    tile,
)
from unspoken.model.sam.semantic_sam import Prompts, SemanticSam

MAX_PICTURES = 8


@torch.no_grad()
def draw_samples(model: SemanticSam, batch: TrainBatch, path: Path) -> None:
    """Write a PNG with a row of the batch's pictures and the predicted masks of true boxes."""
    image_index = batch.masks.image_index.tolist()
    chosen = sorted(set(image_index))[:MAX_PICTURES]
    if not chosen:
        return
    images = [batch.images[i] for i in chosen]
    index = torch.tensor([chosen.index(i) if i in chosen else -1 for i in image_index])
    kept = index >= 0
    output = model.decode(
        model.embed_images(images),
        Prompts(index[kept].to(model.device), boxes=batch.masks.boxes[kept].to(model.device)),
        multimask_output=False,
    )
    side = model.config.sam.image_size
    logits = torch.nn.functional.interpolate(
        output.mask_logits.float(), (side, side), mode="bilinear", align_corners=False
    )[:, 0].cpu()
    tiles = []
    for place, image in enumerate(images):
        height, width = image.shape[-2:]
        canvas = np.full((side, side, 3), 255, np.uint8)
        canvas[:height, :width] = image.permute(1, 2, 0).numpy()
        mine = (index[kept] == place).nonzero()[:, 0].tolist()
        colors = [SERIES[number % len(SERIES)] for number in range(len(mine))]
        masks = [
            LabelledMask((logits[unit] > 0).numpy(), "", color)
            for unit, color in zip(mine, colors, strict=True)
        ]
        boxes = [
            LabelledBox(tuple(batch.masks.boxes[kept][unit].tolist()), "", color, width_px=1)
            for unit, color in zip(mine, colors, strict=True)
        ]
        tiles.append(draw_boxes(draw_masks(Image.fromarray(canvas), masks), boxes))
    path.parent.mkdir(parents=True, exist_ok=True)
    tile(tiles, columns=len(tiles)).save(path)
