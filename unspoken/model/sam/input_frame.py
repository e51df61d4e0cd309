"""Coordinate transforms between a picture's own pixels and the network's square input.

SAM scales the long side to its input size, and pads at right and bottom (segment-anything,
`ResizeLongestSide` and `Sam.postprocess_masks`). Pixels, points and boxes are mapped to the
square; mask logits are mapped back.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unspoken.model.sam.config import SamConfig

PREPROCESSING = "long-side-bilinear-1"
"""Version name of the preprocessing by `InputFrame`; part of the key of every cached embedding."""


@dataclass(frozen=True)
class InputFrame:
    """Size and scale of one picture in the square. Sizes are (height, width) in pixels."""

    original_size_hw: tuple[int, int]
    input_size_hw: tuple[int, int]
    side: int

    @classmethod
    def of(cls, size_hw: tuple[int, int], config: SamConfig) -> "InputFrame":
        """Return the frame of a picture of this size."""
        scale = config.image_size / max(size_hw)
        height, width = (max(1, int(length * scale + 0.5)) for length in size_hw)
        return cls(size_hw, (height, width), config.image_size)

    def to_input(self, pixels: np.ndarray) -> Tensor:
        """Resize a picture, (H, W, 3) uint8 -> (3, h, w) uint8 in the network's size, unpadded."""
        height, width = self.input_size_hw
        resized = pixels
        if self.input_size_hw != self.original_size_hw:
            image = Image.fromarray(pixels)
            resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1)

    def points_to_input(self, points: np.ndarray) -> Tensor:
        """Map points, (..., 2) x, y, from the picture's pixels to the network's."""
        (height, width), (new_height, new_width) = self.original_size_hw, self.input_size_hw
        factors = np.array([new_width / width, new_height / height])
        return torch.from_numpy(np.asarray(points, dtype=np.float64) * factors).float()

    def boxes_to_input(self, boxes_xyxy: np.ndarray) -> Tensor:
        """Map boxes, (N, 4) xyxy, from the picture's pixels to the network's."""
        boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 2, 2)
        return self.points_to_input(boxes).reshape(-1, 4)

    def logits_to_original(self, mask_logits: Tensor) -> Tensor:
        """Resize logits to the picture's own pixels, (N, M, 4h, 4h) -> (N, M, H, W)."""
        return self.logits_to(self.original_size_hw, mask_logits)

    def logits_to(self, size_hw: tuple[int, int], mask_logits: Tensor) -> Tensor:
        """Crop logits to the picture and resize them, (N, M, 4h, 4h) -> (N, M, *size_hw)."""
        square = F.interpolate(
            mask_logits, (self.side, self.side), mode="bilinear", align_corners=False
        )
        height, width = self.input_size_hw
        inside = square[..., :height, :width]
        return F.interpolate(inside, size_hw, mode="bilinear", align_corners=False)
