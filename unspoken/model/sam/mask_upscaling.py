"""Upscaling of low-resolution mask logits to masks in the picture's own pixels.

Masks are upscaled as in SAM, or refined by the picture's colours if the network's config has
`refines_masks`, because a small network's logits are coarser than the picture.

Legend: N masks, s side of their logits, H x W the picture, h x w the guide.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unspoken.model.sam.config import SamConfig
from unspoken.model.sam.input_frame import InputFrame
from unspoken.model.sam.mask_refinement import refine


@dataclass(frozen=True, eq=False)
class MaskUpscaler:
    """Upscales one picture's masks; `guide` is the picture, or None for no refinement."""

    frame: InputFrame
    guide: Tensor | None  # (3, h, w) uint8

    @classmethod
    def of(cls, pixels: np.ndarray, config: SamConfig) -> "MaskUpscaler":
        """Return the upscaler of a picture, (H, W, 3) uint8.

        The guide is the original picture or the network's input, whichever is smaller, so that the
        cost of a mask does not grow with the picture.
        """
        frame = InputFrame.of(pixels.shape[:2], config)
        if not config.refines_masks:
            return cls(frame, None)
        if max(frame.original_size_hw) > frame.side:
            return cls(frame, frame.to_input(pixels))
        return cls(frame, torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous())

    @property
    def num_bytes(self) -> int:
        """Memory of the guide, in bytes."""
        return 0 if self.guide is None else self.guide.nbytes

    def masks(self, mask_logits: Tensor) -> Tensor:
        """Upscale (N, s, s) logits to (N, H, W) bool masks."""
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
