"""Low-resolution mask logits to masks in the picture's own pixels.

As SAM does it, or refined by the picture's colours where the network's config says so: a small
network's logits are coarser than the picture that it was shown.

Legend: N masks, s side of their logits, H x W the picture, h x w the guide.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unspoken.model.input_frame import InputFrame
from unspoken.model.mask_refinement import refine
from unspoken.model.sam_config import SamConfig


@dataclass(frozen=True, eq=False)
class MaskUpscaler:
    """How one picture's masks are brought to its size; `guide` is None where logits are kept."""

    frame: InputFrame
    guide: Tensor | None  # (3, h, w) uint8

    @classmethod
    def of(cls, pixels: np.ndarray, config: SamConfig) -> "MaskUpscaler":
        """Of a picture, (H, W, 3) uint8.

        The guide is the picture as it is or as the network sees it, whichever is smaller: so what
        a mask costs does not grow with the picture.
        """
        frame = InputFrame.of(pixels.shape[:2], config)
        if not config.refines_masks:
            return cls(frame, None)
        if max(frame.original_size_hw) > frame.side:
            return cls(frame, frame.to_input(pixels))
        return cls(frame, torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous())

    @property
    def num_bytes(self) -> int:
        """Memory of the guide."""
        return 0 if self.guide is None else self.guide.nbytes

    def masks(self, mask_logits: Tensor) -> Tensor:
        """(N, s, s) logits -> (N, H, W) bool."""
        if self.guide is None:
            return self.frame.logits_to_original(mask_logits[None].float())[0] > 0
        size_hw = (self.guide.shape[1], self.guide.shape[2])
        logits = self.frame.logits_to(size_hw, mask_logits[None].float())[0]
        refined = refine(logits.sigmoid(), self.guide.to(logits.device)) - 0.5
        if size_hw != self.frame.original_size_hw:
            refined = F.interpolate(
                refined[None], self.frame.original_size_hw, mode="bilinear", align_corners=False
            )[0]
        return refined > 0
