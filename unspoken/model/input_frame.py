"""Between a picture's own pixels and the network's square: SAM's resize, and masks back.

SAM scales the long side to its input size, and pads at right and bottom (segment-anything,
`ResizeLongestSide` and `Sam.postprocess_masks`). Points and boxes go in, mask logits come out.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unspoken.model.sam_config import SamConfig

PREPROCESSING = "long-side-bilinear-1"
"""Names what `InputFrame` and `to_input` do: stands in the key of every kept embedding."""


@dataclass(frozen=True)
class InputFrame:
    """How one picture lies in the square. Sizes are (height, width) in pixels."""

    original_size_hw: tuple[int, int]
    input_size_hw: tuple[int, int]
    side: int

    @classmethod
    def of(cls, size_hw: tuple[int, int], config: SamConfig) -> "InputFrame":
        """The frame of a picture of this size."""
        scale = config.image_size / max(size_hw)
        height, width = (max(1, int(length * scale + 0.5)) for length in size_hw)
        return cls(size_hw, (height, width), config.image_size)

    def to_input(self, pixels: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (3, h, w) uint8 in the network's size, unpadded."""
        height, width = self.input_size_hw
        resized = pixels
        if self.input_size_hw != self.original_size_hw:
            image = Image.fromarray(pixels)
            resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1)

    def points_to_input(self, points: np.ndarray) -> Tensor:
        """(..., 2) x, y in the picture's pixels -> the same in the network's."""
        (height, width), (new_height, new_width) = self.original_size_hw, self.input_size_hw
        factors = np.array([new_width / width, new_height / height])
        return torch.from_numpy(np.asarray(points, dtype=np.float64) * factors).float()

    def boxes_to_input(self, boxes_xyxy: np.ndarray) -> Tensor:
        """(N, 4) xyxy in the picture's pixels -> the same in the network's."""
        boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 2, 2)
        return self.points_to_input(boxes).reshape(-1, 4)

    def logits_to_original(self, mask_logits: Tensor) -> Tensor:
        """(N, M, 4h, 4h) -> (N, M, H, W) logits in the picture's own pixels."""
        return self.logits_to(self.original_size_hw, mask_logits)

    def logits_to(self, size_hw: tuple[int, int], mask_logits: Tensor) -> Tensor:
        """(N, M, 4h, 4h) -> (N, M, *size_hw): of the picture's part of the square, resized."""
        square = F.interpolate(
            mask_logits, (self.side, self.side), mode="bilinear", align_corners=False
        )
        height, width = self.input_size_hw
        inside = square[..., :height, :width]
        return F.interpolate(inside, size_hw, mode="bilinear", align_corners=False)
