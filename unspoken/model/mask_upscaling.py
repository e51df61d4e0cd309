"""Low-resolution mask logits to masks in the picture's own pixels, along the picture's own edges.

A small network's logits are coarser than the picture that it was shown. Where its config says so,
each pixel's probability becomes the mean of those around it, weighted by how alike their colours
are, a few times over: the bilateral filter (Tomasi and Manduchi, ICCV 1998), iterated as PAMR does
(Araslanov and Roth, arXiv:2005.08104, section 4.1). Figures: docs/decisions/0013.

Legend: N masks, s side of their logits, H x W the picture, h x w the guide.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unspoken.model.input_frame import InputFrame
from unspoken.model.sam_config import SamConfig

RADIUS = 2  # pixels of the guide
COLOUR_STD = 0.05  # of colours in 0 to 1, as a distance in three channels
ITERATIONS = 4


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


def refine(probabilities: Tensor, guide: Tensor) -> Tensor:
    """(N, h, w) probabilities by a guide of (3, h, w) uint8 -> (N, h, w)."""
    height, width = guide.shape[-2:]
    places = range(2 * RADIUS + 1)
    offsets = list(product(places, places))

    def shifted(padded: Tensor, offset: tuple[int, int]) -> Tensor:
        return padded[..., offset[0] : offset[0] + height, offset[1] : offset[1] + width]

    colours = guide.float() / 255
    around = F.pad(colours[None], (RADIUS,) * 4, mode="replicate")[0]
    weights = torch.stack(
        [
            (-((shifted(around, each) - colours) ** 2).sum(0) / (2 * COLOUR_STD**2)).exp()
            for each in offsets
        ]
    )  # (offsets, h, w)
    weights /= weights.sum(0)
    for _ in range(ITERATIONS):
        padded = F.pad(probabilities[:, None], (RADIUS,) * 4, mode="replicate")[:, 0]
        probabilities = torch.zeros_like(probabilities)
        for weight, offset in zip(weights, offsets, strict=True):
            probabilities.addcmul_(weight, shifted(padded, offset))
    return probabilities
